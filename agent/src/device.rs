//! `ringspan INTERFACE`: in place of `wireguard-go INTERFACE`. Makes an interface that knows
//! nothing, and leaves it to `wg` and `wg-quick`; ends with the interface.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringspan::control::uapi::{SocketError, UapiServer, UapiSocket};
use ringspan::runtime::wishes::MIN_MTU;
use ringspan::{Dataplane, Inner, StartError};

use crate::cli;
use crate::config::{DEFAULT_MTU, LogLevel, MAX_SPIN_MICROS, OuterChoice, OuterDriver};
use crate::failure::Failure;
use crate::net::{LinkWatch, interface_index};
use crate::signals::EndSignals;
use crate::socket_watch::SocketWatch;
use crate::status::StatusSocket;
use crate::up::tunnel::{Serving, io_error, outer, status};
use crate::up::{UpError, machine};
use crate::{logging, privilege};

/// What a child says when the interface is there.
const UP: &[u8] = b"up\n";

/// Where `ringspan status` looks.
const RUN_DIR: &str = "/run/ringspan";

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DeviceError {
    #[error("{variable}={value:?} is not understood: {expected}")]
    Setting {
        variable: &'static str,
        value: OsString,
        expected: &'static str,
    },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the process for the background cannot be started: {0}")]
    Background(io::Error),
}

/// Runs the interface `name`, here or in a process of its own.
pub(crate) fn main(name: &str, options: &cli::Device) -> ExitCode {
    let here = options.foreground || env::var_os("WG_PROCESS_FOREGROUND").is_some_and(|v| v == "1");
    let outcome = if here {
        Settings::read().and_then(|settings| run(name, &settings, options.tell_parent))
    } else {
        match background(name) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if options.tell_parent {
                // The parent shows it: this process may have no terminal.
                let _ = writeln!(io::stdout(), "error: {failure}");
            } else {
                eprintln!("error: {failure}");
            }
            failure.code()
        }
    }
}

/// What the environment says.
struct Settings {
    outer: OuterChoice,
    mtu: u16,
    /// Microseconds of polling before sleep.
    spin: u16,
    log: LogLevel,
}

impl Settings {
    fn read() -> Result<Self, Failure> {
        Ok(Self {
            outer: setting(
                "RINGSPAN_OUTER",
                "write auto, auto:CARD, xdp:CARD or udp",
                parse_outer,
            )?
            .unwrap_or_default(),
            mtu: setting("RINGSPAN_MTU", "write 576 to 65455", |text| {
                text.parse()
                    .ok()
                    .filter(|mtu| (MIN_MTU..=u16::MAX - 80).contains(mtu))
            })?
            .unwrap_or(DEFAULT_MTU),
            spin: setting(
                "RINGSPAN_SPIN",
                "write 0 to 10000 microseconds of polling before sleep",
                |text| text.parse().ok().filter(|spin| *spin <= MAX_SPIN_MICROS),
            )?
            .unwrap_or(0),
            // Like wireguard-go, whatever else it says means only errors.
            log: match env::var("LOG_LEVEL").as_deref() {
                Ok("verbose" | "debug") => LogLevel::Debug,
                Ok("silent") => LogLevel::Off,
                _ => LogLevel::Error,
            },
        })
    }
}

/// The value of an environment variable; `None` where it is not set, or empty.
fn setting<T>(
    variable: &'static str,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    match value.to_str().and_then(parse) {
        Some(read) => Ok(Some(read)),
        None => Err(DeviceError::Setting {
            variable,
            value,
            expected,
        }
        .into()),
    }
}

fn parse_outer(text: &str) -> Option<OuterChoice> {
    let (driver, card) = match text.split_once(':') {
        Some((_, "")) => return None,
        Some((driver, card)) => (driver, Some(card.to_owned())),
        None => (text, None),
    };
    let driver = match (driver, &card) {
        ("auto", _) => OuterDriver::Auto,
        ("xdp", _) => OuterDriver::Xdp,
        ("udp", None) => OuterDriver::Udp,
        _ => return None,
    };
    Some(OuterChoice {
        driver,
        interface: card,
        ..OuterChoice::default()
    })
}

/// Starts this program again, and waits until its interface is there. Nothing is left running
/// where it is not.
fn background(name: &str) -> Result<ExitCode, Failure> {
    let failed = DeviceError::Background;
    let logs = env::var_os("LOG_LEVEL").is_some_and(|level| level != "silent");
    let program = env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .args(["--foreground", "--tell-parent", "--", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // As wireguard-go: who sets a level wants to see something.
        .stderr(if logs {
            Stdio::inherit()
        } else {
            Stdio::null()
        })
        .spawn()
        .map_err(failed)?;
    let mut said = Vec::new();
    if let Some(stdout) = &mut child.stdout {
        let mut byte = [0];
        while said != UP && stdout.read(&mut byte).map_err(failed)? > 0 {
            said.extend_from_slice(&byte);
        }
    }
    if said == UP {
        return Ok(ExitCode::SUCCESS);
    }
    io::stderr().write_all(&said)?;
    let status = child.wait().map_err(failed)?;
    // Without a code a signal ended it.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Makes the interface and its sockets, and serves them until a signal comes or the interface
/// goes.
fn run(name: &str, settings: &Settings, tell_parent: bool) -> Result<(), Failure> {
    let started = Instant::now();
    if tell_parent {
        // Out of the reach of the terminal's signals. Fails where it is so already.
        let _ = rustix::process::setsid();
    }
    logging::start(settings.log);
    let card = machine::check(name, &settings.outer, 0).map_err(UpError::from)?;
    privilege::check(settings.outer.driver)?;
    let socket = UapiSocket::bind(name).map_err(DeviceError::from)?;
    let socket_watch =
        SocketWatch::start(socket.path()).map_err(io_error("watching the socket"))?;
    let status_socket = StatusSocket::bind(RUN_DIR.as_ref(), name)?;
    let mut signals = EndSignals::catch().map_err(io_error("catching signals"))?;

    let plane = start(name, settings, card).map_err(UpError::from)?;
    let plane = Arc::new(plane);
    let index = interface_index(name).map_err(io_error("finding the tunnel's interface"))?;
    let watch = LinkWatch::start(index).map_err(io_error("watching the tunnel's interface"))?;
    let shown = {
        let (plane, name, mtu) = (Arc::clone(&plane), name.to_owned(), settings.mtu);
        status_socket.serve(move || status(&plane, &name, mtu, &[], started))
    };
    let shown = shown.map_err(io_error("starting the status thread"))?;
    let uapi = UapiServer::start(socket, Arc::clone(&plane));
    let uapi = uapi.map_err(io_error("starting the configuration thread"))?;
    if tell_parent {
        let mut stdout = io::stdout();
        stdout.write_all(UP)?;
        stdout.flush()?;
    }
    tracing::info!("interface {name} is there, for wg to configure");

    let outcome = Serving {
        plane: &plane,
        peers: &[],
        resolver: None,
        watch: &watch,
        signals: &mut signals,
        socket: Some(&socket_watch),
    }
    .run();
    drop((uapi, shown));
    // The servers' threads have ended, and with them the only other owners.
    if let Some(plane) = Arc::into_inner(plane) {
        plane.shutdown().map_err(UpError::from)?;
    }
    Ok(outcome?)
}

fn start(name: &str, settings: &Settings, card: Option<String>) -> Result<Dataplane, StartError> {
    Dataplane::without_identity()
        .listen_port(0)
        .outer(outer(&settings.outer, card))
        .inner(Inner::tun(name).mtu(settings.mtu))
        .spin(Duration::from_micros(settings.spin.into()))
        .start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_driver_may_name_its_card() {
        let read = |text| parse_outer(text).map(|choice| (choice.driver, choice.interface));
        let card = Some("eth0".to_owned());
        assert_eq!(read("auto"), Some((OuterDriver::Auto, None)));
        assert_eq!(read("auto:eth0"), Some((OuterDriver::Auto, card.clone())));
        assert_eq!(read("xdp:eth0"), Some((OuterDriver::Xdp, card)));
        assert_eq!(read("udp"), Some((OuterDriver::Udp, None)));
        for bad in ["", "xdp:", "udp:eth0", "dpdk", "XDP"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
