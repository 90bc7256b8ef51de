//! From a draft to a configuration: what can only be judged when all of the file is known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;
use ringspan::crypto::{KeyError, PublicKey};

use super::draft::{Draft, Located, PeerDraft};
use super::error::{Invalid, Place, Problem, Shown};
use super::{
    Config, DEFAULT_MTU, EndpointName, Loaded, Note, OuterChoice, PeerConfig, Routes, file, value,
};
use crate::keys;

/// Judges the draft of the file at `path`, and reads the key files that it names.
pub(super) fn finish(mut draft: Draft, path: &Path) -> Result<Loaded, Invalid> {
    let name = name(&mut draft, path)?;
    let private_key = secret(
        Keys {
            inline: draft.private_key.take(),
            file: draft.private_key_file.take(),
            names: ("private_key", "private_key_file"),
        },
        path,
        &mut draft.notes,
    )?
    .ok_or_else(|| {
        let place = Place::new(draft.place.line, "private key");
        let hint = "the interface needs one: `ringspan genkey` makes it";
        Invalid::new(&place, Problem::Missing { hint })
    })?;

    let mtu = mtu(&draft)?;
    let own = keys::public_key(&private_key)
        .map_err(|source| Invalid::new(&Place::default(), Problem::PublicKeyOf { source }))?;
    distinct_peers(&draft.peers, &own)?;
    distinct_prefixes(&draft)?;
    if draft.routes == Routes::Auto && draft.fwmark == 0 {
        let notes = endpoints_inside(&draft.peers);
        draft.notes.extend(notes);
    }

    let mut notes = draft.notes;
    let mut peers = Vec::with_capacity(draft.peers.len());
    for peer in draft.peers {
        peers.push(finish_peer(peer, path, &mut notes)?);
    }
    let config = Config {
        name,
        private_key,
        listen_port: draft.listen_port,
        addresses: without_repeats(draft.addresses),
        mtu,
        fwmark: draft.fwmark,
        routes: draft.routes,
        outer: OuterChoice {
            driver: draft.driver,
            interface: draft.outer_interface,
            send: draft.send,
            mode: draft.xdp_mode,
            busy_poll: draft.busy_poll,
            busy_poll_budget: draft.busy_poll_budget,
            tx_checksum: draft.tx_checksum,
        },
        workers: draft.workers,
        spin: draft.spin,
        log: draft.log,
        peers,
    };
    Ok(Loaded { config, notes })
}

fn finish_peer(peer: PeerDraft, path: &Path, notes: &mut Vec<Note>) -> Result<PeerConfig, Invalid> {
    let public_key = peer_key(&peer)?.value;
    let preshared_key = secret(
        Keys {
            inline: peer.preshared_key,
            file: peer.preshared_key_file,
            names: ("preshared_key", "preshared_key_file"),
        },
        path,
        notes,
    )?;
    Ok(PeerConfig {
        label: peer.label,
        public_key,
        preshared_key,
        endpoints: peer.endpoints.into_iter().map(|e| e.value).collect(),
        allowed_ips: without_repeats(peer.allowed_ips),
        persistent_keepalive: peer.persistent_keepalive,
    })
}

/// The name given, else the file's.
fn name(draft: &mut Draft, path: &Path) -> Result<String, Invalid> {
    if let Some(name) = draft.name.take() {
        return Ok(name.value);
    }
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy())
        .unwrap_or_default();
    value::interface_name(
        &stem,
        "(the name comes from the file's: rename the file, or pass --name)",
    )
    .map_err(|problem| Invalid::new(&Place::default(), problem))
}

/// The two ways to give one secret.
struct Keys<K> {
    inline: Option<Located<K>>,
    file: Option<Located<std::path::PathBuf>>,
    names: (&'static str, &'static str),
}

fn secret<K: FromStr<Err = KeyError>>(
    keys: Keys<K>,
    path: &Path,
    notes: &mut Vec<Note>,
) -> Result<Option<K>, Invalid> {
    let given = match (keys.inline, keys.file) {
        (Some(_), Some(file)) => {
            let (first, second) = keys.names;
            return Err(Invalid::new(
                &file.place,
                Problem::Conflict { first, second },
            ));
        }
        (Some(key), None) => return Ok(Some(key.value)),
        (None, None) => return Ok(None),
        (None, Some(file)) => file,
    };
    // Relative to the configuration, so that a directory of both can move.
    let path = path
        .parent()
        .map_or_else(|| given.value.clone(), |folder| folder.join(&given.value));
    let text = match file::read_secret(&path) {
        Ok(text) => text,
        Err(source) => {
            return Err(Invalid::new(
                &given.place,
                Problem::SecretFile { path, source },
            ));
        }
    };
    if text.open_to_others {
        notes.push(Note {
            text: format!(
                "every user of this machine can read the secret key in {}: chmod 600 it",
                path.display()
            ),
            place: Some(given.place.clone()),
        });
    }
    match text.content.parse() {
        Ok(key) => Ok(Some(key)),
        Err(source) => Err(Invalid::new(
            &given.place,
            Problem::SecretFileKey { path, source },
        )),
    }
}

/// The MTU, large enough for IPv6 where the interface has an address of it (RFC 8200 §5).
fn mtu(draft: &Draft) -> Result<u16, Invalid> {
    let Some(mtu) = &draft.mtu else {
        return Ok(DEFAULT_MTU);
    };
    if mtu.value < 1280 && draft.addresses.iter().any(|a| a.value.addr().is_ipv6()) {
        return Err(Invalid::new(
            &mtu.place,
            Problem::OutOfRange {
                value: Shown::new(mtu.value.to_string()),
                wanted: "an interface with an IPv6 address needs an MTU of 1280 bytes or more",
            },
        ));
    }
    Ok(mtu.value)
}

fn peer_key(peer: &PeerDraft) -> Result<&Located<PublicKey>, Invalid> {
    peer.public_key.as_ref().ok_or_else(|| {
        let place = Place::new(peer.place.line, "public key");
        let hint = "a peer is its public key: `ringspan pubkey` on the peer prints it";
        Invalid::new(&place, Problem::Missing { hint })
    })
}

fn distinct_peers(peers: &[PeerDraft], own: &PublicKey) -> Result<(), Invalid> {
    let mut lines = HashMap::with_capacity(peers.len());
    for peer in peers {
        let key = peer_key(peer)?;
        if key.value == *own {
            let peer = key.value.to_string();
            return Err(Invalid::new(&key.place, Problem::OwnKey { peer }));
        }
        if let Some(first_line) = lines.insert(key.value, key.place.line) {
            let peer = peer.name();
            return Err(Invalid::new(
                &key.place,
                Problem::DuplicatePeer { peer, first_line },
            ));
        }
    }
    Ok(())
}

/// Refuses a prefix that two peers have, and one within another's unless that is wanted.
///
/// In ascending order a prefix stands right after those that contain it, so a stack of the open
/// ones finds every overlap in one pass.
fn distinct_prefixes(draft: &Draft) -> Result<(), Invalid> {
    let mut all: Vec<(&Located<IpNet>, usize)> = Vec::new();
    for (index, peer) in draft.peers.iter().enumerate() {
        all.extend(peer.allowed_ips.iter().map(|prefix| (prefix, index)));
    }
    all.sort_by_key(|(prefix, index)| (prefix.value.network(), prefix.value.prefix_len(), *index));
    // The topmost mistake of the file, not the numerically smallest.
    let mut first: Option<Invalid> = None;
    let mut open: Vec<(&Located<IpNet>, usize)> = Vec::new();
    for (prefix, index) in all {
        while open
            .pop_if(|(outer, _)| !outer.value.contains(&prefix.value))
            .is_some()
        {}
        let clash = open.iter().rev().find(|(outer, owner)| {
            *owner != index && (outer.value == prefix.value || !draft.nested_allowed_ips)
        });
        if let Some((outer, owner)) = clash {
            let invalid = overlap(&draft.peers, (prefix, index), (outer, *owner));
            if first
                .as_ref()
                .is_none_or(|first| invalid.place.line < first.place.line)
            {
                first = Some(invalid);
            }
        }
        open.push((prefix, index));
    }
    first.map_or(Ok(()), Err)
}

fn overlap(
    peers: &[PeerDraft],
    a: (&Located<IpNet>, usize),
    b: (&Located<IpNet>, usize),
) -> Invalid {
    // Reported where the reader's eye comes second.
    let (earlier, later) = if (a.0.place.line, a.1) < (b.0.place.line, b.1) {
        (a, b)
    } else {
        (b, a)
    };
    let name = |index: usize| peers.get(index).map(PeerDraft::name).unwrap_or_default();
    let problem = if earlier.0.value == later.0.value {
        Problem::SamePrefix {
            prefix: later.0.value,
            peer: name(later.1),
            other: name(earlier.1),
            other_line: earlier.0.place.line,
        }
    } else {
        Problem::NestedPrefix {
            prefix: later.0.value,
            peer: name(later.1),
            other_prefix: earlier.0.value,
            other: name(earlier.1),
            other_line: earlier.0.place.line,
        }
    };
    Invalid::new(&later.0.place, problem)
}

/// Endpoints that the tunnel's own routes in the main table would catch. Default routes do not stand
/// there: the tunnel's own datagrams pass them by.
fn endpoints_inside(peers: &[PeerDraft]) -> Vec<Note> {
    // Lines of the prefixes, by family and length: one look-up for each length in use.
    let mut by_length: BTreeMap<(bool, u8), HashMap<IpNet, usize>> = BTreeMap::new();
    let prefixes = peers.iter().flat_map(|peer| &peer.allowed_ips);
    for prefix in prefixes.filter(|prefix| prefix.value.prefix_len() != 0) {
        by_length
            .entry((prefix.value.addr().is_ipv6(), prefix.value.prefix_len()))
            .or_default()
            .insert(prefix.value, prefix.place.line);
    }
    let catches = |endpoint: &EndpointName| {
        let EndpointName::Address(address) = endpoint else {
            return None;
        };
        by_length.iter().find_map(|((v6, length), prefixes)| {
            if *v6 != address.is_ipv6() {
                return None;
            }
            let prefix = IpNet::new(address.ip(), *length).ok()?.trunc();
            prefixes.get(&prefix)
        })
    };
    let endpoints = peers.iter().flat_map(|peer| &peer.endpoints);
    endpoints
        .filter_map(|endpoint| {
            let line = catches(&endpoint.value)?;
            Some(Note {
                place: Some(endpoint.place.clone()),
                text: format!(
                    "lies within the allowed IP on line {line}, so its route leads the tunnel's \
                     own datagrams into the tunnel, unless a more specific route exists: narrow \
                     the prefix, or set routes yourself (Table = off; TOML: table = \"off\")"
                ),
            })
        })
        .collect()
}

fn without_repeats(prefixes: Vec<Located<IpNet>>) -> Vec<IpNet> {
    let mut seen = BTreeSet::new();
    prefixes
        .into_iter()
        .map(|prefix| prefix.value)
        .filter(|prefix| seen.insert(*prefix))
        .collect()
}
