//! The prefixes that are routed into the tunnel, and what changes between two such sets.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::table::{SET_IPV4, SET_IPV6, TABLE};
use crate::runtime::rtnetlink::Family;

/// A set of prefixes of which none overlaps another: nftables' interval sets take no others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Routed(BTreeSet<IpNet>);

impl Routed {
    /// The fewest prefixes that cover `prefixes`.
    pub(super) fn new(prefixes: &[IpNet]) -> Self {
        let prefixes: Vec<IpNet> = prefixes.iter().map(IpNet::trunc).collect();
        Self(IpNet::aggregate(&prefixes).into_iter().collect())
    }

    /// The transaction that makes the sets of the table this one, whatever they hold.
    pub(super) fn whole(&self) -> String {
        let mut text = String::new();
        for (family, set) in SETS {
            text.push_str(&format!("flush set inet {TABLE} {set}\n"));
            elements(&mut text, "add", set, of(family, self.0.iter()));
        }
        text
    }

    /// The transaction that makes the sets of the table this one where they hold `old`.
    pub(super) fn change_from(&self, old: &Self) -> String {
        let mut text = String::new();
        // Deletions first: what is added may lie within what goes.
        for (family, set) in SETS {
            elements(
                &mut text,
                "delete",
                set,
                of(family, old.0.difference(&self.0)),
            );
        }
        for (family, set) in SETS {
            elements(&mut text, "add", set, of(family, self.0.difference(&old.0)));
        }
        text
    }
}

const SETS: [(Family, &str); 2] = [(Family::Ipv4, SET_IPV4), (Family::Ipv6, SET_IPV6)];

#[expect(single_use_lifetimes, reason = "`impl Trait` cannot elide it yet")]
fn of<'a>(
    family: Family,
    prefixes: impl Iterator<Item = &'a IpNet>,
) -> impl Iterator<Item = String> {
    prefixes
        .filter(move |prefix| Family::of(prefix) == family)
        .map(ToString::to_string)
}

/// One statement for all elements; none for none.
fn elements(text: &mut String, verb: &str, set: &str, prefixes: impl Iterator<Item = String>) {
    let prefixes: Vec<String> = prefixes.collect();
    if !prefixes.is_empty() {
        let prefixes = prefixes.join(", ");
        text.push_str(&format!(
            "{verb} element inet {TABLE} {set} {{ {prefixes} }}\n"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(prefixes: &[&str]) -> Routed {
        let prefixes: Vec<IpNet> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        Routed::new(&prefixes)
    }

    #[test]
    fn prefixes_within_others_and_neighbours_become_one() {
        let set = routed(&[
            "10.0.0.7/8",
            "10.1.0.0/16",
            "192.0.2.0/25",
            "192.0.2.128/25",
        ]);
        assert_eq!(set, routed(&["192.0.2.0/24", "10.0.0.0/8"]));
    }

    #[test]
    fn only_what_differs_is_said() {
        let old = routed(&["10.0.0.0/24", "10.2.0.0/24", "2001:db8::/64"]);
        let new = routed(&["10.2.0.0/24", "10.3.0.0/24", "2001:db8::/64"]);
        assert_eq!(
            new.change_from(&old),
            "delete element inet ringspan routed4 { 10.0.0.0/24 }\n\
             add element inet ringspan routed4 { 10.3.0.0/24 }\n"
        );
        assert_eq!(new.change_from(&new), "");
    }

    #[test]
    fn the_whole_set_starts_from_nothing() {
        assert_eq!(
            routed(&["2001:db8::/64"]).whole(),
            "flush set inet ringspan routed4\n\
             flush set inet ringspan routed6\n\
             add element inet ringspan routed6 { 2001:db8::/64 }\n"
        );
    }
}
