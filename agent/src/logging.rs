//! The log, on standard error.
//!
//! Levels: `error` and `warn` ask the operator to act, `info` tells what the process does as a
//! whole, `debug` may name addresses, `trace` may speak of single packets. Keys are never logged.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::config::LogLevel;

/// The variable that has the last word on what is logged.
const VARIABLE: &str = "RINGSPAN_LOG";

/// Starts the log at `level`, unless `RINGSPAN_LOG` says otherwise.
pub(crate) fn start(level: LogLevel) {
    let filter = std::env::var(VARIABLE)
        .ok()
        .filter(|text| !text.is_empty())
        .map(|text| (EnvFilter::try_new(&text), text));
    let (filter, refused) = match filter {
        Some((Ok(filter), _)) => (filter, None),
        Some((Err(error), text)) => (EnvFilter::new(level.as_str()), Some((error, text))),
        None => (EnvFilter::new(level.as_str()), None),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    if let Some((error, text)) = refused {
        tracing::warn!(
            "{VARIABLE}={text:?} is no log filter ({error}): {} is used; write a level, or \
             MODULE=LEVEL pairs with commas",
            level.as_str()
        );
    }
}
