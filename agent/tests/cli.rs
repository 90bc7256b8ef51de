//! The built binary, as an operator meets it. None of these tests needs a privilege: whatever they
//! start is refused before anything is touched.

use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const PUBLIC: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

fn ringspan(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringspan"));
    command.args(arguments).env_remove("RINGSPAN_LOG");
    command
}

fn output(arguments: &[&str]) -> Output {
    ringspan(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A file that only its owner may read.
    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What `ringspan up` says to this file, which must be refused as a configuration.
    #[track_caller]
    fn refused(&self, name: &str, content: &str, more: &[&str]) -> String {
        let file = self.file(name, content);
        let run_dir = self.0.join("run");
        let mut arguments = vec![
            "up",
            "--config",
            &file,
            "--run-dir",
            run_dir.to_str().unwrap(),
        ];
        arguments.extend(more);
        let output = output(&arguments);
        let error = stderr(&output).to_owned();
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(stdout(&output).is_empty());
        assert!(!run_dir.exists(), "something was started");
        // Warnings have their own lines; the error is the last, and one line.
        let errors: Vec<_> = error.lines().filter(|l| l.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{error}");
        errors[0].to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn interface(lines: &str) -> String {
    format!("[interface]\nprivate_key = \"{PRIVATE}\"\n{lines}\n")
}

#[test]
fn help_suffices() {
    let help = output(&["--help"]);
    assert!(help.status.success());
    for word in [
        "up",
        "status",
        "genkey",
        "pubkey",
        "Exit status",
        "RINGSPAN_LOG",
    ] {
        assert!(stdout(&help).contains(word), "{word} is not in the help");
    }
    let up = output(&["up", "--help"]);
    for word in [
        "--config",
        "--check",
        "--outer",
        "- udp:",
        "CAP_NET_ADMIN",
        "Examples",
    ] {
        assert!(
            stdout(&up).contains(word),
            "{word} is not in the help:\n{}",
            stdout(&up)
        );
    }
    let version = output(&["--version"]);
    assert_eq!(
        stdout(&version),
        format!("ringspan {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for arguments in [
        &["upp", "--config", "wg0.conf"][..],
        &["up"],
        &["up", "--config"],
        &["status", "-o", "yaml"],
        &[],
    ] {
        assert_eq!(output(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn keys() {
    let private = output(&["genkey"]);
    assert!(private.status.success());
    let derive = |input: &[u8]| {
        let mut child = ringspan(&["pubkey"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    assert_eq!(stdout(&derive(&private.stdout)).trim_end().len(), 44);
    assert_eq!(stdout(&derive(PRIVATE.as_bytes())), format!("{PUBLIC}\n"));
    let bad = derive(b"no key");
    assert_eq!(bad.status.code(), Some(1));
    assert!(stderr(&bad).contains("44 characters") && !stderr(&bad).contains("no key"));
}

#[test]
fn a_good_configuration_is_called_good_and_starts_nothing() {
    let scratch = Scratch::new("check");
    let toml = scratch.file("mesh0.toml", &interface(""));
    let output = output(&["up", "--config", &toml, "--check"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        format!("{toml}: good: tunnel mesh0, peers: 0\n")
    );
    assert_eq!(stderr(&output), "");
}

#[test]
fn what_a_wg_quick_file_asks_for_in_vain_is_warned_about() {
    let scratch = Scratch::new("warn");
    let text = format!("[Interface]\nPrivateKey = {PRIVATE}\nPostUp = rm -rf /\n");
    let conf = scratch.file("wg0.conf", &text);
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o644)).unwrap();
    let output = output(&["up", "--config", &conf, "--check"]);
    assert!(output.status.success());
    let warnings: Vec<_> = stderr(&output).lines().collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("line 3: PostUp: ringspan executes no commands"));
    assert!(warnings[1].contains("every user") && warnings[1].contains("chmod 600"));
}

#[test]
fn a_key_file_may_stand_beside_the_configuration() {
    let scratch = Scratch::new("keyfile");
    let key = scratch.file("node.key", &format!("{PRIVATE}\n"));
    let text = "[interface]\nprivate_key_file = \"node.key\"\n";
    let toml = scratch.file("mesh0.toml", text);
    let check = || output(&["up", "--config", &toml, "--check"]);
    assert!(check().status.success());
    assert_eq!(stderr(&check()), "");

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(
        stderr(&check()).contains("node.key: chmod 600"),
        "{}",
        stderr(&check())
    );

    scratch.file("node.key", &PRIVATE[..40]);
    let refused = scratch.refused("mesh0.toml", text, &[]);
    assert!(
        refused.contains("node.key: ") && refused.contains("44 characters"),
        "{refused}"
    );
    assert!(!refused.contains(&PRIVATE[..8]), "{refused}");
}

#[test]
fn each_bad_configuration_gets_one_error_with_its_value() {
    let scratch = Scratch::new("bad");
    let peer = |prefix: &str| {
        format!(
            "[[peer]]\npublic_key = \"{PEER}\"\nlabel = \"b\"\nallowed_ips = [\"10.1.0.0/16\"]\n\
             [[peer]]\npublic_key = \"TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=\"\n\
             label = \"c\"\nallowed_ips = [\"{prefix}\"]\n"
        )
    };
    for (lines, parts) in [
        (
            "mtu = 70000".to_owned(),
            &["mesh0.toml:3: interface.mtu: \"70000\"", "576"][..],
        ),
        (
            "listen_port = 65536".to_owned(),
            &[":3: interface.listen_port: \"65536\""],
        ),
        (
            "privat_key = \"\"".to_owned(),
            &[":3: interface.privat_key: unknown key (did you mean private_key?)"],
        ),
        (
            format!("[[peer]]\npublic_key = \"{PUBLIC}\""),
            &[":4: peer 1.public_key: ", PUBLIC, "this very node"],
        ),
        (
            "[[peer]]\npublic_key = \"abc\"".to_owned(),
            &[":4: peer 1.public_key: \"abc\"", "44 characters"],
        ),
        (
            peer("10.1.0.0/16"),
            &[
                ":10: peer 2.allowed_ips: 10.1.0.0/16 of peer c",
                "peer b (line 6)",
            ],
        ),
        (
            peer("10.1.2.0/24"),
            &[":10: peer 2.allowed_ips: 10.1.2.0/24 of peer c overlaps 10.1.0.0/16 of peer b"],
        ),
    ] {
        let error = scratch.refused("mesh0.toml", &interface(&lines), &[]);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
    let error = scratch.refused("wg0.conf", "[Interface]\nPrivateKey = x\n", &[]);
    assert!(error.contains("wg0.conf:2: PrivateKey: "), "{error}");
    assert!(!error.contains('"'), "the value is a secret: {error}");
}

#[test]
fn a_file_that_cannot_be_read() {
    let missing = output(&["up", "--config", "/nonexistent/wg0.conf"]);
    assert_eq!(missing.status.code(), Some(3));
    assert!(stderr(&missing).contains("/nonexistent/wg0.conf: cannot be read: No such file"));
    let endless = output(&["up", "--config", "/dev/zero"]);
    assert!(
        stderr(&endless).contains("larger than 16 MiB"),
        "{}",
        stderr(&endless)
    );
    let folder = output(&["up", "--config", "/"]);
    assert!(stderr(&folder).contains("directory"), "{}", stderr(&folder));
}

#[test]
fn an_unknown_interface_is_named_with_those_that_exist() {
    let scratch = Scratch::new("interface");
    let error = scratch.refused(
        "mesh0.toml",
        &interface("[outer]\ninterface = \"nosuch0\""),
        &[],
    );
    assert!(
        error.contains("nosuch0 does not exist; there are: ") && error.contains("lo"),
        "{error}"
    );
    let error = scratch.refused("mesh0.toml", &interface(""), &["--interface", "nosuch1"]);
    assert!(error.contains("nosuch1"), "{error}");
    let error = scratch.refused("mesh0.toml", &interface(""), &["--name", "lo"]);
    assert!(error.contains("interface lo exists already"), "{error}");
    let error = scratch.refused("mesh0.toml", &interface(""), &["--name", "a/b"]);
    assert!(error.contains("--name: \"a/b\""), "{error}");
}

#[test]
fn a_taken_port_is_named() {
    let scratch = Scratch::new("port");
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = interface(&format!("listen_port = {port}"));
    let error = scratch.refused("mesh0.toml", &text, &["--outer", "udp"]);
    assert!(
        error.contains(&format!("UDP port {port} is taken")),
        "{error}"
    );
}

#[test]
fn an_ordinary_user_is_told_which_privileges_are_missing() {
    // Under the system's temporary directory: others may not be able to enter the build's.
    let scratch =
        Scratch(std::env::temp_dir().join(format!("ringspan-user-{}", std::process::id())));
    fs::create_dir_all(&scratch.0).unwrap();
    let binary = scratch.0.join("ringspan");
    fs::copy(env!("CARGO_BIN_EXE_ringspan"), &binary).unwrap();
    let toml = scratch.file("mesh0.toml", &interface(""));
    for path in [scratch.0.as_path(), &binary, Path::new(&toml)] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let up = |outer: &str| {
        let mut command = Command::new(&binary);
        command.args([
            "up",
            "--config",
            &toml,
            "--interface",
            "lo",
            "--outer",
            outer,
        ]);
        if rustix::process::geteuid().is_root() {
            // Leaving root leaves its capabilities.
            command.uid(65534).gid(65534);
        }
        command.output().unwrap()
    };
    let refused = up("udp");
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("error: needs CAP_NET_ADMIN: run as root, "),
        "{}",
        stderr(&refused)
    );
    let refused = up("xdp");
    let wanted = "error: needs CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW: run as root, ";
    assert!(stderr(&refused).contains(wanted), "{}", stderr(&refused));
}

#[test]
fn no_tunnel_is_no_error_but_an_unknown_one_is() {
    let scratch = Scratch::new("status");
    let run_dir = scratch.0.to_str().unwrap();
    let none = output(&["status", "--run-dir", run_dir]);
    assert!(none.status.success());
    assert!(stdout(&none).starts_with("no tunnel is running"));
    let json = output(&["status", "--run-dir", run_dir, "-o", "json"]);
    assert_eq!(stdout(&json), "[]\n");
    let unknown = output(&["status", "wg7", "--run-dir", run_dir]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("no tunnel wg7 is running"));
}

/// The cluster's secret as text, so that it can be looked for as that too.
#[cfg(feature = "discovery")]
const CLUSTER_SECRET: &str = "QSBzZWNyZXQsIGp1c3QgMzIgYnl0ZXMgb2YgdGV4dC4=";

#[cfg(feature = "discovery")]
#[test]
fn a_machine_configuration_is_checked() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/worker.yaml");
    let example = fs::read_to_string(example).unwrap();
    assert!(example.contains(CLUSTER_SECRET));
    let scratch = Scratch::new("machineconfig");
    let run = |name: &str, text: &str, more: &[&str]| {
        let file = scratch.file(name, text);
        let state = scratch.0.join("state");
        let mut arguments = vec!["join", "--machineconfig", &file, "--check", "--state-dir"];
        arguments.push(state.to_str().unwrap());
        arguments.extend(more);
        let output = output(&arguments);
        assert!(!state.exists(), "a check makes nothing");
        for text in [stdout(&output), stderr(&output)] {
            assert!(!text.contains(&CLUSTER_SECRET[..20]), "{text}");
        }
        output
    };
    let good = run("good.yaml", &example, &["--listen-port", "4711"]);
    assert_eq!(good.status.code(), Some(0), "{}", stderr(&good));
    let words = "good.yaml: good: interface kubespan, UDP port 4711, MTU 1420, discovery: https://discovery.talos.dev/";
    assert!(stdout(&good).contains(words), "{}", stdout(&good));

    for (from, to, expected) in [
        (
            "mtu: 1420",
            "mtu: 100",
            "machine.network.kubespan.mtu: `100` is not a number from 1280",
        ),
        (
            "enabled: true",
            "enabled: false",
            "KubeSpan is off: set machine.network.kubespan.enabled",
        ),
        (
            "!172.17.0.0/16",
            "!172.17.0.0/99",
            "filters.endpoints[1]: `!172.17.0.0/99` is not",
        ),
        (
            CLUSTER_SECRET,
            "short",
            "cluster.secret: the secret (not shown) is not 32 bytes",
        ),
        (
            "id: 8XuV",
            "other: 8XuV",
            "there is no cluster id: set cluster.id",
        ),
        (
            "https://discovery",
            "ftp://discovery",
            "`ftp://discovery.talos.dev/` is not a URL",
        ),
        (
            "203.0.113.7:51820",
            "203.0.113.7",
            "extraAnnouncedEndpoints[0]: `203.0.113.7` is not",
        ),
        (
            "kind: DiscoveryServiceConfig",
            "kind: Other",
            "no discovery service is to be used",
        ),
        ("machine:", "machine: [", "no YAML"),
    ] {
        assert!(example.contains(from), "{from}");
        let bad = run("bad.yaml", &example.replacen(from, to, 1), &[]);
        let text = stderr(&bad);
        assert_eq!(bad.status.code(), Some(3), "{text}");
        assert!(
            text.contains("bad.yaml: ") && text.contains(expected),
            "{expected}: {text}"
        );
    }
    for (option, value, expected) in [
        ("--name", "mesh/0", "1 to 15 of the characters"),
        (
            "--name",
            "longer-than-linux-takes",
            "1 to 15 of the characters",
        ),
        ("--advertise", "10.80.0.0/99", "write ADDRESS/LENGTH"),
    ] {
        let bad = run("option.yaml", &example, &[option, value]);
        let text = stderr(&bad);
        assert_eq!(bad.status.code(), Some(2), "{text}");
        for word in [option, value, expected] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    let missing = output(&["join", "--machineconfig", "/nowhere/worker.yaml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        stderr(&missing).contains("/nowhere/worker.yaml"),
        "{}",
        stderr(&missing)
    );
}

#[test]
fn without_a_member_there_is_nothing_to_get() {
    let scratch = Scratch::new("get");
    let run_dir = scratch.0.to_str().unwrap();
    let none = output(&["get", "peerstatuses", "--run-dir", run_dir]);
    assert_eq!(none.status.code(), Some(1));
    assert!(
        stderr(&none).contains("start one with `ringspan join`"),
        "{}",
        stderr(&none)
    );
    let unknown = output(&["get", "pods"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        stderr(&unknown).contains("identity, peerspecs, peerstatuses"),
        "{}",
        stderr(&unknown)
    );
}
