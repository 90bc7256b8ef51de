//! Where and when a run took place.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{Result, workspace};

pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
    pub(crate) commit: String,
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn read() -> Result<Self> {
        let processor = fs::read_to_string("/proc/cpuinfo")?
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown processor".into(), |(_, name)| name.to_owned());
        let git = ["log", "-1", "--format=%h"];
        Ok(Self {
            processor,
            cores: std::thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            rustc: workspace::rustc_field(Path::new("rustc"), "release")?,
            // A source archive has no history.
            commit: workspace::output(Command::new("git").args(git).current_dir(workspace::root()))
                .unwrap_or_else(|_| "unknown".into()),
            date: workspace::output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} cores, Linux {}, rustc {}, ringspan {}, {}",
            self.processor, self.cores, self.kernel, self.rustc, self.commit, self.date
        )
    }
}
