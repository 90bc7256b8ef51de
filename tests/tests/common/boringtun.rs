//! Cloudflare's implementation as a peer in a process of its own.

use std::process::ExitCode;

use boringtun::device::{DeviceConfig as BoringtunConfig, DeviceHandle};
use ringspan_tests::child::Role;

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
