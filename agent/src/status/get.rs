//! `ringspan get`: a member's resources, as talosctl prints a Talos node's.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use ringspan::control::kubespan::resource::{Kind, NAMESPACE, Resource};

use super::client::{ClientError, names, request, unexpected};
use super::protocol::{Content, Request, Resources};
use crate::cli::{Get, ResourceOutput};

/// How often a watch asks.
const WATCH: Duration = Duration::from_millis(500);
/// Spaces between columns.
const GAP: usize = 3;

/// What has happened to a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Created,
    Updated,
    Destroyed,
}

impl Event {
    const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Destroyed => "destroyed",
        }
    }

    /// Its sign in a table.
    const fn sign(self) -> &'static str {
        match self {
            Self::Created => "+",
            Self::Updated => "",
            Self::Destroyed => "-",
        }
    }
}

/// Prints the resources; goes on with what changes where that is wanted.
pub(crate) fn get(options: &Get, mut out: impl Write) -> Result<(), ClientError> {
    let mut printer = Printer::new(options);
    let mut known: BTreeMap<(String, String), (String, Resource)> = BTreeMap::new();
    loop {
        let mut now = BTreeMap::new();
        for (tunnel, Resources { node, items }) in ask_all(options)? {
            for item in items {
                if options.id.as_ref().is_none_or(|id| *id == item.metadata.id) {
                    let place = (tunnel.clone(), item.metadata.id.clone());
                    now.insert(place, (node.clone(), item));
                }
            }
        }
        if !options.watch {
            let all: Vec<_> = now
                .into_values()
                .map(|(node, one)| (node, one, None))
                .collect();
            printer.print(&mut out, &all)?;
            return Ok(());
        }
        printer.print(&mut out, &changes(&known, &now))?;
        out.flush()?;
        known = now;
        thread::sleep(WATCH);
    }
}

type Known = BTreeMap<(String, String), (String, Resource)>;
type Line = (String, Resource, Option<Event>);

/// What has happened from one look to the next.
fn changes(before: &Known, now: &Known) -> Vec<Line> {
    let gone = before.iter().filter(|(place, _)| !now.contains_key(*place));
    let gone = gone.map(|(_, (node, one))| (node.clone(), one.clone(), Some(Event::Destroyed)));
    let there = now.iter().filter_map(|(place, (node, one))| {
        let event = match before.get(place) {
            None => Event::Created,
            Some((_, old)) if old.metadata.created != one.metadata.created => Event::Created,
            Some((_, old)) if old != one => Event::Updated,
            Some(_) => return None,
        };
        Some((node.clone(), one.clone(), Some(event)))
    });
    gone.chain(there).collect()
}

/// The resources of the tunnel that was named, or of all members.
fn ask_all(options: &Get) -> Result<Vec<(String, Resources)>, ClientError> {
    let run_dir: &Path = &options.run_dir.path;
    let ask = Request::get(options.resource, options.show_private_key);
    let one = |name: &str| match request(run_dir, name, &ask)? {
        Content::Resources(resources) => Ok((name.to_owned(), resources)),
        content => Err(unexpected(name, content)),
    };
    if let Some(name) = &options.name {
        return Ok(vec![one(name)?]);
    }
    let mut found = Vec::new();
    for name in names(run_dir)? {
        match one(&name) {
            Ok(resources) => found.push(resources),
            // Gone meanwhile, or a tunnel of another sort.
            Err(
                ClientError::Stale { .. }
                | ClientError::Unknown { .. }
                | ClientError::Refused { .. },
            ) => {}
            Err(error) => return Err(error),
        }
    }
    match found.is_empty() {
        true => Err(ClientError::NoMember {
            run_dir: run_dir.to_owned(),
        }),
        false => Ok(found),
    }
}

struct Printer {
    kind: Kind,
    output: ResourceOutput,
    watch: bool,
    /// Whether something was printed.
    begun: bool,
    /// Of the columns of a table, in characters: they only grow.
    widths: Vec<usize>,
}

impl Printer {
    fn new(options: &Get) -> Self {
        Self {
            kind: options.resource,
            output: options.output,
            watch: options.watch,
            begun: false,
            widths: Vec::new(),
        }
    }

    fn print(&mut self, out: &mut impl Write, lines: &[Line]) -> Result<(), ClientError> {
        let begun = core::mem::replace(&mut self.begun, true);
        match self.output {
            ResourceOutput::Table => self.table(out, lines, !begun)?,
            ResourceOutput::Json => {
                for (node, one, event) in lines {
                    write!(out, "{}", one.to_json(node, event.map(Event::word)))?;
                }
            }
            ResourceOutput::Yaml => {
                for (number, (node, one, event)) in lines.iter().enumerate() {
                    if begun || number > 0 {
                        writeln!(out, "---")?;
                    }
                    write!(out, "{}", one.to_yaml(node, event.map(Event::word)))?;
                }
                // No document yet: the next one is the first.
                self.begun = begun || !lines.is_empty();
            }
        }
        Ok(())
    }

    fn table(
        &mut self,
        out: &mut impl Write,
        lines: &[Line],
        header: bool,
    ) -> Result<(), ClientError> {
        let mut rows = Vec::new();
        if header {
            let sign = self.watch.then_some("*");
            let fixed = ["NAMESPACE", "TYPE", "ID", "VERSION"];
            let own = self.kind.columns().iter().map(|(heading, _)| *heading);
            let all = ["NODE"].into_iter().chain(sign).chain(fixed).chain(own);
            rows.push(all.map(str::to_owned).collect());
        }
        for (node, one, event) in lines {
            let sign = event.map(|event| event.sign().to_owned());
            let fixed = [
                NAMESPACE.to_owned(),
                self.kind.display_type().to_owned(),
                one.metadata.id.clone(),
                one.metadata.version.to_string(),
            ];
            let own = self
                .kind
                .columns()
                .iter()
                .map(|(_, field)| one.column(field));
            let all = [node.clone()]
                .into_iter()
                .chain(sign)
                .chain(fixed)
                .chain(own);
            rows.push(all.collect::<Vec<String>>());
        }
        for row in &rows {
            self.widths.resize(row.len().max(self.widths.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&self.widths) {
                line.push_str(&format!("{cell:width$}{:GAP$}", ""));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ringspan::control::PeerStatus;
    use ringspan::control::kubespan::resource::ResourceBook;
    use std::time::SystemTime;

    use super::*;
    use crate::cli::RunDir;

    fn options(output: ResourceOutput, watch: bool) -> Get {
        Get {
            resource: Kind::PeerStatus,
            name: None,
            id: None,
            output,
            watch,
            show_private_key: false,
            run_dir: RunDir { path: "/".into() },
        }
    }

    fn known(resources: Vec<Resource>) -> Known {
        let place = |one: &Resource| ("kubespan".to_owned(), one.metadata.id.clone());
        let one = |one: Resource| (place(&one), ("node".to_owned(), one));
        resources.into_iter().map(one).collect()
    }

    #[test]
    fn a_table_has_talosctls_columns() {
        let mut status = PeerStatus::new([1; 32].into());
        status.label = "other".to_owned();
        status.endpoint = Some("192.0.2.7:51820".parse().unwrap());
        status.receive_bytes = 1234;
        let mut book = ResourceBook::new();
        let shown = book.peer_statuses(SystemTime::UNIX_EPOCH, &[status]);
        let lines: Vec<Line> = vec![("node".to_owned(), shown[0].clone(), None)];
        let mut text = Vec::new();
        let mut printer = Printer::new(&options(ResourceOutput::Table, false));
        printer.print(&mut text, &lines).unwrap();
        let text = String::from_utf8(text).unwrap();
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let header = "NODE NAMESPACE TYPE ID VERSION LABEL ENDPOINT STATE RX TX";
        assert_eq!(words[0].join(" "), header);
        let key = &shown[0].metadata.id;
        let row = format!(
            "node kubespan KubeSpanPeerStatus {key} 1 other 192.0.2.7:51820 unknown 1234 0"
        );
        assert_eq!(words[1].join(" "), row);
    }

    #[test]
    fn a_watch_tells_what_has_happened() {
        let mut book = ResourceBook::new();
        let mut statuses = [1, 2].map(|byte| PeerStatus::new([byte; 32].into()));
        let mut look =
            |statuses: &[PeerStatus]| known(book.peer_statuses(SystemTime::UNIX_EPOCH, statuses));
        let first = look(&statuses);
        let events = |before: &Known, now: &Known| -> Vec<_> {
            changes(before, now)
                .into_iter()
                .filter_map(|(_, _, event)| event)
                .collect()
        };
        assert_eq!(events(&Known::new(), &first), [Event::Created; 2]);
        assert_eq!(events(&first, &look(&statuses)), []);
        statuses[0].receive_bytes = 1;
        let second = look(&statuses);
        assert_eq!(events(&first, &second), [Event::Updated]);
        assert_eq!(events(&second, &look(&statuses[..1])), [Event::Destroyed]);

        let mut printer = Printer::new(&options(ResourceOutput::Yaml, true));
        let mut text = Vec::new();
        printer.print(&mut text, &[]).unwrap();
        printer
            .print(&mut text, &changes(&Known::new(), &first))
            .unwrap();
        printer.print(&mut text, &changes(&first, &second)).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("node: node\nevent: created\n"), "{text}");
        assert_eq!(text.matches("---\n").count(), 2, "{text}");
        assert!(text.contains("event: updated\n"), "{text}");
    }
}
