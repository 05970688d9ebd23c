//! What the pure parts want done by now, and what is shown of it.

use std::time::{Instant, SystemTime};

use libp2p::kad::Mode;
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use super::super::announce::AnnounceAction;
use super::super::book_file;
use super::super::redial::{Place, TargetId};
use super::super::resolve;
use super::super::settings::peer_of;
use super::super::view::NetEvent;
use super::{Actor, Dialling, HOUSEKEEPING, TICK, chance};

impl Actor {
    /// When to look again even if nothing happens.
    pub(super) fn wake_at(&self, now: Instant) -> Instant {
        let connected = self.connections.len();
        let wishes = [
            Some(self.announcer.poll_timeout()),
            self.redial.poll_timeout(connected),
            self.bans.poll_timeout(),
        ];
        let wishes = wishes.into_iter().flatten();
        wishes.fold(now + TICK, Instant::min).max(now)
    }

    /// Carries out whatever is due.
    pub(super) fn drive(&mut self, now: Instant) {
        while let Some(action) = self.announcer.poll(now) {
            self.announce(action, now);
        }
        let connected = self.connections.len();
        while let Some((target, place)) = self.redial.poll(now, connected) {
            self.approach(target, place);
        }
        if self.stats.routed_peers > 0 {
            while let Some(find) = self.finds.next() {
                let key = find.key.to_record_key();
                let query = self.swarm.behaviour_mut().dht.kad().get_providers(key);
                self.stats.lookups += 1;
                self.finds.running.insert(query, find);
            }
        }
        let over = self.bans.expire(now);
        if !over.is_empty() {
            for peer in over {
                self.readmit(peer);
            }
            self.apply_banned_ips();
        }
    }

    /// Slow work, about once a second.
    pub(super) fn tick(&mut self, now: Instant) {
        self.count_routed(now);
        if let Some(jump) = self.clock.handle_time(SystemTime::now(), now) {
            tracing::warn!(
                %jump,
                "The clock of this machine was set, or the machine slept. Nothing here depends on \
                 it: bans, leases and pauses go on as they were. Is it right now (NTP)? If not, \
                 CometBFT nodes and https:// RPCs may refuse this machine"
            );
        }
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.swarm.behaviour_mut().dht.records().expire(now);
            self.save_peers();
        }
        self.show_all();
    }

    pub(super) fn count_routed(&mut self, now: Instant) {
        let routed = self.swarm.behaviour_mut().dht.routed_peers();
        if routed != self.stats.routed_peers {
            self.stats.routed_peers = routed;
            self.announcer.handle_routing(routed, now);
        }
    }

    fn announce(&mut self, action: AnnounceAction, now: Instant) {
        let dht = &mut self.swarm.behaviour_mut().dht;
        match action {
            AnnounceAction::Hold(key) => {
                // The store has room for all that the announcer may hold.
                dht.records().hold(key);
            }
            AnnounceAction::Withdraw(key) => dht.records().withdraw(key),
            AnnounceAction::Publish(key) => match dht.kad().start_providing(key.to_record_key()) {
                Ok(query) => {
                    self.publishing.insert(query, key);
                }
                Err(error) => {
                    tracing::debug!(%error, "A key could not be published");
                    self.announcer.handle_failed(key, now);
                }
            },
        }
    }

    /// Begins the attempt on a target: by name first, where it has one.
    fn approach(&mut self, target: TargetId, place: Place) {
        match place {
            Place::Address(address) => {
                self.resolving
                    .spawn(async move { (target, resolve::resolve(&address).await) });
            }
            Place::Peer(peer) => {
                let options = DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .build();
                self.attempt(target, Some(peer), options);
            }
        }
    }

    /// Dials a target whose name was resolved.
    pub(super) fn dial_target(&mut self, target: TargetId, addresses: &[Multiaddr]) {
        let peer = addresses.first().and_then(peer_of);
        match options(peer, addresses) {
            Some(options) => self.attempt(target, peer, options),
            None => self.pause(target, &"its name leads nowhere"),
        }
    }

    /// A target is tried again later; a configured one is told of, once.
    fn pause(&mut self, target: TargetId, why: &dyn std::fmt::Display) {
        if let Some(address) = self.redial.handle_failed(target, chance(), Instant::now()) {
            tracing::warn!(%address, %why, "A bootstrap peer is not reached; trying again");
        }
    }

    fn attempt(&mut self, target: TargetId, peer: Option<PeerId>, options: DialOpts) {
        if let Some(peer) = peer.filter(|peer| self.connections.contains(peer)) {
            self.redial.handle_reached(target, peer, Instant::now());
            return;
        }
        let connection = options.connection_id();
        self.dials.insert(connection, Dialling::Target(target));
        if let Err(error) = self.swarm.dial(options) {
            self.dials.remove(&connection);
            self.target_failed(target, peer, &error);
        }
    }

    pub(super) fn target_failed(
        &mut self,
        target: TargetId,
        peer: Option<PeerId>,
        error: &DialError,
    ) {
        tracing::debug!(?target, ?peer, %error, "A bootstrap or remembered peer was not reached");
        if matches!(error, DialError::LocalPeerId { .. }) {
            self.redial.handle_useless(target);
        } else {
            self.pause(target, error);
        }
    }

    /// Ends the effects of a ban that is over.
    pub(super) fn readmit(&mut self, peer: PeerId) {
        self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        tracing::info!(%peer, "Peer is not banned any more");
        self.emit(NetEvent::Lifted { peer });
    }

    pub(super) fn apply_banned_ips(&mut self) {
        let ips = self.bans.ips();
        self.swarm.behaviour_mut().door.set_banned(ips);
    }

    /// Takes the part in the DHT that fits what is known of the ways in.
    pub(super) fn update_mode(&mut self) {
        for address in self.reach.newly_confirmed() {
            tracing::info!(%address, "Peers reach this node at an external address");
            self.swarm.add_external_address(address);
        }
        let mode = if self.reach.is_server(self.connections.outside()) {
            Mode::Server
        } else {
            Mode::Client
        };
        if mode != self.mode {
            tracing::debug!(?mode, "Part in the DHT");
            self.mode = mode;
            self.swarm.behaviour_mut().dht.kad().set_mode(Some(mode));
        }
    }

    /// Shows the figures that cost nothing to read.
    pub(super) fn show(&mut self) {
        let behaviour = self.swarm.behaviour_mut();
        self.stats.known_peers = behaviour.door.book.len();
        let records = behaviour.dht.records();
        self.stats.own_records = records.own_len();
        self.stats.foreign_records = records.foreign_len();
        self.stats.refused_records = records.refused();
        self.stats.peers = self.connections.len();
        self.stats.dht_server = self.mode == Mode::Server;
        self.stats.banned_peers = self.bans.len();
        let mut shown = self.stats.clone();
        shown.ignored_addresses += self.swarm.behaviour().dht.ignored_addresses();
        self.parts.view.board().stats = shown;
    }

    /// Shows everything.
    pub(super) fn show_all(&mut self) {
        self.stats.announce = self.announcer.stats();
        let remembered = self.book().remembered(book_file::MAX_REMEMBERED_PEERS);
        self.parts.view.board().remembered = remembered;
        self.parts.view.board().reachability = self.reach.known();
        self.show();
    }
}

/// How to dial one place; nothing when there is no address.
pub(super) fn options(peer: Option<PeerId>, addresses: &[Multiaddr]) -> Option<DialOpts> {
    let first = addresses.first()?;
    Some(match peer {
        Some(peer) => DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(addresses.to_vec())
            .build(),
        None => DialOpts::unknown_peer_id().address(first.clone()).build(),
    })
}
