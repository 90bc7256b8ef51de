//! A machine that is told what to do while it runs: an agent in the guest ([`ROLE`]) and its
//! client outside ([`Guest`]). One boot serves many tests.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::str::{FromStr, SplitAsciiWhitespace};
use std::thread;
use std::time::{Duration, Instant};

use super::Machine;
use crate::child::{Process, Role};
use crate::netns::{Namespace, NetError};
use crate::traffic::ping::{self, ping};
use crate::traffic::{Pings, tcp, udp};

/// The control network, on the guest's first card.
const CONTROL_TAP: &str = "vm0";
const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const CONTROL_PORT: u16 = 7000;

/// Where the guest runs a [`tcp::Server`], on every address that it has.
pub const TCP_PORT: u16 = 7001;
/// Where the guest runs a [`udp::Echo`], on every address that it has.
pub const UDP_PORT: u16 = 7002;

/// The part of a binary that starts [`Guest`]s.
pub const ROLE: Role = Role {
    name: "guest",
    main: |_| match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: {error}");
            ExitCode::FAILURE
        }
    },
};

/// A running machine with two cards: one to tell it what to do, one whose cable ends in the
/// bridge [`BRIDGE`](Self::BRIDGE) of a namespace, for tests.
#[derive(Debug)]
pub struct Guest {
    namespace: Namespace,
    process: Process,
}

impl Guest {
    /// The bridge that the tests' card hangs on, in [`namespace`](Self::namespace).
    pub const BRIDGE: &'static str = "br0";
    /// The tests' card, in the guest: down, without an address.
    pub const CARD: &'static str = "eth1";

    /// Starts `machine`, its tests' card with `queues` queues, and waits until its agent answers.
    /// The calling binary plays [`ROLE`] in the guest.
    ///
    /// # Errors
    /// When the machine does not start, or its agent does not answer within two minutes.
    pub fn start(mut machine: Machine, queues: u32) -> io::Result<Self> {
        let failed = |error: NetError| io::Error::other(error);
        let namespace = Namespace::new("vm").map_err(failed)?;
        namespace.add_bridge(Self::BRIDGE).map_err(failed)?;
        machine.taps = vec![(CONTROL_TAP.into(), 1), ("vm1".into(), queues)];
        let program = std::env::current_exe()?;
        let arguments = ROLE.arguments();
        let process = machine
            .start(&namespace, &program, &arguments, |command| {
                command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
            })
            .map_err(failed)?;
        let mut guest = Self { namespace, process };
        // A machine whose packages are to be checked first takes its time.
        guest.until(Duration::from_secs(60), |guest| {
            guest.namespace.attach("vm1", Self::BRIDGE).map_err(failed)
        })?;
        let control = ipnet::Ipv4Net::new_assert(HOST, 24);
        guest
            .namespace
            .add_address(CONTROL_TAP, control)
            .and_then(|()| guest.namespace.up(CONTROL_TAP))
            .map_err(failed)?;
        guest.until(Duration::from_secs(120), |guest| {
            // An answer that was lost on the way, because a card was still coming up, is asked
            // for again soon.
            let soon = Duration::from_secs(5);
            guest.request_within(soon, "shell", "true").map(drop)
        })?;
        Ok(guest)
    }

    /// Tries again until it works, the machine ends, or time is up.
    fn until(
        &mut self,
        limit: Duration,
        mut attempt: impl FnMut(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            let Err(error) = attempt(self) else {
                return Ok(());
            };
            if let Some(status) = self.process.try_wait()? {
                return Err(io::Error::other(format!("the machine ended: {status}")));
            }
            if Instant::now() > end {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The namespace that the machine's cards end in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs a script with the guest's `bash`; what it wrote.
    ///
    /// # Errors
    /// When it fails (the message holds what it wrote) or the guest does not answer.
    pub fn shell(&self, script: &str) -> io::Result<String> {
        self.request("shell", script)
    }

    /// [`ping()`] from the guest.
    ///
    /// # Errors
    /// Those of [`ping()`], and silence of the guest.
    pub fn ping(&self, to: IpAddr, options: ping::Options) -> io::Result<Pings> {
        let answer = self.request(
            "ping",
            &format!(
                "{to} {} {} {}",
                options.count,
                options.size,
                options.timeout.as_millis()
            ),
        )?;
        let mut numbers = words(&answer);
        Ok(Pings {
            sent: next(&mut numbers)?,
            round_trips: numbers
                .map(|micros| parsed(micros).map(Duration::from_micros))
                .collect::<io::Result<_>>()?,
        })
    }

    /// [`tcp::transfer`] from the guest.
    ///
    /// # Errors
    /// Those of [`tcp::transfer`], and silence of the guest.
    pub fn transfer(
        &self,
        server: SocketAddr,
        upload: u64,
        download: u64,
        patience: Duration,
    ) -> io::Result<()> {
        let patience = patience.as_millis();
        self.request("tcp", &format!("{server} {upload} {download} {patience}"))
            .map(drop)
    }

    /// [`udp::exchange`] from the guest, its counts only.
    ///
    /// # Errors
    /// Those of [`udp::exchange`], and silence of the guest.
    pub fn exchange(
        &self,
        echo: SocketAddr,
        count: u64,
        size: usize,
        window: u64,
        patience: Duration,
    ) -> io::Result<udp::Exchange> {
        let patience = patience.as_millis();
        let answer = self.request("udp", &format!("{echo} {count} {size} {window} {patience}"))?;
        let mut numbers = words(&answer);
        Ok(udp::Exchange {
            sent: next(&mut numbers)?,
            echoed: next(&mut numbers)?,
            damaged: next(&mut numbers)?,
            overtaken: next(&mut numbers)?,
            repeated: next(&mut numbers)?,
            elapsed: Duration::ZERO,
        })
    }

    fn request(&self, verb: &str, rest: &str) -> io::Result<String> {
        // The guest does everything in its own time; it ends with the machine's limit.
        self.request_within(Duration::from_secs(120), verb, rest)
    }

    fn request_within(&self, limit: Duration, verb: &str, rest: &str) -> io::Result<String> {
        self.namespace.run(|| {
            let address = SocketAddr::from((GUEST, CONTROL_PORT));
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(limit))?;
            write_text(&mut stream, &format!("{verb} {rest}"))?;
            let answer = read_text(&mut stream)?;
            match answer.split_at_checked(1) {
                Some(("+", text)) => Ok(text.to_owned()),
                Some((_, text)) => Err(io::Error::other(format!("in the guest: {text}"))),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        })
    }
}

/// The agent: gives the first card its control address, then does what it is asked, until the
/// machine is ended.
fn serve() -> io::Result<()> {
    shell(&format!(
        "ip link set eth0 up && ip address add {GUEST}/24 dev eth0"
    ))
    .map_err(io::Error::other)?;
    let everywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let _server = tcp::Server::start_at(everywhere(TCP_PORT))?;
    let _echo = udp::Echo::start_at(everywhere(UDP_PORT))?;
    let listener = TcpListener::bind(everywhere(CONTROL_PORT))?;
    loop {
        let (mut stream, _) = listener.accept()?;
        thread::spawn(move || {
            // A client that is gone needs no answer.
            let _ = read_text(&mut stream).and_then(|request| {
                let answer = match answer(&request) {
                    Ok(text) => format!("+{text}"),
                    Err(text) => format!("-{text}"),
                };
                write_text(&mut stream, &answer)
            });
        });
    }
}

fn answer(request: &str) -> Result<String, String> {
    let (verb, rest) = request.split_once(' ').unwrap_or((request, ""));
    if verb == "shell" {
        return shell(rest);
    }
    let mut words = words(rest);
    measure(verb, &mut words).map_err(|error| error.to_string())
}

fn measure(verb: &str, words: &mut SplitAsciiWhitespace<'_>) -> io::Result<String> {
    match verb {
        "ping" => {
            let to = next(words)?;
            let options = ping::Options {
                count: next(words)?,
                size: next(words)?,
                timeout: Duration::from_millis(next(words)?),
                ..ping::Options::default()
            };
            let pings = ping(to, options)?;
            let mut text = pings.sent.to_string();
            for time in pings.round_trips {
                text = format!("{text} {}", time.as_micros());
            }
            Ok(text)
        }
        "tcp" => {
            let (server, upload, download) = (next(words)?, next(words)?, next(words)?);
            let patience = Duration::from_millis(next(words)?);
            tcp::transfer(server, upload, download, patience, |_| true)
                .map(|moved| format!("{} {}", moved.uploaded, moved.downloaded))
        }
        "udp" => {
            let (echo, count, size) = (next(words)?, next(words)?, next(words)?);
            let (window, patience) = (next(words)?, Duration::from_millis(next(words)?));
            let exchange = udp::exchange(echo, count, size, window, patience, |_| true)?;
            Ok(format!(
                "{} {} {} {} {}",
                exchange.sent,
                exchange.echoed,
                exchange.damaged,
                exchange.overtaken,
                exchange.repeated
            ))
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the agent does not know {verb}"),
        )),
    }
}

fn shell(script: &str) -> Result<String, String> {
    let output = Command::new("bash")
        .args(["-ec", script])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("bash: {error}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(format!("{}: {text}", output.status))
}

fn words(text: &str) -> SplitAsciiWhitespace<'_> {
    text.split_ascii_whitespace()
}

fn next<T: FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> io::Result<T> {
    parsed(words.next().unwrap_or_default())
}

fn parsed<T: FromStr>(word: &str) -> io::Result<T> {
    word.parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("not what was agreed: {word:?}"),
        )
    })
}

fn write_text(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(text.as_bytes())
}

fn read_text(stream: &mut TcpStream) -> io::Result<String> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut text = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut text)?;
    String::from_utf8(text).map_err(io::Error::other)
}
