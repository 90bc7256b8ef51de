//! The asking end, in `ringspan status`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{self, Answer, Content, LONGEST_ANSWER, Request};
use super::report::TunnelStatus;
use super::table;
use crate::cli::{Output, Status};

/// How long a tunnel may take over its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ClientError {
    #[error("no tunnel {name} is running ({} does not exist); {running}", path.display())]
    Unknown {
        name: String,
        path: PathBuf,
        running: String,
    },
    #[error("tunnel {name} is not running: nobody answers on {}", path.display())]
    Stale { name: String, path: PathBuf },
    #[error("{}: permission denied: run as the user who started the tunnel, or as root", path.display())]
    Denied { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("tunnel {name} refused: {reason}")]
    Refused { name: String, reason: String },
    #[error(
        "no member of a KubeSpan mesh is running (none answers in {}): start one with `ringspan join`",
        run_dir.display()
    )]
    NoMember { run_dir: PathBuf },
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Prints the status of one tunnel, or of all.
pub(crate) fn print(options: &Status, mut out: impl Write) -> Result<(), ClientError> {
    let run_dir = &options.run_dir.path;
    let statuses = match &options.name {
        Some(name) => vec![ask(run_dir, name)?],
        None => all(run_dir)?,
    };
    match options.output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, &statuses).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Output::Table if statuses.is_empty() => {
            writeln!(
                out,
                "no tunnel is running (none answers in {})",
                run_dir.display()
            )?;
        }
        Output::Table => table::write(&mut out, &statuses)?,
    }
    Ok(())
}

/// Every tunnel that answers; sockets that others left are passed over.
fn all(run_dir: &Path) -> Result<Vec<TunnelStatus>, ClientError> {
    names(run_dir)?
        .iter()
        .filter_map(|name| match ask(run_dir, name) {
            Err(ClientError::Stale { .. } | ClientError::Unknown { .. }) => None,
            answer => Some(answer),
        })
        .collect()
}

pub(super) fn names(run_dir: &Path) -> Result<Vec<String>, ClientError> {
    let entries = match fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(run_dir, source)),
    };
    let mut names: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".sock")?.to_owned())
        })
        .collect();
    names.sort_unstable();
    Ok(names)
}

fn ask(run_dir: &Path, name: &str) -> Result<TunnelStatus, ClientError> {
    match request(run_dir, name, &Request::status())? {
        Content::Status(status) => Ok(*status),
        content => Err(unexpected(name, content)),
    }
}

/// The error that `content` is, or that it is no answer to what was asked.
pub(super) fn unexpected(name: &str, content: Content) -> ClientError {
    let reason = match content {
        Content::Error(reason) => reason,
        _ => "it answers something else: use the ringspan that runs the tunnel".to_owned(),
    };
    let name = name.to_owned();
    ClientError::Refused { name, reason }
}

/// One question and its answer.
pub(super) fn request(
    run_dir: &Path,
    name: &str,
    request: &Request,
) -> Result<Content, ClientError> {
    let path = run_dir.join(format!("{name}.sock"));
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let running = match names(run_dir).unwrap_or_default() {
                names if names.is_empty() => "none is running".to_owned(),
                names => format!("there are: {}", names.join(", ")),
            };
            let name = name.to_owned();
            return Err(ClientError::Unknown {
                name,
                path,
                running,
            });
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let name = name.to_owned();
            return Err(ClientError::Stale { name, path });
        }
        Err(source) => return Err(failed(&path, source)),
    };
    let answer = || -> io::Result<Answer> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        protocol::send(&stream, request)?;
        protocol::receive(&stream, LONGEST_ANSWER)
    };
    let answer = answer().map_err(|source| failed(&path, source))?;
    Ok(answer.content)
}

fn failed(path: &Path, source: io::Error) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Denied { path },
        _ => ClientError::Io { path, source },
    }
}
