//! Attributes of links that only sysfs has: `/sys/class/net/LINK/…`.

use std::fs;
use std::io;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

/// Writes `value` to `attribute` of `link` in the calling thread's network namespace. The thread
/// gets file systems of its own for that, and should end soon: sysfs shows the links of the namespace
/// that it was mounted in.
pub(super) fn write(link: &str, attribute: &str, value: &str) -> io::Result<()> {
    // What makes the function unsound, and deprecated, is CLONE_FILES alone.
    #[expect(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
    fs::write(format!("/sys/class/net/{link}/{attribute}"), value)
}
