//! A default route through the tunnel, as `wg-quick` sets it: the route stands in a table of its
//! own, a rule leads everything there but the tunnel's own datagrams, which bear a mark, and
//! another rule lets the main table's other routes come first.

use std::fs;
use std::io;

use ipnet::IpNet;
use ringspan::runtime::nftables::{Nft, NftError};
use ringspan::runtime::rtnetlink::{Family, HostNetlink, MAIN_TABLE, Protocol, Rule, RuleSelector};

use super::SetupError;
use crate::config::{Config, Routes};

/// The first mark that is tried where neither mark nor port is given: `wg-quick`'s.
const FIRST_MARK: u32 = 51820;

/// What the comment of our nftables tables begins with.
const COMMENT: &str = "ringspan up";

/// The families with a default route through the tunnel for which policy routing is wanted.
pub(super) fn families(config: &Config) -> Vec<Family> {
    let default = |family: &Family| {
        let mut prefixes = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
        prefixes.any(|prefix| prefix.prefix_len() == 0 && Family::of(prefix) == *family)
    };
    match config.routes {
        Routes::Auto => Family::ALL.into_iter().filter(default).collect(),
        Routes::Off | Routes::Table(_) => Vec::new(),
    }
}

/// The mark of the tunnel's datagrams, and the number of its table: that of the file, or, where
/// policy routing needs one, the first from the port on whose table is empty. 0: none.
pub(crate) fn mark(config: &Config) -> io::Result<u32> {
    if config.fwmark != 0 || families(config).is_empty() {
        return Ok(config.fwmark);
    }
    let mut netlink = HostNetlink::open()?;
    let mut mark = match config.listen_port {
        0 => FIRST_MARK,
        port => port.into(),
    };
    loop {
        let mut used = matches!(mark, 253..=255);
        for family in Family::ALL {
            // A family that the kernel lacks has no routes either.
            let routes = netlink.routes(family, mark).unwrap_or_default();
            used |= !routes.is_empty();
        }
        if !used {
            return Ok(mark);
        }
        mark += 1;
    }
}

/// The two rules of a family, in the order in which they are to be set; lower than every other
/// rule but the local table's, as the kernel places rules without a priority.
pub(super) fn rules(
    netlink: &mut HostNetlink,
    family: Family,
    mark: u32,
) -> Result<[Rule; 2], SetupError> {
    let refused = |source| SetupError::Rule { family, source };
    let present = netlink.rules(family).map_err(refused)?;
    let lowest = present
        .iter()
        .map(|rule| rule.priority)
        .filter(|p| *p != 0)
        .min();
    let lowest = lowest.unwrap_or(32766);
    let (Some(by_mark), Some(suppress)) = (lowest.checked_sub(1), lowest.checked_sub(2)) else {
        return Err(SetupError::NoPriority { family });
    };
    if suppress == 0 {
        return Err(SetupError::NoPriority { family });
    }
    // The exception first: in between, nothing local takes the way of the tunnel.
    Ok([
        Rule {
            family,
            priority: suppress,
            selector: RuleSelector::SuppressDefault,
            table: MAIN_TABLE,
            protocol: Protocol::RINGSPAN,
        },
        Rule {
            family,
            priority: by_mark,
            selector: RuleSelector::NotMark(mark),
            table: mark,
            protocol: Protocol::RINGSPAN,
        },
    ])
}

/// Removes what a tunnel with this mark has left that was killed: its rules lead to a table that
/// went empty with its interface. To be called before that table is filled.
pub(super) fn remove_stale(netlink: &mut HostNetlink, family: Family, mark: u32) -> io::Result<()> {
    if !netlink.routes(family, mark)?.is_empty() {
        return Ok(());
    }
    let rules = netlink.rules(family)?;
    let ours = |rule: &&Rule| rule.protocol == Protocol::RINGSPAN;
    let by_mark = rules
        .iter()
        .filter(ours)
        .filter(|rule| rule.selector == RuleSelector::NotMark(mark) && rule.table == mark);
    for rule in by_mark {
        netlink.remove_rule(rule)?;
        let beside = rules.iter().filter(ours).find(|other| {
            other.selector == RuleSelector::SuppressDefault && other.priority + 1 == rule.priority
        });
        if let Some(beside) = beside {
            netlink.remove_rule(beside)?;
        }
    }
    Ok(())
}

/// Lets the reverse path filter look at marks, so that answers to the tunnel's datagrams pass it
/// where it is strict. The setting is the namespace's, and stays: another tunnel may need it.
pub(super) fn look_at_marks() {
    let path = "/proc/sys/net/ipv4/conf/all/src_valid_mark";
    let set = || match fs::read_to_string(path)?.trim() {
        "0" => fs::write(path, "1"),
        _ => Ok(()),
    };
    if let Err(error) = set() {
        tracing::warn!(
            "{path} cannot be set to 1: {error}; where net.ipv4.conf.*.rp_filter is 1, answers of \
             the peers are dropped"
        );
    }
}

/// The nftables table that protects a tunnel.
#[derive(Debug)]
pub(super) struct Shield {
    nft: Nft,
    name: String,
}

impl Shield {
    /// Sets it: packets for the tunnel's addresses that come from elsewhere are dropped, because
    /// with all traffic in the tunnel a neighbour could otherwise find out which connections are
    /// in it; and answers to the tunnel's datagrams bear their mark, for the reverse path filter.
    pub(super) fn set(
        interface: &str,
        addresses: &[IpNet],
        families: &[Family],
        mark: u32,
    ) -> Result<Self, NftError> {
        let shield = Self {
            nft: Nft::find()?,
            name: table_name(interface),
        };
        let name = &shield.name;
        let mut text = match shield.nft.table("inet", name)? {
            None => String::new(),
            Some(listing) if listing.contains(COMMENT) => format!("delete table inet {name}\n"),
            // Adding to it would change it: the error is nft's own, which names it.
            Some(_) => format!("create table inet {name}\n"),
        };
        text.push_str(&format!(
            "table inet {name} {{\n\
             comment \"{COMMENT} {interface}\"\n\
             chain preraw {{ type filter hook prerouting priority raw; policy accept; }}\n\
             chain premangle {{ type filter hook prerouting priority mangle; policy accept; }}\n\
             chain postmangle {{ type filter hook postrouting priority mangle; policy accept; }}\n\
             }}\n"
        ));
        for address in addresses {
            if !families.contains(&Family::of(address)) {
                continue;
            }
            let (ip, family) = (
                address.addr(),
                if address.addr().is_ipv4() {
                    "ip"
                } else {
                    "ip6"
                },
            );
            text.push_str(&format!(
                "add rule inet {name} preraw iifname != \"{interface}\" {family} daddr {ip} \
                 fib saddr type != local drop\n"
            ));
        }
        text.push_str(&format!(
            "add rule inet {name} premangle meta l4proto udp ct mark {mark} meta mark set {mark}\n\
             add rule inet {name} postmangle meta l4proto udp meta mark {mark} ct mark set {mark}\n"
        ));
        shield.nft.apply(&format!("set table inet {name}"), &text)?;
        Ok(shield)
    }

    /// Its name, for people.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Takes it away, if it is still there.
    pub(super) fn remove(&self) -> Result<(), NftError> {
        let name = &self.name;
        self.nft.apply(
            &format!("remove table inet {name}"),
            &format!("add table inet {name}\ndelete table inet {name}\n"),
        )
    }
}

/// An interface's name may hold characters that a table's may not.
fn table_name(interface: &str) -> String {
    let mut name = "ringspan-".to_owned();
    for character in interface.chars() {
        match character {
            '=' => name.push_str("/3d"),
            '+' => name.push_str("/2b"),
            other => name.push(other),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_have_no_character_that_nft_refuses() {
        assert_eq!(table_name("wg0"), "ringspan-wg0");
        assert_eq!(table_name("a=b+c_d.e-f"), "ringspan-a/3db/2bc_d.e-f");
    }
}
