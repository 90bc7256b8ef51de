//! What a process has used, from `/proc` (proc(5)).

use std::fs;
use std::time::Duration;

use crate::Result;

/// Time that all threads of `pid` spent on a CPU, in user space and kernel, to the nanosecond.
/// (`/proc/PID/stat` counts ticks of 10 ms.)
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while the list is read.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let on_cpu = text.split_whitespace().next();
        total += on_cpu.and_then(|field| field.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}

/// The most memory that `pid` ever had resident, in MiB.
pub(super) fn peak_resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .and_then(|field| field.trim().parse().ok())
        .ok_or_else(|| format!("/proc/{pid}/status names no VmHWM"))?;
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time_and_memory() {
        let own = std::process::id();
        let before = cpu_time(own).unwrap();
        let block = vec![1_u8; 8 << 20];
        while cpu_time(own).unwrap() <= before {
            std::hint::black_box(&block);
        }
        assert!(peak_resident(own).unwrap() >= 8.0);
    }
}
