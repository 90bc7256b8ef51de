//! AF_XDP for a node: the program on the interface, its queues dealt out to workers.

use core::time::Duration;
use std::sync::Arc;
use std::thread;

use tracing::{debug, info};

use crate::engine::port::OuterTx;
use crate::io::udp::UdpPort;
use crate::io::xdp::{
    Interface, Mode, PathTable, SendTest, Transmit, XdpConfig, XdpDriver, XdpProgram, XdpQueue,
    ZeroCopy, test_sending,
};
use crate::wire::message::DATA_OVERHEAD;

use super::outer_choice::{Choice, choose, wants_test};
use super::outer_pair::OuterPair;
use super::outer_settings::OuterSettings;
use super::paths::{LocalAddressWatch, PathResolver};
use super::setup::{OpenOuter, OuterPorts, OuterRequest, StartError};
use super::veth_setup::Veth;
use super::wishes::{XdpSend, XdpWish};

/// How long a test frame may take: cards send one in microseconds.
const TEST_PATIENCE: Duration = Duration::from_millis(100);

/// Opens AF_XDP as `wish` says, beside the UDP socket.
pub(super) fn open(
    wish: &XdpWish,
    udp: &UdpPort,
    request: &OuterRequest<'_>,
) -> Result<OpenOuter, StartError> {
    let paths = PathTable::new().map_err(|source| StartError::System {
        step: "make the path table",
        source,
    })?;
    let mut settings = OuterSettings::default();
    if wish.send != XdpSend::ReceiveOnly {
        let resolver = PathResolver::start(Arc::clone(&paths), request.fwmark);
        settings.resolver = Some(resolver.map_err(|source| StartError::System {
            step: "start the path resolver",
            source,
        })?);
    }
    let transmit = (wish.send != XdpSend::ReceiveOnly).then(|| Transmit::new(udp.port(), paths));
    settings.source_port = transmit
        .as_ref()
        .map(|transmit| Arc::clone(&transmit.source_port));
    let mut config = XdpConfig {
        attach: if wish.generic_only {
            Mode::Generic
        } else {
            Mode::Auto
        },
        zero_copy: if wish.copy_only {
            ZeroCopy::Never
        } else {
            ZeroCopy::Auto
        },
        largest_datagram: request.mtu.saturating_add(DATA_OVERHEAD as u16),
        busy_poll: wish.busy_poll,
        tx_checksum: wish.tx_checksum,
        transmit,
        spare_frames: request.veth.map_or(0, Veth::frames),
        ..XdpConfig::default()
    };
    let mut program = XdpProgram::load(&[udp.port()])?;
    let addresses = |source| StartError::System {
        step: "tell the XDP program the local addresses",
        source,
    };
    let mut watch = LocalAddressWatch::open().map_err(addresses)?;
    watch.tell(&mut program).map_err(addresses)?;
    let mut queues = XdpDriver::open(&wish.interface, &mut program, &config)?;
    let Choice { xdp_sends, reason } = judge(wish, &mut queues)?;
    if !xdp_sends && config.transmit.is_some() {
        drop(queues);
        config.transmit = None;
        settings.resolver = None;
        settings.source_port = None;
        queues = XdpDriver::open(&wish.interface, &mut program, &config)?;
    }
    // Every queue lacks the same: one says it.
    let mut notes = queues.iter().map(XdpQueue::lacks);
    let notes = notes.find(|lacks| !lacks.is_empty());
    let notes = notes.unwrap_or_default().to_vec();
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let workers = request.workers.unwrap_or_else(|| {
        let most = request.veth.map_or(usize::MAX, Veth::queues);
        queues.len().min(cpus).min(most).max(1)
    });
    let veth = match request.veth {
        Some(veth) => Some(veth.open(&mut queues, workers)?),
        None => None,
    };

    let mut ports: Vec<OuterPorts> = (0..workers)
        .map(|_| (Vec::new(), Box::new(udp.tx()) as Box<dyn OuterTx>))
        .collect();
    for (number, queue) in queues.into_iter().enumerate() {
        info!(
            "queue {number} of {}: {}",
            wish.interface,
            queue.info().mode
        );
        let (rx, tx) = queue.split();
        let (receivers, sender) = &mut ports[number % workers];
        // A worker sends on the first of its queues: one path keeps the order.
        if let Some(tx) = tx.filter(|_| receivers.is_empty()) {
            *sender = Box::new(OuterPair::new(
                tx,
                udp.tx(),
                usize::from(config.largest_datagram),
            ));
        }
        receivers.push(Box::new(rx));
    }
    // What XDP passes: fragments, other interfaces, queues that appeared later.
    if let Some((receivers, _)) = ports.first_mut() {
        receivers.push(Box::new(udp.rx()));
    }
    settings.program = Some(watch.keep(program).map_err(addresses)?);
    settings.udp = Some(udp.clone());
    Ok(OpenOuter {
        ports,
        control_tx: Box::new(udp.tx()),
        settings,
        reason,
        notes,
        veth,
    })
}

/// Finds out what the open `queues` are good for, and who is to send.
fn judge(wish: &XdpWish, queues: &mut [XdpQueue]) -> Result<Choice, StartError> {
    let zero_copy = queues.iter().all(XdpQueue::zero_copy);
    let test = if wants_test(wish.send, zero_copy) {
        let interface = Interface::by_name(&wish.interface)?;
        test_sending(&interface, queues, TEST_PATIENCE)
    } else {
        SendTest::Unknown("it does not matter".into())
    };
    debug!("test of the TX rings of {}: {test:?}", wish.interface);
    Ok(choose(wish.send, &wish.interface, zero_copy, &test))
}
