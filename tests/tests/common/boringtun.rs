//! Cloudflare's implementation as a peer in a process of its own.

use std::process::ExitCode;

use boringtun::device::{DeviceConfig as BoringtunConfig, DeviceHandle};
use ringspan_tests::child::Role;

/// The word after the interface for a device that can change its address: a socket that is
/// connected to a peer, which is boringtun's way, cannot.
pub(crate) const UNCONNECTED: &str = "unconnected";

/// This binary as a boringtun device; the arguments are the interface, and [`UNCONNECTED`] if that
/// is wanted.
pub(crate) const BORINGTUN: Role = Role {
    name: "boringtun",
    main: |arguments| {
        let config = BoringtunConfig {
            n_threads: 2,
            use_multi_queue: false,
            use_connected_socket: !arguments.iter().any(|word| word == UNCONNECTED),
            ..BoringtunConfig::default()
        };
        match DeviceHandle::new(arguments.first().map_or("", String::as_str), config) {
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
