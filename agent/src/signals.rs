//! SIGINT, SIGTERM and SIGHUP as something to wait for.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// The end of the process, asked for by the first of these signals. A second one ends it at once:
/// a shutdown that hangs must not take the terminal with it.
pub(crate) struct EndSignals {
    pipe: UnixStream,
    impatient: Arc<AtomicBool>,
}

impl EndSignals {
    /// Catches the signals from now on.
    pub(crate) fn catch() -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let impatient = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_conditional_default(signal, Arc::clone(&impatient))?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { pipe, impatient })
    }

    /// Whether a signal has come. From then on the next one is deadly.
    pub(crate) fn came(&mut self) -> bool {
        let came = matches!(self.pipe.read(&mut [0; 16]), Ok(1..));
        if came {
            self.impatient.store(true, Ordering::SeqCst);
        }
        came
    }
}

impl AsFd for EndSignals {
    /// Becomes readable with the first signal.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
