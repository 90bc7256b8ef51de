//! Neither the cluster's secret nor its id is ever shown: not in logs at the finest level, those
//! of the libraries included, not in `Debug`, not in errors.

#[path = "common/discovery.rs"]
#[allow(dead_code, reason = "shared with the client's other tests")]
mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringspan::control::discovery::{Client, Event};
use tracing_subscriber::filter::LevelFilter;

use common::{CLUSTER, SECRET, announcement, client_config, endpoint, next, request, server};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("the sink").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What would give them away.
fn tells() -> Vec<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = |bytes: &[u8]| format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    let secret = &SECRET[4..28];
    let mut tells = vec![
        CLUSTER.to_owned(),
        String::from_utf8_lossy(secret).into_owned(),
        STANDARD.encode(SECRET)[8..32].to_owned(),
    ];
    for bytes in [secret, CLUSTER.as_bytes()] {
        tells.extend([hex(bytes), list(bytes)]);
    }
    tells
}

#[test]
fn nothing_secret_is_shown() {
    let sink = Sink::default();
    let writer = sink.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();

    let server = server();
    let mut shown = Vec::new();
    let told = announcement("a", "host", &[endpoint(1)]);
    let config = client_config(&server, "a");
    shown.push(format!("{config:?} {config:#?}"));
    let a = Client::join(config.clone(), &told).expect("a client");
    let b = Client::observe(client_config(&server, "b")).expect("a client");
    shown.push(format!("{a:?} {b:?}"));
    next(&a, |event| (event == Event::Announced).then_some(()));
    common::until_member(&b, "a");
    // Refusals, failures, a lost connection.
    let lies = [vec![1; 10], vec![2; 100]];
    for lie in lies {
        let blobs = vec![vec![3; 16]];
        server
            .update(request("c", Some(lie), blobs))
            .expect("an update");
    }
    next(&b, |event| {
        shown.push(format!("{event:?}"));
        matches!(event, Event::Change(_)).then_some(())
    });
    let mut wrong = config;
    wrong.node_id = "x".repeat(300);
    let error = Client::observe(wrong).expect_err("too long an id");
    shown.push(format!("{error} {error:?}"));
    drop(server);
    next(&b, |event| {
        shown.push(format!("{event:?}"));
        let Event::Disconnected { reason, .. } = event else {
            return None;
        };
        shown.push(reason.to_string());
        Some(())
    });
    let failed = a.leave();
    shown.push(format!("{failed:?}"));
    drop(b);

    let log = sink.0.lock().expect("the sink").clone();
    let log = String::from_utf8_lossy(&log);
    // It is the finest level, and has the libraries' output too.
    for there in ["TRACE", "h2::", "discovery connected"] {
        assert!(log.contains(there), "{there} is not in the log");
    }
    shown.push(log.into_owned());
    for tell in tells() {
        for text in &shown {
            let found = text.find(&tell).map(|at| &text[at.saturating_sub(200)..]);
            assert!(found.is_none(), "`{tell}` is shown: {found:.400?}");
        }
    }
}
