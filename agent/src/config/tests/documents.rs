//! Examples and documents say what the code does.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::{Overrides, load, toml, wg_quick};
use super::read;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn manual() -> String {
    fs::read_to_string(project().join("docs/configuration.md")).unwrap()
}

#[test]
fn every_example_is_accepted() {
    let mut names = Vec::new();
    for entry in fs::read_dir(project().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        // Machine configurations are no tunnel's: the command line's tests join with them.
        if path
            .extension()
            .is_some_and(|e| e == "service" || e == "yaml")
        {
            continue;
        }
        let loaded = match load(&path, &Overrides::default()) {
            Ok(loaded) => loaded,
            Err(error) => panic!("{error}"),
        };
        assert!(!loaded.config.peers.is_empty(), "{}", path.display());
        names.push(path.extension().unwrap().to_owned());
    }
    assert!(names.iter().any(|e| e == "toml") && names.iter().any(|e| e == "conf"));
}

#[test]
fn the_manuals_blocks_are_accepted() {
    let manual = manual();
    let mut seen = Vec::new();
    for block in manual.split("\n```") {
        let (language, text) = block.split_once('\n').unwrap_or_default();
        let file = match language {
            "toml" => "mesh0.toml",
            "ini" => "wg0.conf",
            _ => continue,
        };
        // A key file cannot be had here.
        let text = text.replace(
            "private_key_file = \"/etc/ringspan/mesh0.key\"",
            &format!("private_key = \"{}\"", super::PRIVATE),
        );
        if let Err(error) = read(file, &text) {
            panic!("{error}\n{text}");
        }
        seen.push(file);
    }
    assert_eq!(seen, ["mesh0.toml", "wg0.conf"]);
}

#[test]
fn the_manual_has_every_key() {
    let manual = manual();
    for key in toml::keys().chain(wg_quick::keys()) {
        assert!(
            manual.contains(&format!("`{key}`")),
            "{key} is not documented"
        );
    }
}

#[test]
fn the_manuals_errors_are_the_programs() {
    let text = format!("{}\nmtu = 70000", "#\n".repeat(6) + "[interface]\n");
    let error = super::error("mesh0.toml", &text);
    assert!(manual().contains(&format!("error: {error}\n")), "{error}");
}
