//! What a person is told when a fetch ends without a source.

use std::time::Duration;

use crate::node::command::{Failure, FailureCode};
use crate::node::referee::Banned;
use crate::snapshot::ManifestId;

/// Peers, addresses or reasons that one sentence names.
const MAX_NAMED: usize = 4;

/// Whom a search did not reach.
pub(super) struct Missed<'a> {
    /// Peers that it did reach.
    pub(super) connected: usize,
    /// Why addresses that the person named were not reached.
    pub(super) unreached: &'a [String],
    /// The network's name of this home, where peers of others were turned away.
    pub(super) own_network: Option<&'a str>,
}

/// Nobody delivered for as long as the person wanted to wait.
pub(super) fn deserted(
    id: ManifestId,
    patience: Duration,
    have: (u64, u64),
    banned: &[Banned],
) -> Failure {
    let message = format!(
        "nobody has delivered a piece of {id} for {} seconds",
        patience.as_secs()
    );
    let (here, all) = have;
    let hint = format!(
        "{here} of {all} bytes are here and are kept; the same command goes on from there, \
         --bootstrap names a provider"
    );
    not_found(message, hint, banned)
}

/// Nobody was found that has it.
pub(super) fn nobody(what: &str, missed: &Missed, banned: &[Banned]) -> Failure {
    let connected = missed.connected;
    let hint = if connected == 0 && !missed.unreached.is_empty() {
        "check the addresses that were named: a provider prints its own when it starts; or wait \
         longer with --timeout"
    } else if connected == 0 {
        "no peer is connected: give one with --bootstrap MULTIADDR (a provider prints its own \
         when it starts), or wait longer with --timeout"
    } else {
        "the connected peers do not have it: name a provider with --bootstrap, or wait longer \
         with --timeout"
    };
    let unit = if connected == 1 { "peer" } else { "peers" };
    let mut message = format!("{what} was not found ({connected} {unit} connected)");
    add(&mut message, missed.unreached);
    if let Some(network) = missed.own_network {
        message += &format!(
            "; peers of other networks were turned away: this home is of the network {network} \
             (network.name in config.toml)"
        );
    }
    not_found(message, hint.to_owned(), banned)
}

/// Offers were there, and none was taken, for these reasons.
pub(super) fn left_out(what: &str, reasons: &[String], unreached: &[String]) -> Failure {
    let mut message = format!("no snapshot of {what} that peers offer could be taken in time");
    add(&mut message, reasons);
    add(&mut message, unreached);
    Failure::new(FailureCode::NotFound, message).hint(
        "name another provider with --bootstrap, see that the RPC is of a node of this chain that has \
         its blocks, change the setting that leaves it out, or wait longer with --timeout",
    )
}

/// Offers were there whose state nothing proves, and whom the person listed did not
/// compute them.
pub(super) fn unendorsed(what: &str, reasons: &[String]) -> Failure {
    let mut message = format!("no snapshot of {what} that peers offer is believed");
    add(&mut message, reasons);
    Failure::new(FailureCode::Policy, message).hint(
        "wait longer with --timeout until more of the endorsers have computed it, or fetch a \
         snapshot that you know to be right by its CID; trust.endorsers and trust.threshold in \
         config.toml say whose word counts",
    )
}

/// Offers were there, and the settings name others.
pub(super) fn not_pinned(what: &str, reasons: &[String]) -> Failure {
    let mut message = format!("no snapshot of {what} that peers offer may be taken");
    add(&mut message, reasons);
    Failure::new(FailureCode::Policy, message).hint(
        "add the CID of one that you trust there; a CID of another chain counts for that one \
         alone once its snapshot is here; or fetch a snapshot by its CID",
    )
}

fn add(message: &mut String, reasons: &[String]) {
    for reason in reasons.iter().take(MAX_NAMED) {
        *message += &format!("; {reason}");
    }
    if reasons.len() > MAX_NAMED {
        *message += &format!("; and {} more", reasons.len() - MAX_NAMED);
    }
}

/// With a word about who was kept out: without it, a person whose only provider
/// is banned looks for a fault of the network.
fn not_found(mut message: String, mut hint: String, banned: &[Banned]) -> Failure {
    if !banned.is_empty() {
        message += &format!("; {}", who(banned));
        hint += "; a banned peer is left alone until its ban ends: name another provider, and tell \
                 whoever runs the banned one to check it with `snapswarm verify CID`";
    }
    Failure::new(FailureCode::NotFound, message).hint(hint)
}

/// `peer 12D3… is banned for 15 more minutes because it broke the protocol`
fn who(banned: &[Banned]) -> String {
    let mut parts: Vec<String> = banned
        .iter()
        .take(MAX_NAMED)
        .map(|Banned { peer, reason, left }| {
            let minutes = left.as_secs().div_ceil(60);
            let unit = if minutes == 1 { "minute" } else { "minutes" };
            format!("peer {peer} is banned for {minutes} more {unit} because it {reason}")
        })
        .collect();
    if banned.len() > MAX_NAMED {
        parts.push(format!("{} more are banned", banned.len() - MAX_NAMED));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;
    use crate::snapshot::hash::sha256;

    fn missed(connected: usize, unreached: &[String]) -> Missed<'_> {
        Missed {
            connected,
            unreached,
            own_network: None,
        }
    }

    fn banned(count: usize) -> Vec<Banned> {
        let one = |_| Banned {
            peer: PeerId::random(),
            reason: "broke the protocol",
            left: Duration::from_secs(61),
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn a_fetch_that_ends_without_a_source_names_who_is_banned_and_what_to_do() {
        let id = ManifestId(sha256(b"x"));
        let bans = banned(1);
        let patience = Duration::from_secs(60);
        for failure in [
            deserted(id, patience, (1, 2), &bans),
            nobody("it", &missed(0, &[]), &bans),
        ] {
            assert!(failure.message.contains(&bans[0].peer.to_string()));
            assert!(failure.message.contains("2 more minutes"));
            assert!(failure.message.contains("broke the protocol"));
            let hint = failure.hint.unwrap();
            assert!(hint.contains("--bootstrap") && hint.contains("snapswarm verify"));
        }
        let plain = deserted(id, patience, (1, 2), &[]);
        assert!(!plain.message.contains("banned") && !plain.hint.unwrap().contains("banned"));
    }

    #[test]
    fn a_named_address_that_is_not_reached_is_named_with_its_cause() {
        let trouble = ["cannot reach /ip4/127.0.0.1/tcp/1: refused".to_owned()];
        let failure = nobody("it", &missed(0, &trouble), &[]);
        assert!(failure.message.contains("tcp/1: refused"));
        assert!(failure.hint.unwrap().starts_with("check the addresses"));
        let failure = left_out("c", &["left out: too large".to_owned()], &trouble);
        assert!(failure.message.contains("left out: too large"));
        assert!(failure.message.ends_with("tcp/1: refused"));
    }

    #[test]
    fn peers_of_other_networks_are_told_and_do_not_blame_an_address() {
        let foreign = Missed {
            own_network: Some("testnet"),
            ..missed(0, &[])
        };
        let failure = nobody("it", &foreign, &[]);
        assert!(failure.message.contains("of the network testnet"));
        assert!(failure.hint.unwrap().starts_with("no peer is connected"));
    }

    #[test]
    fn many_bans_are_counted() {
        let message = nobody("it", &missed(3, &[]), &banned(10)).message;
        assert_eq!(message.matches("because it").count(), MAX_NAMED);
        assert!(message.ends_with("6 more are banned"), "{message}");
    }
}
