//! `ringspan up`: from configuration to a running tunnel, and back.

pub(crate) mod machine;
pub(crate) mod tunnel;

use std::io::{self, Write as _};
use std::path::Path;

use ringspan::control::RejectReason;
use ringspan::runtime::node::NodeError;
use ringspan::runtime::setup::StartError;

use crate::cli::Up;
use crate::config::{self, Config, Loaded, Note, Overrides};
use crate::failure::Failure;
use crate::net::SetupError;
use crate::signals::EndSignals;
use crate::status::StatusSocket;
use crate::{logging, privilege};

pub(crate) use machine::MachineError;

/// Why a tunnel did not come up, or not down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum UpError {
    /// The configuration does not fit this machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}; nothing was left behind")]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Peer(RejectReason),
    #[error("the data plane stopped by itself: see the log, and please report it")]
    Stopped,
    #[error("could not be shut down cleanly: {0}")]
    Shutdown(#[from] NodeError),
    #[error("shut down, but left behind: {0}")]
    LeftBehind(String),
    #[error("{doing}: {source}")]
    Io {
        doing: &'static str,
        source: io::Error,
    },
}

impl UpError {
    /// Whether another configuration would help.
    pub(crate) fn is_configuration(&self) -> bool {
        matches!(self, Self::Machine(_) | Self::Peer(_))
    }
}

/// Runs the tunnel until a signal ends it, or only checks its configuration.
pub(crate) fn run(options: &Up) -> Result<(), Failure> {
    let overrides = Overrides {
        name: options.name.clone(),
        driver: options.outer,
        interface: options.interface.clone(),
        spin: options.spin,
        busy_poll: options.busy_poll,
    };
    let Loaded { config, notes } = config::load(&options.config, &overrides)?;
    if options.check {
        return Ok(report(&options.config, &config, &notes)?);
    }

    logging::start(config.log);
    for note in &notes {
        tracing::warn!("{}: {note}", options.config.display());
    }
    let card =
        machine::check(&config.name, &config.outer, config.listen_port).map_err(UpError::from)?;
    privilege::check(config.outer.driver)?;
    // Before any thread is started: the socket's mode comes from the process's umask.
    let socket = StatusSocket::bind(&options.run_dir.path, &config.name)?;
    let signals = EndSignals::catch().map_err(|source| UpError::Io {
        doing: "catching signals",
        source,
    })?;
    Ok(tunnel::run(config, card, socket, signals)?)
}

/// What `--check` found.
fn report(path: &Path, config: &Config, notes: &[Note]) -> io::Result<()> {
    let mut errors = io::stderr().lock();
    for note in notes {
        writeln!(errors, "warning: {}: {note}", path.display())?;
    }
    writeln!(
        io::stdout().lock(),
        "{}: good: tunnel {}, peers: {}",
        path.display(),
        config.name,
        config.peers.len()
    )
}
