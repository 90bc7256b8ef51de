//! No secret is ever printed: not at trace level, not in `Debug`, statuses or errors.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringspan::control::kubespan::{ClusterId, Identity, MachineConfig, identity_file};
use ringspan::control::{FileSource, PeerState};
use ringspan::crypto::{KeyPair, PresharedKey, PrivateKey};
use ringspan::io::memory::{DEFAULT_CAPACITY, Network, inner_port};
use ringspan::{Dataplane, Inner, Outer};
use tracing_subscriber::fmt::MakeWriter;

/// Only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(30);
const CLUSTER_ID: &str = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo=";

/// Everything that was printed.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn add(&self, text: &str) {
        self.0.lock().unwrap().extend_from_slice(text.as_bytes());
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The ways in which 32 bytes might be printed.
fn forms(secret: &[u8; 32]) -> [String; 4] {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = STANDARD.encode(secret);
    // Without the last two characters, in case somebody cuts the padding off.
    let cut = text[..42].to_owned();
    let decimal = format!("{secret:?}");
    [
        hex.to_uppercase(),
        hex,
        cut,
        decimal[1..decimal.len() - 1].to_owned(),
    ]
}

fn resource(of: &Dataplane, byte: u8, endpoint: &str) -> String {
    let key = of.public_key();
    format!(
        "metadata:\n  id: {key}\nspec:\n  allowedIPs: [10.0.0.{byte}/32]\n  endpoints: [{endpoint}]\n  label: node\n"
    )
}

#[test]
fn nothing_secret_is_printed() {
    let output = Output::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(output.clone())
        .init();
    let psk = [0xA7; 32];
    let keys = [[0xB1; 32], [0xB2; 32]];
    let directory = std::env::temp_dir().join(format!("ringspan-secrets-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();

    // Two nodes that learn of each other from files, and talk.
    let network = Network::new();
    let addresses = ["192.0.2.1:51820", "192.0.2.2:51820"];
    let mut planes = Vec::new();
    let mut hosts = Vec::new();
    for (number, (key, address)) in keys.iter().zip(addresses).enumerate() {
        let end = network
            .attach(address.parse().unwrap(), DEFAULT_CAPACITY)
            .unwrap();
        let (rx, tx, host) = inner_port(DEFAULT_CAPACITY).unwrap();
        hosts.push(host);
        let control_tx = Box::new(end.tx.clone());
        let source = FileSource::new(directory.join(format!("{number}.yaml")))
            .preshared_key(PresharedKey::from(psk));
        output.add(&format!("{source:?}"));
        let plane = Dataplane::builder(PrivateKey::from(*key))
            .outer(Outer::custom(
                vec![Box::new(end.rx)],
                vec![Box::new(end.tx)],
                control_tx,
            ))
            .inner(Inner::custom(vec![(Box::new(rx), Box::new(tx))]))
            .source(source);
        output.add(&format!("{plane:?}"));
        planes.push(plane.start().unwrap());
    }
    for (number, other) in [(0, 1_u8), (1, 0)] {
        let other_plane = &planes[usize::from(other)];
        let text = resource(other_plane, other + 1, addresses[usize::from(other)]);
        std::fs::write(directory.join(format!("{number}.yaml")), text).unwrap();
    }
    let start = Instant::now();
    while planes.iter().any(|plane| {
        plane
            .statuses()
            .first()
            .is_none_or(|status| status.state != PeerState::Up)
    }) {
        assert!(start.elapsed() < LIMIT, "{:?}", planes[0].sources());
        std::thread::sleep(Duration::from_millis(10));
    }
    // A file that holds a secret where none belongs.
    let bad = format!("metadata:\n  id: [{}]\nspec: {{}}\n", STANDARD.encode(psk));
    std::fs::write(directory.join("0.yaml"), bad).unwrap();
    let start = Instant::now();
    while planes[0].sources()[0].problem.is_none() {
        assert!(start.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(planes[0].statuses().len(), 1, "the last good state stays");
    for plane in &planes {
        output.add(&format!(
            "{plane:?} {:?} {:?}",
            plane.statuses(),
            plane.sources()
        ));
        output.add(&format!("{:?} {:?}", plane.counters(), plane.drivers()));
    }
    for plane in planes {
        plane.shutdown().unwrap();
    }

    // Configuration and identity, right and wrong.
    let secret = STANDARD.encode(psk);
    for text in [
        format!("cluster:\n  id: {CLUSTER_ID}\n  secret: {secret}\n"),
        format!("cluster:\n  id: [{CLUSTER_ID}]\n  secret: {secret}\n"),
        format!("cluster:\n  id: {CLUSTER_ID}\n  secret: x{secret}\n"),
        format!("cluster:\n  id: {CLUSTER_ID}\n  secret: {secret}\n   x: [\n"),
        format!("cluster: {{secret: \"{secret}\n"),
    ] {
        output.add(&format!("{:?}", MachineConfig::parse(&text)));
        if let Err(error) = MachineConfig::parse(&text) {
            output.add(&error.to_string());
        }
    }
    let path = directory.join(identity_file::FILE_NAME);
    let key = PrivateKey::from(keys[0]);
    identity_file::store(&path, &key).unwrap();
    output.add(&format!("{:?}", identity_file::load(&path)));
    let cluster = ClusterId::new(CLUSTER_ID).unwrap();
    output.add(&format!(
        "{:?}",
        Identity::new(key.clone(), &cluster, &[2, 0, 0, 0, 0, 1])
    ));
    let public = *KeyPair::new(&key).unwrap().public();
    output.add(&public.to_string());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("privateKey: ", "privateKey: x")).unwrap();
    output.add(&format!("{:?}", identity_file::load(&path)));
    std::fs::remove_dir_all(&directory).unwrap();

    let printed = output.text();
    assert!(
        printed.contains(&public.to_string()) && printed.contains("TRACE"),
        "it does print"
    );
    assert!(printed.contains("0.yaml"), "trouble is told");
    let [first, second] = keys;
    for secret in [psk, first, second] {
        for form in forms(&secret) {
            assert!(!printed.contains(&form), "{form} in:\n{printed}");
        }
    }
    assert!(!printed.contains(CLUSTER_ID), "{printed}");
}
