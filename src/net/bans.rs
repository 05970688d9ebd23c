//! Who is shut out, and until when.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// Bans at a time; each has a peer id and a few addresses. A new one displaces
/// the one that ends first.
pub(super) const MAX_BANS: usize = 4096;
/// Addresses banned with one peer.
pub(super) const MAX_BANNED_IPS: usize = 4;

#[derive(Debug)]
struct Ban {
    until: Instant,
    ips: Vec<IpAddr>,
}

/// The bans in force. Pure; who carries them out is the actor.
#[derive(Debug, Default)]
pub(super) struct Bans {
    bans: BTreeMap<PeerId, Ban>,
}

impl Bans {
    /// Bans a peer, and the public addresses it came from. A ban that is in force
    /// already is never shortened. Gives back the peer whose ban was displaced,
    /// with its addresses.
    pub fn ban(
        &mut self,
        peer: PeerId,
        ips: Vec<IpAddr>,
        term: Duration,
        now: Instant,
    ) -> Option<(PeerId, Vec<IpAddr>)> {
        // A term beyond the clock's end is a ban for good.
        let until = now
            .checked_add(term)
            .unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400));
        let mut displaced = None;
        if !self.bans.contains_key(&peer) && self.bans.len() >= MAX_BANS {
            let first = self.bans.iter().min_by_key(|(_, ban)| ban.until);
            if let Some(first) = first.map(|(peer, _)| *peer) {
                displaced = self.lift(&first).map(|ips| (first, ips));
            }
        }
        let ban = self.bans.entry(peer).or_insert(Ban {
            until,
            ips: Vec::new(),
        });
        ban.until = ban.until.max(until);
        for ip in ips {
            if ban.ips.len() < MAX_BANNED_IPS && !ban.ips.contains(&ip) {
                ban.ips.push(ip);
            }
        }
        displaced
    }

    /// Ends a ban; gives back the addresses banned with it.
    pub fn lift(&mut self, peer: &PeerId) -> Option<Vec<IpAddr>> {
        self.bans.remove(peer).map(|ban| ban.ips)
    }

    /// Ends the bans whose time is over.
    pub fn expire(&mut self, now: Instant) -> Vec<PeerId> {
        let over: Vec<PeerId> = self
            .bans
            .iter()
            .filter(|(_, ban)| ban.until <= now)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in &over {
            self.bans.remove(peer);
        }
        over
    }

    pub fn contains(&self, peer: &PeerId) -> bool {
        self.bans.contains_key(peer)
    }

    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// Every address that is banned now.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.bans.values().flat_map(|ban| ban.ips.iter().copied())
    }

    /// When the next ban ends.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.bans.values().map(|ban| ban.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_ban_ends_by_time_and_not_before() {
        let (mut bans, now, peer) = (Bans::default(), Instant::now(), PeerId::random());
        let ip: IpAddr = "203.0.113.1".parse().unwrap();
        bans.ban(peer, vec![ip], MINUTE, now);
        assert_eq!(bans.poll_timeout(), Some(now + MINUTE));
        assert!(bans.expire(now + MINUTE / 2).is_empty());
        assert_eq!(bans.ips().collect::<Vec<_>>(), [ip]);
        assert_eq!(bans.expire(now + MINUTE), [peer]);
        assert!(!bans.contains(&peer));
        assert_eq!(bans.ips().count(), 0);
    }

    #[test]
    fn a_second_ban_lengthens_and_never_shortens() {
        let (mut bans, now, peer) = (Bans::default(), Instant::now(), PeerId::random());
        bans.ban(peer, Vec::new(), 2 * MINUTE, now);
        bans.ban(peer, Vec::new(), MINUTE, now);
        assert_eq!(bans.poll_timeout(), Some(now + 2 * MINUTE));
        bans.ban(peer, Vec::new(), Duration::MAX, now);
        assert!(bans.expire(now + 1000 * MINUTE).is_empty());
    }

    #[test]
    fn the_ban_that_ends_first_makes_room_for_a_new_one() {
        let (mut bans, now) = (Bans::default(), Instant::now());
        let first = PeerId::random();
        bans.ban(first, Vec::new(), MINUTE, now);
        for _ in 1..MAX_BANS {
            assert!(
                bans.ban(PeerId::random(), Vec::new(), 2 * MINUTE, now)
                    .is_none()
            );
        }
        let displaced = bans.ban(PeerId::random(), Vec::new(), 2 * MINUTE, now);
        assert_eq!(displaced, Some((first, Vec::new())));
        assert_eq!(bans.len(), MAX_BANS);
    }
}
