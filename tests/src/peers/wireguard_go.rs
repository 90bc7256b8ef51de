//! `wireguard-go`, the reference userspace implementation, from its Debian package.

use std::io;

use super::{Device, DeviceConfig};
use crate::netns::{Namespace, unique_name};
use crate::privilege::{self, Need};

/// What a test against it needs.
pub const NEED: Need = Need::Program("wireguard-go");

/// Starts it in `namespace` and configures it. Its interface is down and has no address.
///
/// # Errors
/// When it is not installed, cannot make its interface, or refuses the configuration.
pub fn start(namespace: &Namespace, config: &DeviceConfig) -> io::Result<Device> {
    let program = privilege::program("wireguard-go")
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "wireguard-go"))?;
    let name = unique_name("wgo");
    let process = namespace
        .spawn(program, |command| {
            command.args(["--foreground", &name]);
            command.env("LOG_LEVEL", "error");
            // It boasts of the kernel's own implementation on standard output.
            command.stdout(std::process::Stdio::null());
            command.stderr(std::process::Stdio::null());
        })
        .map_err(io::Error::other)?;
    Device::configure(name, process, config)
}
