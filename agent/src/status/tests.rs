//! Server and client against each other, over real sockets in a directory of their own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::report::{TunnelStatus, sample};
use super::{ClientError, ServerError, StatusSocket, print};
use crate::cli::{Output, RunDir, Status};

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringspan-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn ask(&self, name: Option<&str>, output: Output) -> Result<String, ClientError> {
        let options = Status {
            name: name.map(str::to_owned),
            output,
            run_dir: RunDir {
                path: self.0.clone(),
            },
        };
        let mut text = Vec::new();
        print(&options, &mut text)?;
        Ok(String::from_utf8(text).unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn raw(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_status_goes_over_the_socket() {
    let scratch = Scratch::new("status");
    let socket = StatusSocket::bind(&scratch.0, "mesh0").unwrap();
    let path = scratch.0.join("mesh0.sock");
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    let server = socket.serve(sample).unwrap();

    let json = scratch.ask(Some("mesh0"), Output::Json).unwrap();
    let statuses: Vec<TunnelStatus> = serde_json::from_str(&json).unwrap();
    assert_eq!(statuses, [sample()]);
    let table = scratch.ask(None, Output::Table).unwrap();
    assert!(table.contains("node-b"), "{table}");

    match scratch.ask(Some("mesh1"), Output::Json) {
        Err(error @ ClientError::Unknown { .. }) => {
            let text = error.to_string();
            assert!(
                text.contains("mesh1") && text.contains("there are: mesh0"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    drop(server);
    assert!(!path.exists(), "the socket was left behind");
    assert_eq!(scratch.ask(None, Output::Json).unwrap(), "[]\n");
}

#[test]
fn a_second_tunnel_of_the_same_name_is_refused() {
    let scratch = Scratch::new("second");
    let first = StatusSocket::bind(&scratch.0, "mesh0").unwrap();
    let error = StatusSocket::bind(&scratch.0, "mesh0").unwrap_err();
    assert!(matches!(error, ServerError::Running { .. }), "{error}");
    drop(first);
    drop(StatusSocket::bind(&scratch.0, "mesh0").unwrap());
}

#[test]
fn what_a_killed_process_left_is_taken_over_but_no_other_file() {
    let scratch = Scratch::new("stale");
    let path = scratch.0.join("mesh0.sock");
    // A listener that is gone without removing its file.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(scratch.ask(None, Output::Json).unwrap(), "[]\n");
    let error = scratch.ask(Some("mesh0"), Output::Json).unwrap_err();
    assert!(matches!(error, ClientError::Stale { .. }), "{error}");
    drop(StatusSocket::bind(&scratch.0, "mesh0").unwrap());
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    let error = StatusSocket::bind(&scratch.0, "mesh0").unwrap_err();
    assert!(matches!(error, ServerError::Occupied { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn requests_that_are_none_get_an_error_and_end_nothing() {
    let scratch = Scratch::new("hostile");
    let _server = StatusSocket::bind(&scratch.0, "mesh0")
        .unwrap()
        .serve(sample)
        .unwrap();
    let path = &scratch.0.join("mesh0.sock");
    let error = |request: &str| {
        let answer: serde_json::Value = serde_json::from_str(&raw(path, request)).unwrap();
        assert_eq!(answer["version"], 1);
        answer["error"].as_str().unwrap().to_owned()
    };
    assert!(error("{\"version\":2,\"request\":\"status\"}\n").contains("version 2"));
    assert!(error("{\"version\":1,\"request\":\"reboot\"}\n").contains("unknown request"));
    assert!(error("hello\n").contains("no request"));
    assert!(error(&"x".repeat(4096)).contains("more than 4096"));
    drop(UnixStream::connect(path).unwrap());
    assert!(scratch.ask(Some("mesh0"), Output::Table).is_ok());
}

#[test]
fn the_manual_has_every_field() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let manual = fs::read_to_string(manual).unwrap();
    let status = serde_json::to_value(sample()).unwrap();
    let nested = [&status["drivers"][0], &status["peers"][0]];
    for object in std::iter::once(&status).chain(nested) {
        for name in object.as_object().unwrap().keys() {
            let plain = format!("`{name}`");
            let marked = [format!("`{name}[]`"), format!("`{name}{{}}`")];
            assert!(
                manual.contains(&plain) || marked.iter().any(|m| manual.contains(m)),
                "{name} is not documented"
            );
        }
    }
}
