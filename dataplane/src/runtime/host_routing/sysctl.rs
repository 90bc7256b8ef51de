//! Settings of the tunnel's interface below `/proc/sys/net`, put back at the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What was changed, with the values before.
#[derive(Debug, Default)]
pub(super) struct Settings(Vec<(PathBuf, String)>);

impl Settings {
    /// Sees to it that the link may have IPv6 addresses; false when the kernel has no IPv6.
    pub(super) fn enable_ipv6(&mut self, link: &str) -> io::Result<bool> {
        let path = setting("ipv6", link, "disable_ipv6");
        if !path.exists() {
            return Ok(false);
        }
        if read(&path)? != "0" {
            self.write(path, "0")?;
        }
        Ok(true)
    }

    /// Has the reverse path filter let pass what comes out of the link; false when the setting of
    /// all interfaces, which is not touched, forbids it.
    ///
    /// The way back to a peer goes by a mark that packets from the tunnel do not bear; and on a
    /// link without an IPv4 address the loose filter is as strict as the strict one.
    pub(super) fn open_reverse_path(&mut self, link: &str) -> io::Result<bool> {
        let path = setting("ipv4", link, "rp_filter");
        if read(&path)? != "0" {
            self.write(path, "0")?;
        }
        // The larger of the two counts.
        Ok(read(&setting("ipv4", "all", "rp_filter"))? == "0")
    }

    /// Puts back what was there. A link that is gone has taken its settings along.
    pub(super) fn undo(&mut self) -> Vec<String> {
        let changed = std::mem::take(&mut self.0);
        changed
            .into_iter()
            .rev()
            .filter_map(|(path, before)| match fs::write(&path, before) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Some(format!("setting {}: {error}", path.display()))
                }
                _ => None,
            })
            .collect()
    }

    fn write(&mut self, path: PathBuf, value: &str) -> io::Result<()> {
        let before = read(&path)?;
        fs::write(&path, value)?;
        if self.0.iter().all(|(known, _)| *known != path) {
            self.0.push((path, before));
        }
        Ok(())
    }
}

fn setting(family: &str, link: &str, name: &str) -> PathBuf {
    ["/proc/sys/net", family, "conf", link, name]
        .iter()
        .collect()
}

fn read(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}
