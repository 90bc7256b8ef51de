//! How a command fails, and the exit status that says so.

use std::io;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::device::DeviceError;
#[cfg(feature = "discovery")]
use crate::join::JoinError;
use crate::keys::KeysError;
use crate::privilege::MissingPrivilege;
use crate::status::{ClientError, ServerError};
use crate::up::UpError;

/// Anything that ends the process with a message.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum Failure {
    Config(#[from] ConfigError),
    Privilege(#[from] MissingPrivilege),
    Up(#[from] UpError),
    #[cfg(feature = "discovery")]
    Join(#[from] JoinError),
    Device(#[from] DeviceError),
    Socket(#[from] ServerError),
    Status(#[from] ClientError),
    Keys(#[from] KeysError),
    Io(#[from] io::Error),
}

impl Failure {
    /// The exit status, as `--help` lists them.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) => 3,
            Self::Up(error) if error.is_configuration() => 3,
            #[cfg(feature = "discovery")]
            Self::Join(error) if error.is_configuration() => 3,
            Self::Device(DeviceError::Setting { .. }) => 3,
            Self::Privilege(_) | Self::Status(ClientError::Denied { .. }) => 4,
            _ => 1,
        })
    }

    /// Whether it only means that nobody reads the output any more, as in `ringspan status | head`.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        let (Self::Status(ClientError::Output(error))
        | Self::Keys(KeysError::Output(error))
        | Self::Io(error)) = self
        else {
            return false;
        };
        error.kind() == io::ErrorKind::BrokenPipe
    }
}
