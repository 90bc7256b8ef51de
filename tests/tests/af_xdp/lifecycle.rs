//! Opening, closing, and opening again.

use std::time::Duration;

use ringspan::engine::port::Pollable;
use ringspan::io::xdp::{AttachedMode, Mode, XdpConfig, XdpDriver, XdpError, XdpProgram, ZeroCopy};
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::privilege::Need;

use crate::bed::{Bed, FAMILIES, NEAR, OpenError, PORT, receive};

pub(crate) fn add(suite: Suite, needs: &[Need]) -> Suite {
    suite
        .test(
            "a_program_serves_one_interface",
            needs,
            a_program_serves_one_interface,
        )
        .test(
            "a_queue_can_be_bound_again",
            needs,
            a_queue_can_be_bound_again,
        )
        .test("a_bound_queue_is_busy", needs, a_bound_queue_is_busy)
        .test(
            "the_program_outlives_no_socket",
            needs,
            the_program_outlives_no_socket,
        )
        .test(
            "zero_copy_can_be_insisted_on",
            needs,
            zero_copy_can_be_insisted_on,
        )
        .test("a_receiver_has_no_sender", needs, a_receiver_has_no_sender)
        .test(
            "a_failed_open_leaves_nothing",
            needs,
            a_failed_open_leaves_nothing,
        )
}

fn exchange(bed: &Bed, rx: &mut ringspan::io::xdp::XdpRx) -> TestResult {
    let socket = bed.socket(FAMILIES[0].1)?;
    socket.send_to(b"hello", (FAMILIES[0].0, PORT))?;
    assert_eq!(
        receive(rx, 1).first().ok_or("a datagram")?.payload,
        b"hello"
    );
    Ok(())
}

fn a_queue_can_be_bound_again() -> TestResult {
    let bed = Bed::new(1)?;
    for _ in 0..4 {
        // The queue of the last round is still in use when this one begins.
        let (_program, mut rx, _tx) = bed.open_one(&bed.config(Mode::Native))?;
        exchange(&bed, &mut rx)?;
    }
    Ok(())
}

fn a_bound_queue_is_busy() -> TestResult {
    let bed = Bed::new(1)?;
    let config = XdpConfig {
        bind_patience: Duration::from_millis(20),
        ..XdpConfig::default()
    };
    let (mut program, mut rx, _tx) = bed.open_one(&config)?;
    let error = bed
        .near
        .run(|| XdpDriver::open(NEAR, &mut program, &config))
        .expect_err("the queue is bound");
    assert!(matches!(error, XdpError::Busy { queue: 0, .. }), "{error}");
    assert!(error.to_string().contains(NEAR));
    // And the first one is none the worse for it.
    assert_eq!(program.attached(), Some(AttachedMode::Native));
    exchange(&bed, &mut rx)
}

/// Sockets are closed before the program leaves the interface, in whatever order the owner drops
/// them.
fn the_program_outlives_no_socket() -> TestResult {
    let bed = Bed::new(1)?;
    let (program, mut rx, tx) = bed.open_one(&bed.config(Mode::Native))?;
    drop(program);
    exchange(&bed, &mut rx)?;
    let index = bed.near.index(NEAR)?;
    let attach = || {
        bed.near.run(|| {
            let mut program = XdpProgram::load(&[PORT])?;
            program.attach(index, Mode::Native)?;
            Ok::<_, OpenError>(())
        })
    };
    drop(tx);
    exchange(&bed, &mut rx)?;
    assert!(attach().is_err(), "ours is still there");
    drop(rx);
    attach()?;
    Ok(())
}

fn zero_copy_can_be_insisted_on() -> TestResult {
    let bed = Bed::new(1)?;
    let config = XdpConfig {
        zero_copy: ZeroCopy::Always,
        ..XdpConfig::default()
    };
    let error = bed.open(&config).expect_err("a veth has no zero copy");
    let message = error.to_string();
    assert!(
        message.contains("zero copy") && message.contains(NEAR),
        "{message}"
    );
    Ok(())
}

fn a_receiver_has_no_sender() -> TestResult {
    let bed = Bed::new(1)?;
    for need_wakeup in [true, false] {
        let config = XdpConfig {
            need_wakeup,
            ..XdpConfig::default()
        };
        let (_program, mut rx, tx) = bed.open_one(&config)?;
        assert!(tx.is_none());
        assert_eq!(rx.info().mode.contains("need-wakeup"), need_wakeup);
        exchange(&bed, &mut rx)?;
    }
    Ok(())
}

fn a_failed_open_leaves_nothing() -> TestResult {
    let bed = Bed::new(1)?;
    bed.near.run(|| {
        let mut program = XdpProgram::load(&[PORT])?;
        let open = |program: &mut _, name, config: &_| {
            XdpDriver::open(name, program, config).expect_err("cannot be opened")
        };
        let default = XdpConfig::default();
        let error = open(&mut program, "nowhere0", &default);
        assert!(
            matches!(error, XdpError::UnknownInterface { .. }),
            "{error}"
        );
        let error = open(&mut program, "lo", &default);
        assert!(matches!(error, XdpError::NotEthernet { .. }), "{error}");
        let config = XdpConfig {
            rx_ring: 1000,
            ..XdpConfig::default()
        };
        let error = open(&mut program, NEAR, &config);
        assert!(error.to_string().contains("1000"), "{error}");
        let config = XdpConfig {
            zero_copy: ZeroCopy::Always,
            ..XdpConfig::default()
        };
        open(&mut program, NEAR, &config);
        assert_eq!(
            program.attached(),
            None,
            "it was attached by the failed open"
        );
        Ok::<_, OpenError>(())
    })?;
    Ok(())
}

fn a_program_serves_one_interface() -> TestResult {
    let bed = Bed::new(1)?;
    ringspan_tests::netns::Veth::default().join(&bed.near, "other0", &bed.far, "other1")?;
    let (mut program, mut rx, _tx) = bed.open_one(&XdpConfig::default())?;
    let error = bed
        .near
        .run(|| XdpDriver::open("other0", &mut program, &XdpConfig::default()))
        .expect_err("it is attached elsewhere");
    assert!(matches!(error, XdpError::Attach(_)), "{error}");
    assert!(error.to_string().contains(NEAR), "{error}");
    exchange(&bed, &mut rx)
}
