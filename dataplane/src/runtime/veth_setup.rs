//! Inner packets over AF_XDP for a node: the program on the interface, its queues dealt out to
//! workers, its neighbours looked after.

use std::sync::Arc;

use tracing::info;

use crate::engine::port::{InnerRx, InnerTx};
use crate::io::xdp::{Interface, PathTable, Queues, VethConfig, VethDriver, XdpProgram, XdpQueue};

use super::paths::{LocalAddressKeeper, LocalAddressWatch, PathResolver};
use super::setup::{InnerPorts, StartError};

/// An inner interface that is there and can be opened.
#[derive(Debug)]
pub(super) struct Veth {
    name: String,
    queues: usize,
    mtu: u16,
    config: VethConfig,
}

/// An open inner interface.
pub(super) struct OpenVeth {
    pub(super) ports: Vec<InnerPorts>,
    pub(super) keeper: VethKeeper,
    pub(super) notes: Vec<String>,
}

/// What an open inner interface stands on; to be dropped after the workers.
#[derive(Debug)]
pub(super) struct VethKeeper {
    _resolver: PathResolver,
    _program: LocalAddressKeeper,
}

impl Veth {
    /// Looks the interface up.
    pub(super) fn find(name: String) -> Result<Self, StartError> {
        let interface = Interface::by_name(&name)?;
        let (Queues::Exactly(queues) | Queues::AtMost(queues)) = interface.queues()?;
        Ok(Self {
            name,
            queues: queues as usize,
            mtu: u16::try_from(interface.mtu()).unwrap_or(u16::MAX),
            config: VethConfig::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The interface's MTU: it is the operator's, so it counts.
    pub(super) const fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Its receive queues: there can be no more workers, because each delivers to a queue.
    pub(super) const fn queues(&self) -> usize {
        self.queues
    }

    /// The frames that each outer queue must have besides its own.
    pub(super) const fn frames(&self) -> u32 {
        self.config.frames()
    }

    /// Opens it for `workers` workers. Worker *n* has the queues *n*, *n* + `workers`, … and
    /// forwards what comes by `outer`\[*n*\].
    pub(super) fn open(
        &self,
        outer: &mut [XdpQueue],
        workers: usize,
    ) -> Result<OpenVeth, StartError> {
        if workers > self.queues {
            return Err(StartError::Queues {
                interface: self.name.clone(),
                queues: self.queues,
                workers,
            });
        }
        let system = |step| move |source| StartError::System { step, source };
        let paths = PathTable::new().map_err(system("make the path table"))?;
        // Without the node's mark: that is for what leaves by the tunnel.
        let resolver = PathResolver::start(Arc::clone(&paths), 0)
            .map_err(system("start the path resolver"))?;
        let told = |source| StartError::System {
            step: "tell the XDP program the local addresses",
            source,
        };
        let mac = Interface::by_name(&self.name)?.mac();
        let mut program = XdpProgram::load_inner(mac)?;
        let mut watch = LocalAddressWatch::open().map_err(told)?;
        watch.tell(&mut program).map_err(told)?;
        let queues = VethDriver::open(
            &self.name,
            &mut program,
            &self.config,
            &paths,
            outer,
            workers,
        )?;

        let mut notes = Vec::new();
        let sharing = outer.len().min(workers);
        if queues.iter().take(sharing).any(|queue| !queue.forwards()) {
            notes.push(if outer.iter().any(XdpQueue::zero_copy) {
                format!(
                    "packets to {} are copied: the outer sockets have zero copy, and memory is \
                     shared among equals only; `Outer::copy_only` makes them equal",
                    self.name
                )
            } else {
                format!(
                    "packets to {} are copied: the kernel does not let its sockets share the outer \
                     ones' memory",
                    self.name
                )
            });
        }
        let mut receivers: Vec<Vec<Box<dyn InnerRx>>> = (0..workers).map(|_| Vec::new()).collect();
        let mut senders: Vec<Box<dyn InnerTx>> = Vec::new();
        for (number, queue) in queues.into_iter().enumerate() {
            info!("queue {number} of {}: {}", self.name, queue.info().mode);
            let (rx, tx) = queue.split();
            if let Some(worker) = receivers.get_mut(number % workers) {
                worker.push(Box::new(rx));
            }
            senders.extend(tx.map(|tx| Box::new(tx) as Box<dyn InnerTx>));
        }
        Ok(OpenVeth {
            ports: receivers.into_iter().zip(senders).collect(),
            keeper: VethKeeper {
                _resolver: resolver,
                _program: watch.keep(program).map_err(told)?,
            },
            notes,
        })
    }
}
