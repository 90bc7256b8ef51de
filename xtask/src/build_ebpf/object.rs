//! What of an eBPF object ends up in the kernel.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind};

use super::manifest::hex;
use crate::Result;

/// The loadable sections of `object` by name, each with a hash over its bytes and relocations.
/// Programs, maps and the licence are here; symbol and string tables are not.
pub(super) fn sections(object: &[u8]) -> Result<BTreeMap<String, String>> {
    let file = object::File::parse(object)?;
    let mut sections = BTreeMap::new();
    for section in file.sections() {
        let loadable = matches!(
            section.kind(),
            SectionKind::Text | SectionKind::Data | SectionKind::ReadOnlyData
        );
        if !loadable || section.size() == 0 {
            continue;
        }
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(section.data()?);
        for (offset, relocation) in section.relocations() {
            let target = match relocation.target() {
                RelocationTarget::Symbol(index) => target(&file, index)?,
                other => return Err(format!("unexpected relocation to {other:?}").into()),
            };
            context.update(format!("{offset} {target} {}", relocation.addend()).as_bytes());
        }
        sections.insert(section.name()?.to_owned(), hex(context.finish().as_ref()));
    }
    Ok(sections)
}

/// What a relocation points to, in words that do not depend on the compiler's name mangling.
fn target(file: &object::File<'_>, index: object::SymbolIndex) -> Result<String> {
    let symbol = file.symbol_by_index(index)?;
    let section = match symbol.section_index() {
        Some(section) => file.section_by_index(section)?.name()?.to_owned(),
        None => symbol.name()?.to_owned(),
    };
    Ok(format!("{section}+{}", symbol.address()))
}

/// The names of the sections in which two objects differ.
pub(super) fn differences(
    one: &BTreeMap<String, String>,
    other: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut names: Vec<_> = one
        .keys()
        .chain(other.keys())
        .filter(|name| one.get(*name) != other.get(*name))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_once_whichever_side_has_them() {
        let one = BTreeMap::from([("maps", "1"), ("text", "2"), ("gone", "3")]);
        let other = BTreeMap::from([("maps", "1"), ("text", "9"), ("new", "4")]);
        let owned = |map: BTreeMap<&str, &str>| {
            map.into_iter()
                .map(|(name, hash)| (name.to_owned(), hash.to_owned()))
                .collect()
        };
        assert_eq!(
            differences(&owned(one), &owned(other)),
            ["gone", "new", "text"]
        );
    }
}
