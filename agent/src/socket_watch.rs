//! Notices that somebody removes the configuration socket: for wireguard-go the way to be told to
//! end, so that scripts do it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

/// Watches the file of one socket.
pub(crate) struct SocketWatch {
    events: OwnedFd,
    path: PathBuf,
    inode: u64,
}

impl SocketWatch {
    /// Watches the socket at `path` from now on.
    pub(crate) fn start(path: &Path) -> io::Result<Self> {
        let events = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let directory = path.parent().unwrap_or(path);
        // Of the directory: a socket that somebody still has open is not deleted itself.
        let removals = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::DELETE_SELF;
        add_watch(&events, directory, removals)?;
        Ok(Self {
            events,
            path: path.to_owned(),
            inode: path.symlink_metadata()?.ino(),
        })
    }

    /// Reads what has happened; true when the socket is gone, or another one in its place.
    pub(crate) fn removed(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.events, &mut buffer);
        // Any event will do: the file itself is asked. Fails when there is none left.
        while events.next().is_ok() {}
        let file = self.path.symlink_metadata();
        !file.is_ok_and(|file| file.ino() == self.inode)
    }
}

impl AsFd for SocketWatch {
    /// Becomes readable when something in the socket's directory goes.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
