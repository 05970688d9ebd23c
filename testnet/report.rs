//! What a run tells: lines with the time while it goes on, tables at its end.

use std::time::{Duration, Instant};

use snapswarm::node::command::{Fetched, Joined};

/// Says what happens and keeps the time of each phase.
pub struct Report {
    start: Instant,
    phase_start: Instant,
    phases: Vec<(&'static str, Duration)>,
}

/// What one provider gave.
#[derive(Clone, PartialEq, Debug)]
pub struct Share {
    /// The provider's name.
    pub name: String,
    /// Its peer id.
    pub peer_id: String,
    /// Piece payload.
    pub bytes: u64,
    /// Of everything that was received.
    pub percent: f64,
}

impl Report {
    /// Time runs from here.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            phase_start: now,
            phases: Vec::new(),
        }
    }

    /// A line with the time.
    pub fn say(&self, text: impl std::fmt::Display) {
        println!("[{:6.1} s] {text}", self.start.elapsed().as_secs_f64());
    }

    /// A phase has ended; the next one begins.
    pub fn phase(&mut self, name: &'static str) {
        let now = Instant::now();
        self.phases.push((name, now - self.phase_start));
        self.phase_start = now;
    }

    /// The time of each phase.
    pub fn print_phases(&self) {
        println!("\nWhat took how long:");
        for (name, time) in &self.phases {
            println!("  {name:<58} {:6.1} s", time.as_secs_f64());
        }
        let all = self.start.elapsed().as_secs_f64();
        println!("  {:<58} {all:6.1} s", "all");
    }
}

/// What the new node did when.
pub fn print_join(joined: &Joined) {
    println!("\nThe way of the new node:");
    for phase in &joined.phases {
        println!("  {:<58} {:6.1} s", phase.name, phase.seconds);
    }
}

/// Who gave what, in the order of `providers` (name and peer id); what came
/// from anyone else is named by peer id.
pub fn shares(fetched: &Fetched, providers: &[(&str, &str)]) -> Vec<Share> {
    let all: u64 = fetched.peers.iter().map(|peer| peer.bytes).sum();
    let given = |peer_id: &str| {
        let of_peer = fetched.peers.iter().filter(|peer| peer.peer_id == peer_id);
        of_peer.map(|peer| peer.bytes).sum::<u64>()
    };
    let strangers = fetched
        .peers
        .iter()
        .filter(|peer| providers.iter().all(|(_, id)| *id != peer.peer_id))
        .map(|peer| ("(no provider of this network)", peer.peer_id.as_str()));
    providers
        .iter()
        .copied()
        .chain(strangers)
        .map(|(name, peer_id)| Share {
            name: name.to_owned(),
            peer_id: peer_id.to_owned(),
            bytes: given(peer_id),
            percent: given(peer_id) as f64 * 100.0 / all.max(1) as f64,
        })
        .collect()
}

/// The table of who gave what.
pub fn print_shares(shares: &[Share]) {
    println!("\nWhat came from whom:");
    println!(
        "  {:<12} {:<54} {:>12} {:>7}",
        "provider", "peer", "bytes", "share"
    );
    for share in shares {
        println!(
            "  {:<12} {:<54} {:>12} {:>5.1} %",
            share.name, share.peer_id, share.bytes, share.percent
        );
    }
}

#[cfg(test)]
mod tests {
    use snapswarm::node::command::PeerBytes;

    use super::*;

    fn fetched(peers: &[(&str, u64)]) -> Fetched {
        Fetched {
            height: 7,
            manifest: "m".to_owned(),
            bytes: 100,
            received_bytes: 100,
            resumed_bytes: 0,
            wasted_bytes: 0,
            seconds: 1.0,
            proven: true,
            app_hash_confirmed: true,
            app_hash: None,
            state: false,
            was_here: false,
            only: Vec::new(),
            peers: peers
                .iter()
                .map(|(id, bytes)| PeerBytes {
                    peer_id: (*id).to_owned(),
                    bytes: *bytes,
                })
                .collect(),
            basis: None,
            base: None,
        }
    }

    #[test]
    fn a_provider_that_gave_nothing_stands_in_the_table_with_nothing() {
        let shares = shares(
            &fetched(&[("a", 75), ("b", 25)]),
            &[("one", "b"), ("two", "c")],
        );
        let percents: Vec<_> = shares
            .iter()
            .map(|s| (s.name.as_str(), s.percent))
            .collect();
        assert_eq!(
            percents,
            [
                ("one", 25.0),
                ("two", 0.0),
                ("(no provider of this network)", 75.0)
            ]
        );
    }

    #[test]
    fn a_fetch_that_received_nothing_gives_everyone_no_share() {
        let shares = shares(&fetched(&[]), &[("one", "b")]);
        assert_eq!(shares[0].percent, 0.0);
    }
}
