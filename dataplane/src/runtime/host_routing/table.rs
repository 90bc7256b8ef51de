//! The nftables table that marks packets.

use super::HostRoutingConfig;

/// Its name, in the family `inet`. Not that of Talos: whoever finds a table should find its owner,
/// and nobody may take the other's away.
pub const TABLE: &str = "ringspan";

pub(super) const SET_IPV4: &str = "routed4";
pub(super) const SET_IPV6: &str = "routed6";

/// What the comment of the table begins with; a table without it is somebody else's.
pub(super) const COMMENT: &str = "ringspan: into the tunnel";

/// The transaction that makes the table, or makes one that is there as it should be. Its sets keep
/// what they hold: between two runs nothing leaves in clear that was not to.
pub(super) fn install(config: &HostRoutingConfig) -> String {
    let HostRoutingConfig {
        link,
        outer_mark,
        tunnel_mark,
        mark_mask,
        max_segment_ipv4,
        max_segment_ipv6,
        ..
    } = config;
    let (clear, set) = (!mark_mask, tunnel_mark);
    let outer = format!("meta mark & {mark_mask:#010x} == {outer_mark:#010x} accept");
    let mark = |destination: &str| {
        format!("{destination} meta mark set meta mark & {clear:#010x} ^ {set:#010x} accept")
    };
    let clamp = |destination: &str, size: &u16| {
        format!(
            "{destination} tcp flags & (syn | rst) == syn tcp option maxseg size > {size} \
             tcp option maxseg size set {size}"
        )
    };
    let (ipv4, ipv6) = (
        format!("ip daddr @{SET_IPV4}"),
        format!("ip6 daddr @{SET_IPV6}"),
    );
    let prerouting = [outer.clone(), mark(&ipv4), mark(&ipv6)];
    let outgoing = [
        outer,
        "oifname \"lo\" accept".to_owned(),
        clamp(&ipv4, max_segment_ipv4),
        clamp(&ipv6, max_segment_ipv6),
        mark(&ipv4),
        mark(&ipv6),
    ];
    let rules = |chain: &str, rules: &[String]| {
        rules
            .iter()
            .map(|rule| format!("add rule inet {TABLE} {chain} {rule}\n"))
            .collect::<String>()
    };
    // A link's name may hold anything but '/' and spaces; a quote would end the comment.
    let link = link.replace('"', "?");
    format!(
        "table inet {TABLE} {{\n\
         comment \"{COMMENT} {link}\"\n\
         set {SET_IPV4} {{ type ipv4_addr; flags interval; }}\n\
         set {SET_IPV6} {{ type ipv6_addr; flags interval; }}\n\
         chain prerouting {{ type filter hook prerouting priority filter; policy accept; }}\n\
         chain outgoing {{ type route hook output priority filter; policy accept; }}\n\
         }}\n\
         flush chain inet {TABLE} prerouting\n\
         flush chain inet {TABLE} outgoing\n\
         {}{}",
        rules("prerouting", &prerouting),
        rules("outgoing", &outgoing),
    )
}

/// The transaction that takes the table away, if it is there.
pub(super) fn remove() -> String {
    // Deleting what is not there fails; adding what is there does not.
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}
