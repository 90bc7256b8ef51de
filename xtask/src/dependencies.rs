//! `cargo xtask dependencies`: no locked dependency is one that `deny.toml` bans, by name or by
//! a version below the first good one. `cargo deny` checks more, where it is installed; this
//! needs nothing.

use std::fs;

use crate::{Result, workspace};

/// The workspaces' lock files.
const LOCKS: [&str; 3] = ["Cargo.lock", "ebpf/Cargo.lock", "fuzz/Cargo.lock"];

/// A ban: a crate, altogether or some of its versions.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ban {
    name: String,
    from: Version,
    below: Option<Version>,
    reason: String,
}

/// Major, minor, patch. What follows (`-rc.1`, `+build`) is not looked at.
type Version = [u64; 3];

pub(crate) fn check() -> Result<()> {
    let root = workspace::root();
    let bans = bans(&fs::read_to_string(root.join("deny.toml"))?)?;
    let mut found = Vec::new();
    let mut seen = 0;
    for lock in LOCKS {
        let text = fs::read_to_string(root.join(lock))?;
        for (name, version) in locked(&text)? {
            seen += 1;
            found.extend(
                bans.iter()
                    .filter(|ban| forbids(ban, &name, version))
                    .map(|ban| format!("{lock}: {name} {version:?}: {}", ban.reason)),
            );
        }
    }
    if found.is_empty() {
        println!(
            "{seen} locked packages, none of them banned ({} bans)",
            bans.len()
        );
        Ok(())
    } else {
        Err(found.join("\n").into())
    }
}

fn forbids(ban: &Ban, name: &str, version: Version) -> bool {
    ban.name == name && version >= ban.from && ban.below.is_none_or(|below| version < below)
}

/// The bans of `deny.toml`.
fn bans(text: &str) -> Result<Vec<Ban>> {
    let file: toml::Table = text.parse()?;
    let entries = file
        .get("bans")
        .and_then(|bans| bans.get("deny"))
        .and_then(toml::Value::as_array)
        .ok_or("deny.toml has no bans.deny")?;
    entries
        .iter()
        .map(|entry| {
            let field = |name| entry.get(name).and_then(toml::Value::as_str);
            let spec = field("crate").ok_or("a ban of deny.toml names no crate")?;
            let (name, range) = spec.split_once(':').unwrap_or((spec, ""));
            let (mut from, mut below) = ([0; 3], None);
            for bound in range.split(',').map(str::trim).filter(|b| !b.is_empty()) {
                if let Some(first) = bound.strip_prefix(">=") {
                    from = version(first)?;
                } else if let Some(end) = bound.strip_prefix('<') {
                    below = Some(version(end)?);
                } else {
                    let known = "only `>=VERSION` and `<VERSION` are understood";
                    return Err(format!("{spec}: {known}").into());
                }
            }
            Ok(Ban {
                name: name.to_owned(),
                from,
                below,
                reason: field("reason")
                    .ok_or(format!("{spec} has no reason"))?
                    .to_owned(),
            })
        })
        .collect()
}

/// Names and versions of a lock file.
fn locked(text: &str) -> Result<Vec<(String, Version)>> {
    let file: toml::Table = text.parse()?;
    let packages = file
        .get("package")
        .and_then(toml::Value::as_array)
        .ok_or("a lock file without packages")?;
    packages
        .iter()
        .map(|package| {
            let field = |name| {
                let value = package.get(name).and_then(toml::Value::as_str);
                value.ok_or(format!("a locked package without {name}"))
            };
            Ok((field("name")?.to_owned(), version(field("version")?)?))
        })
        .collect()
}

fn version(text: &str) -> Result<Version> {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let mut parts = core.split('.').map(str::parse);
    let mut version = [0; 3];
    for place in &mut version {
        *place = match parts.next() {
            Some(part) => part.map_err(|_| format!("{text} is no version"))?,
            None => 0,
        };
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_reaches_up_to_its_version() {
        let bans = bans(
            "[bans]\ndeny = [{ crate = \"a:<1.10.2\", reason = \"x\" }, { crate = \"b\", reason = \"y\" }, \
             { crate = \"a:>=2.0.0, <2.0.1\", reason = \"z\" }]",
        )
        .unwrap();
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.9.7\"\n\
                    [[package]]\nname = \"a\"\nversion = \"1.10.2\"\n\
                    [[package]]\nname = \"a\"\nversion = \"2.0.0\"\n\
                    [[package]]\nname = \"a\"\nversion = \"2.0.1\"\n\
                    [[package]]\nname = \"b\"\nversion = \"9.0.0-rc.1+x\"\n\
                    [[package]]\nname = \"ab\"\nversion = \"0.1.0\"\n";
        let hit: Vec<_> = locked(lock)
            .unwrap()
            .into_iter()
            .filter(|(name, version)| bans.iter().any(|ban| forbids(ban, name, *version)))
            .collect();
        assert_eq!(
            hit,
            [
                ("a".to_owned(), [1, 9, 7]),
                ("a".to_owned(), [2, 0, 0]),
                ("b".to_owned(), [9, 0, 0])
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_no_permission() {
        assert!(bans("[bans]\ndeny = [{ crate = \"a:=1\", reason = \"x\" }]").is_err());
        assert!(bans("[bans]\ndeny = [{ crate = \"a:<one\", reason = \"x\" }]").is_err());
        assert!(bans("[bans]\n").is_err());
        assert!(locked("version = 4\n").is_err());
    }

    #[test]
    fn this_projects_locks_are_good() {
        check().unwrap();
    }
}
