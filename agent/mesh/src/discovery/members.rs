//! The nodes of the rack as this one knows them: from the table, and by gossip.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Instant,
};

use purlin_proto::mesh as view;

use super::{
    alarms::{Own, Raised, Said},
    gossip::Member,
    seal::{Beside, Unsealed},
};
use crate::live::Live;

/// Clocks that differ by less are taken to be the same.
const AGREES_S: u64 = 300;

/// What is known. The lock is held for no wait; nothing that carries traffic takes it but
/// to connect to a node.
#[derive(Debug, Default)]
pub struct Members(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<String, Known>,
    own: Own,
    refused: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Known {
    address: SocketAddr,
    is_up: bool,
    since: Instant,
    /// How far its clock is ahead of ours, in seconds.
    clock_off_s: Option<i64>,
    /// What it said last of its alarms, and when.
    said: Option<(Vec<Raised>, Instant)>,
}

impl Members {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member is there, or is not any more.
    pub fn note(&self, member: &Member, is_up: bool) {
        let (address, since) = (member.address, Instant::now());
        let mut state = self.state();
        // Its alarms stay as it said them: its power may be what fails.
        let said = state.known.remove(&member.node).and_then(|it| it.said);
        let known = Known { address, is_up, since, clock_off_s: None, said };
        state.known.insert(member.node.clone(), known);
    }

    /// Nobody is known any more.
    pub fn forget(&self) {
        self.state().known.clear();
    }

    /// What stands beside a datagram: its alarms, and what its clock shows beside ours;
    /// whether most of those that are up agree with us.
    pub fn heard(&self, theirs: &Beside, ours: u64) -> bool {
        let mut state = self.state();
        if let Some(known) = state.known.get_mut(&theirs.sender) {
            known.clock_off_s = Some(theirs.clock.cast_signed().wrapping_sub(ours.cast_signed()));
            if let Some(alarms) = &theirs.alarms {
                known.said = Some((alarms.clone(), Instant::now()));
            }
        }
        let up = || state.known.values().filter(|it| it.is_up);
        let agree = up().filter(|it| it.clock_off_s.is_some_and(|it| it.unsigned_abs() < AGREES_S));
        agree.count() * 2 > up().count()
    }

    /// The agent says what is raised here, and hears what others said.
    pub fn exchange(&self, own: Vec<Raised>) -> view::Heard {
        let mut state = self.state();
        state.own.say(own);
        let said = |(node, it): (&String, &Known)| {
            let (alarms, at) = it.said.as_ref()?;
            let alarms = alarms.iter().map(Raised::view).collect();
            let ago_ms = at.elapsed().as_millis() as u64;
            Some(view::HeardNode { node: node.clone(), ago_ms, alarms })
        };
        view::Heard { nodes: state.known.iter().filter_map(said).collect() }
    }

    /// What is said of this node's alarms.
    pub fn own_alarms(&self) -> Said {
        self.state().own.said()
    }

    /// A datagram was refused.
    pub fn refused(&self, why: Unsealed) {
        *self.state().refused.entry(why.to_string()).or_default() += 1;
    }

    /// Datagrams that were refused, by why.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        self.state().refused.clone()
    }

    /// Whether a node is there.
    pub fn is_up(&self, node: &str) -> bool {
        self.state().known.get(node).is_some_and(|it| it.is_up)
    }

    /// Where a node's tunnel is, by its own word.
    pub fn address(&self, node: &str) -> Option<SocketAddr> {
        self.state().known.get(node).map(|it| it.address)
    }

    /// Every node of the table or of gossip and where its tunnel is, those that are there
    /// first.
    pub fn known(&self, live: &Live) -> Vec<(String, SocketAddr)> {
        let state = self.state();
        let named = live.table.peers.iter().map(|it| (it.node.clone(), it.address));
        let told = state.known.iter().map(|(node, it)| (node.clone(), it.address));
        let all: BTreeMap<_, _> = named.chain(told).collect();
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by_key(|(node, _)| !state.known.get(node).is_some_and(|it| it.is_up));
        all
    }

    /// Every node and its address.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.state().known.iter().map(|(node, it)| (node.clone(), it.address)).collect()
    }

    /// Tells the endpoints whether their node is there.
    pub fn apply(&self, live: &Live) {
        let state = self.state();
        for endpoint in live.targets.iter().flat_map(|it| &it.endpoints) {
            let node = endpoint.via.as_ref().and_then(|node| state.known.get(node));
            endpoint.is_away.store(node.is_some_and(|it| !it.is_up), Relaxed);
        }
    }

    /// For people and machines.
    pub fn view(&self, live: &Live, own: Option<&str>) -> view::Peers {
        let state = self.state();
        let mut peers: BTreeMap<&str, view::Peer> = BTreeMap::new();
        for it in &live.table.peers {
            let address = it.address.to_string();
            let peer = view::Peer { node: it.node.clone(), address, ..Default::default() };
            peers.insert(&it.node, peer);
        }
        for (node, it) in &state.known {
            let state = if it.is_up { view::PeerState::Up } else { view::PeerState::Down };
            let peer = view::Peer {
                node: node.clone(),
                address: it.address.to_string(),
                state,
                since_ms: Some(it.since.elapsed().as_millis() as u64),
                clock_off_s: it.clock_off_s,
            };
            peers.insert(node, peer);
        }
        if let Some(own) = own.and_then(|own| peers.get_mut(own)) {
            own.state = view::PeerState::Own;
        }
        view::Peers { peers: peers.into_values().collect() }
    }
}
