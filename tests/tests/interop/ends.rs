//! The two ends of a tunnel, whichever implementation they are.

use std::error::Error;
use std::process::{ExitCode, Stdio};

use boringtun::device::{DeviceConfig as BoringtunConfig, DeviceHandle};
use ringspan_tests::child::Role;
use ringspan_tests::netns::{Namespace, unique_name};
use ringspan_tests::peers::{Device, DeviceConfig, PeerStatus, wireguard_go};
use ringspan_tests::privilege::Need;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// An implementation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    WireguardGo,
    Boringtun,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::WireguardGo => "wireguard_go",
            Self::Boringtun => "boringtun",
        }
    }

    pub(crate) fn needs(self) -> Vec<Need> {
        match self {
            Self::WireguardGo => vec![Need::Namespaces, Need::Tun, wireguard_go::NEED],
            Self::Boringtun => vec![Need::Namespaces, Need::Tun],
        }
    }

    /// Starts it in `namespace`; its interface is not up yet.
    pub(crate) fn start(
        self,
        namespace: &Namespace,
        config: &DeviceConfig,
    ) -> Result<Box<dyn End>> {
        Ok(match self {
            Self::WireguardGo => Box::new(wireguard_go::start(namespace, config)?),
            Self::Boringtun => Box::new(boringtun(namespace, config)?),
        })
    }
}

/// A running implementation.
pub(crate) trait End {
    fn interface(&self) -> &str;
    /// What it says of its one peer.
    fn peer(&self) -> Result<PeerStatus>;
}

impl End for Device {
    fn interface(&self) -> &str {
        Self::interface(self)
    }

    fn peer(&self) -> Result<PeerStatus> {
        let [peer] = <[PeerStatus; 1]>::try_from(self.peers()?)
            .map_err(|peers| format!("one peer expected: {peers:?}"))?;
        Ok(peer)
    }
}

/// This binary as a boringtun device; the argument is the interface.
pub(crate) const BORINGTUN: Role = Role {
    name: "boringtun",
    main: |arguments| {
        let config = BoringtunConfig {
            n_threads: 2,
            use_multi_queue: false,
            ..BoringtunConfig::default()
        };
        match DeviceHandle::new(&arguments.join(" "), config) {
            Ok(mut device) => {
                device.wait();
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("boringtun: {error}");
                ExitCode::FAILURE
            }
        }
    },
};

fn boringtun(namespace: &Namespace, config: &DeviceConfig) -> Result<Device> {
    let name = unique_name("bor");
    let process = namespace.spawn_role(&BORINGTUN, &[&name], |command| {
        command.stdout(Stdio::null());
    })?;
    Ok(Device::configure(name, process, config)?)
}
