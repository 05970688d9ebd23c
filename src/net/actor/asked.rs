//! Commands of handles and serving tasks, applied.

use std::time::{Duration, Instant};

use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

use super::super::book::MAX_PEER_ADDRESSES;
use super::super::commands::{Command, Reply};
use super::super::error::NetError;
use super::super::finds::Find;
use super::super::keys::Key;
use super::super::scope::believe;
use super::super::settings::peer_of;
use super::drive::options;
use super::{Actor, Dialling, MAX_WAITING_FOR_PEERS};
use crate::wire::{MAX_PEER_HINTS, PeerHint};

impl Actor {
    pub(super) fn handle_command(&mut self, command: Command) {
        match command {
            Command::Dial {
                asked,
                addresses,
                reply,
            } => self.dial(asked, &addresses, reply),
            Command::Connect { peer, reply } => self.connect(peer, reply),
            Command::Hurry => self.redial.handle_hurry(Instant::now()),
            Command::Announce(wanted) => self.announcer.handle_wanted(&wanted, Instant::now()),
            Command::Find { key, sink, reply } => {
                let _ = reply.send(self.find(&key, sink));
            }
            Command::Ban { peer, term, reason } => self.ban(peer, term, &reason),
            Command::Lift { peer } => {
                if self.bans.lift(&peer).is_some() {
                    self.readmit(peer);
                    self.apply_banned_ips();
                }
            }
            Command::Learned {
                peer,
                asked,
                chains,
                hints,
                reply,
            } => {
                self.book().serves(peer, asked.as_deref(), &chains);
                let _ = reply.send(self.learn_hints(&peer, hints));
            }
            Command::Hints {
                asker,
                chain_id,
                reply,
            } => {
                let over = self.connections.scope(&asker);
                let book = self.book();
                let hints = book.hints(chain_id.as_deref(), &asker, over, MAX_PEER_HINTS);
                let _ = reply.send(hints);
            }
        }
    }

    fn dial(
        &mut self,
        asked: Multiaddr,
        addresses: &[Multiaddr],
        reply: Reply<Result<PeerId, NetError>>,
    ) {
        let peer = peer_of(&asked);
        if let Some(peer) = peer.filter(|peer| self.connections.contains(peer)) {
            let _ = reply.send(Ok(peer));
            return;
        }
        let Some(options) = options(peer, addresses) else {
            let _ = reply.send(Err(NetError::DialFailed {
                address: asked,
                problem: "it leads nowhere".to_owned(),
            }));
            return;
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials
                    .insert(connection, Dialling::Asked { asked, reply });
            }
            Err(error) => {
                let _ = reply.send(Err(self.dial_failed(asked, peer, &error)));
            }
        }
    }

    pub(super) fn dial_failed(
        &self,
        address: Multiaddr,
        peer: Option<PeerId>,
        error: &DialError,
    ) -> NetError {
        match peer.filter(|peer| self.bans.contains(peer)) {
            Some(peer) => NetError::Banned { peer },
            None => NetError::DialFailed {
                address,
                problem: dial_problem(error),
            },
        }
    }

    pub(super) fn unreachable(&self, peer: PeerId, error: &DialError) -> NetError {
        if self.bans.contains(&peer) {
            return NetError::Banned { peer };
        }
        NetError::Unreachable {
            peer,
            problem: dial_problem(error),
        }
    }

    fn connect(&mut self, peer: PeerId, reply: Reply<Result<(), NetError>>) {
        if self.connections.contains(&peer) {
            let _ = reply.send(Ok(()));
            return;
        }
        self.waiting.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
        if self.waiting.values().map(Vec::len).sum::<usize>() >= MAX_WAITING_FOR_PEERS {
            let _ = reply.send(Err(NetError::Busy {
                what: "connections being made",
            }));
            return;
        }
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        match self.swarm.dial(options) {
            // Being dialled already: that attempt answers as well.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {
                self.waiting.entry(peer).or_default().push(reply);
            }
            Err(error) => {
                self.book().failed(&peer);
                let _ = reply.send(Err(self.unreachable(peer, &error)));
            }
        }
    }

    fn find(&mut self, key: &Key, sink: mpsc::Sender<PeerId>) -> Result<(), NetError> {
        let digest = key.digest();
        let mut find = Find::new(digest, sink);
        if let Key::Chain(chain_id) = key {
            for peer in self.book().serving(chain_id) {
                self.tell(&mut find, peer);
            }
        }
        // What others gave this node to keep is known without asking anyone.
        let here: Vec<(PeerId, Vec<Multiaddr>)> = self
            .swarm
            .behaviour_mut()
            .dht
            .records()
            .foreign_providers(&digest, Instant::now())
            .into_iter()
            .map(|(peer, addresses)| (peer, addresses.to_vec()))
            .collect();
        for (peer, addresses) in here {
            self.book().heard(peer, &addresses);
            self.tell(&mut find, peer);
        }
        self.finds.push(find).map_err(|_| NetError::Busy {
            what: "look-ups for providers",
        })
    }

    /// Tells a look-up of a provider that may be used.
    pub(super) fn tell(&self, find: &mut Find, peer: PeerId) {
        if peer != self.own_id && !self.bans.contains(&peer) {
            find.tell(peer);
        }
    }

    fn ban(&mut self, peer: PeerId, term: Duration, reason: &str) {
        if peer == self.own_id {
            return;
        }
        tracing::info!(%peer, term_s = term.as_secs(), reason, "Peer is banned");
        let ips = self.connections.public_ips(&peer);
        if let Some((displaced, _)) = self.bans.ban(peer, ips, term, Instant::now()) {
            self.readmit(displaced);
        }
        self.apply_banned_ips();
        let behaviour = self.swarm.behaviour_mut();
        // Closes its connections, too.
        behaviour.blocked.block_peer(peer);
        behaviour.dht.records().forget(&peer);
        behaviour.dht.kad().remove_peer(&peer);
        behaviour.door.book.forget(&peer);
        if let Some(replies) = self.waiting.remove(&peer) {
            for reply in replies {
                let _ = reply.send(Err(NetError::Banned { peer }));
            }
        }
    }

    fn learn_hints(&mut self, teller: &PeerId, hints: Vec<PeerHint>) -> Vec<PeerId> {
        let over = self.connections.scope(teller);
        let mut known = Vec::new();
        for hint in hints {
            let Ok(peer) = PeerId::from_bytes(&hint.peer_id) else {
                continue;
            };
            if peer == self.own_id || self.bans.contains(&peer) || known.contains(&peer) {
                continue;
            }
            let told = hint.addresses.into_iter();
            let mut addresses: Vec<Multiaddr> = told
                .filter_map(|bytes| Multiaddr::try_from(Vec::from(bytes)).ok())
                .collect();
            let ignored = believe(&mut addresses, over, MAX_PEER_ADDRESSES);
            self.stats.ignored_addresses += ignored as u64;
            if self.book().heard(peer, &addresses) {
                known.push(peer);
            }
        }
        known
    }
}

/// Why a dial failed, for a person.
fn dial_problem(error: &DialError) -> String {
    match error {
        DialError::LocalPeerId { .. } => "that is this node itself".to_owned(),
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::DialPeerConditionFalse(_) => "it is being dialled already".to_owned(),
        DialError::Aborted => "the attempt was given up".to_owned(),
        DialError::WrongPeerId { obtained, .. } => {
            format!("another peer answers there: {obtained}")
        }
        DialError::Denied { cause } => root_cause(cause),
        DialError::Transport(attempts) => {
            let each: Vec<String> = attempts
                .iter()
                .map(|(address, error)| format!("{address}: {}", root_cause(error)))
                .collect();
            each.join("; ")
        }
    }
}

/// The last link of a chain of errors: the others repeat it in brackets.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
