//! Statuses as columns for people.

use std::collections::BTreeMap;
use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};

use super::report::{DriverStatus, PeerReport, TunnelStatus};

const COLUMNS: [&str; 9] = [
    "LABEL",
    "PUBLIC KEY",
    "ENDPOINT",
    "STATE",
    "HANDSHAKE",
    "RX",
    "TX",
    "KEEPALIVE",
    "ALLOWED IPS",
];

/// Writes each tunnel: what it is, its peers, its counters that are not zero.
pub(super) fn write(out: &mut impl Write, statuses: &[TunnelStatus]) -> io::Result<()> {
    for (index, status) in statuses.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        tunnel(out, status)?;
    }
    Ok(())
}

fn tunnel(out: &mut impl Write, status: &TunnelStatus) -> io::Result<()> {
    let mut head = plain();
    head.add_row(["tunnel", &status.name]);
    head.add_row(["  public key", &status.public_key]);
    head.add_row(["  listen port", &status.listen_port.to_string()]);
    if status.fwmark != 0 {
        head.add_row(["  fwmark", &format!("{:#x}", status.fwmark)]);
    }
    head.add_row(["  mtu", &status.mtu.to_string()]);
    for (port, drivers) in alike(&status.drivers) {
        head.add_row([format!("  {port}"), drivers]);
    }
    for note in &status.notes {
        head.add_row(["  note", note]);
    }
    let process = format!("pid {}, version {}", status.pid, status.version);
    head.add_row(["  process", &process]);
    head.add_row(["  running for", &age(status.uptime_s)]);
    writeln!(out, "{}\n", text(head))?;

    let mut peers = plain();
    peers.set_header(COLUMNS);
    for peer in &status.peers {
        peers.add_row(row(peer));
    }
    // The byte counts; a column that does not exist is not asked for.
    for column in [5, 6] {
        if let Some(column) = peers.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{}", text(peers))?;

    let counted: Vec<_> = counters(status)
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .collect();
    if !counted.is_empty() {
        let mut counters = plain();
        for (name, count) in counted {
            counters.add_row([format!("  {name}"), count.to_string()]);
        }
        writeln!(out, "\ncounters\n{}", text(counters))?;
    }
    Ok(())
}

/// The counters of the data path, and those of the drivers, summed over workers.
fn counters(status: &TunnelStatus) -> Vec<(String, u64)> {
    let mut drivers: BTreeMap<String, u64> = BTreeMap::new();
    for driver in &status.drivers {
        for (name, count) in &driver.statistics {
            let name = format!("{} ({}): {name}", driver.port, driver.driver);
            *drivers.entry(name).or_default() += count;
        }
    }
    let own = status.counters.iter().map(|(name, n)| (name.clone(), *n));
    own.chain(drivers).collect()
}

fn row(peer: &PeerReport) -> [String; 9] {
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    [
        or_dash(&peer.label),
        peer.public_key.clone(),
        or_dash(peer.endpoint.as_deref().unwrap_or_default()),
        peer.state.clone(),
        peer.last_handshake_s
            .map_or_else(|| "never".to_owned(), |s| format!("{} ago", age(s))),
        bytes(peer.receive_bytes),
        bytes(peer.transmit_bytes),
        match peer.persistent_keepalive_s {
            0 => "off".to_owned(),
            seconds => format!("{seconds} s"),
        },
        or_dash(&peer.allowed_ips.join(", ")),
    ]
}

/// Drivers that do the same at the same place, as one line each: port and words.
fn alike(drivers: &[DriverStatus]) -> Vec<(&str, String)> {
    let mut groups: Vec<(&DriverStatus, Vec<u32>)> = Vec::new();
    for driver in drivers {
        let same = |first: &DriverStatus| {
            first.port == driver.port
                && first.driver == driver.driver
                && first.mode == driver.mode
                && first.interface == driver.interface
        };
        match groups.iter_mut().find(|(first, _)| same(first)) {
            Some((_, queues)) => queues.extend(driver.queue),
            None => groups.push((driver, driver.queue.into_iter().collect())),
        }
    }
    groups.sort_by(|(a, _), (b, _)| b.port.cmp(&a.port));
    groups
        .into_iter()
        .map(|(driver, mut queues)| {
            let mut text = driver.driver.clone();
            if let Some(interface) = &driver.interface {
                text = format!("{text} on {interface}");
            }
            if !driver.mode.is_empty() {
                text = format!("{text}: {}", driver.mode);
            }
            queues.sort_unstable();
            queues.dedup();
            let queues: Vec<_> = queues.iter().map(u32::to_string).collect();
            match queues.as_slice() {
                [] => {}
                [queue] => text = format!("{text}, queue {queue}"),
                queues => text = format!("{text}, queues {}", queues.join(" ")),
            }
            (driver.port.as_str(), text)
        })
        .collect()
}

/// A table without lines.
fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

/// The table's text, its columns two spaces apart.
fn text(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// The two largest units: `3d 4h`, `2m 5s`, `7s`.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// Bytes as `wg show` gives them: powers of 1024, two decimals.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut scaled = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        // What would round up to 1024.00 belongs to the next unit.
        if scaled < 1023.995 {
            break;
        }
        scaled /= 1024.0;
        unit = larger;
    }
    format!("{scaled:.2} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let seconds = [0, 59, 60, 125, 3599, 3600, 86399, 86400, 273_600];
        assert_eq!(
            seconds.map(age),
            [
                "0s", "59s", "1m 0s", "2m 5s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "3d 4h"
            ]
        );
    }

    #[test]
    fn byte_counts() {
        let counts = [0, 1023, 1024, 1536, 1_048_575, 1 << 20, 5 << 30, u64::MAX];
        assert_eq!(
            counts.map(bytes),
            [
                "0 B",
                "1023 B",
                "1.00 KiB",
                "1.50 KiB",
                "1.00 MiB",
                "1.00 MiB",
                "5.00 GiB",
                "16384.00 PiB"
            ]
        );
    }

    #[test]
    fn a_tunnel_with_and_without_peers() {
        let mut status = super::super::report::sample();
        let mut text = Vec::new();
        write(&mut text, std::slice::from_ref(&status)).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert!(text.starts_with("tunnel"), "{text}");
        assert!(
            lines[0].starts_with("tunnel") && lines[0].ends_with("mesh0"),
            "{text}"
        );
        assert!(
            text.contains("xdp on eth0: zero copy, queues 0 1"),
            "{text}"
        );
        let header = lines.iter().position(|l| l.starts_with("LABEL")).unwrap();
        let words: Vec<_> = lines[header + 1]
            .split("  ")
            .map(str::trim)
            .filter(|w| !w.is_empty())
            .collect();
        assert_eq!(
            words,
            [
                "node-b",
                "KEY=",
                "192.0.2.2:51820",
                "up",
                "2m 5s ago",
                "1.50 KiB",
                "92 B",
                "25 s",
                "10.0.0.2/32, fd00::2/128"
            ]
        );
        assert!(text.contains("no huge pages"), "{text}");
        assert!(text.contains("decrypt_failed"), "{text}");
        let summed = lines
            .iter()
            .find(|l| l.starts_with("outer rx (xdp): rx_dropped"));
        assert!(summed.unwrap().ends_with(" 41"), "{text}");
        assert!(!text.contains("always_zero"), "{text}");

        status.peers.clear();
        status.counters.clear();
        status.drivers.clear();
        let mut text = Vec::new();
        write(&mut text, &[status.clone(), status]).unwrap();
        assert_eq!(String::from_utf8(text).unwrap().matches("LABEL").count(), 2);
    }
}
