//! What the nodes say of themselves and of each other, and what the traffic came to.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanBytes;
use ringspan_tests::traffic::Pings;

use super::load::{TcpResult, UdpResult, rate};
use super::mesh::{Mesh, Node};

/// A table of peers for each node, under the names of Talos's `KubeSpanPeerStatus`.
pub(crate) fn nodes(mesh: &Mesh) {
    for node in mesh.nodes() {
        println!("\n{}  {}", node.label, node.address);
        for line in drivers(node) {
            println!("  {line}");
        }
        for note in node.plane.notes() {
            println!("  note: {note}");
        }
        let mut table = plain(&["LABEL", "ENDPOINT", "STATE", "RX", "TX", "HANDSHAKE"]);
        let mut statuses = node.plane.statuses();
        statuses.sort_by(|a, b| a.label.cmp(&b.label));
        for status in statuses {
            table.add_row([
                status.label,
                status
                    .endpoint
                    .map_or_else(|| "-".into(), |e| e.to_string()),
                status.state.to_string(),
                HumanBytes(status.receive_bytes).to_string(),
                HumanBytes(status.transmit_bytes).to_string(),
                status.last_handshake.map_or_else(
                    || "never".into(),
                    |age| format!("{:.1} s ago", age.as_secs_f64()),
                ),
            ]);
        }
        right(&mut table, &[3, 4]);
        println!("{table}");
    }
}

/// The drivers of a node, alike ones in one line.
fn drivers(node: &Node) -> Vec<String> {
    let mut groups: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for driver in node.plane.drivers() {
        let info = driver.info;
        let words = [info.driver, &info.mode, &info.interface]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(", ");
        *groups.entry((driver.port, words)).or_default() += 1;
    }
    groups
        .into_iter()
        .map(|((port, words), count)| match count {
            1 => format!("{port}: {words}"),
            _ => format!("{port}: {count} x {words}"),
        })
        .collect()
}

/// Throughput and round trips of each pair.
pub(crate) fn pairs(mesh: &Mesh, idle: &[Pings], tcp: &[TcpResult], udp: &[UdpResult]) {
    let mut table = plain(&[
        "PAIR",
        "TCP UP",
        "TCP DOWN",
        "UDP ECHOED",
        "LOST",
        "RTT MEDIAN",
        "RTT 99%",
    ]);
    let nodes = mesh.nodes();
    for (at, (from, to)) in mesh.pairs().into_iter().enumerate() {
        let mut row = vec![format!("{} - {}", nodes[from].label, nodes[to].label)];
        if let Some(tcp) = tcp.get(at) {
            row.push(rate(tcp.uploaded, tcp.upload_time));
            row.push(rate(tcp.downloaded, tcp.download_time));
        }
        if let Some(UdpResult { exchange, .. }) = udp.get(at) {
            row.push(exchange.echoed.to_string());
            row.push((exchange.sent - exchange.echoed).to_string());
        }
        if let Some(pings) = idle.get(at) {
            row.push(micros(pings.quantile(0.5)));
            row.push(micros(pings.quantile(0.99)));
        }
        table.add_row(row);
    }
    right(&mut table, &[1, 2, 3, 4, 5, 6]);
    println!("\nall pairs at once; round trips while idle\n{table}");
}

fn micros(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".into(), |time| format!("{} us", time.as_micros()))
}

fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
