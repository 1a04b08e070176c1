//! Membership by SWIM (foca), sealed: bytes in, bytes out, and the time is an argument.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::SocketAddr,
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{
    AccumulatingRuntime, Config, Foca, Identity, NoCustomBroadcast, OwnedNotification,
    PeriodicParams, PostcardCodec, Timer,
};
use rand::{SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use super::seal::{Beside, Keys, OVERHEAD, Opener, Sealer, Unsealed};

/// Of a datagram: what any Ethernet carries whole, less IPv6 and UDP.
pub const MAX_DATAGRAM: usize = 1400;
/// One member after the other is asked this often, and has so long to answer; then others
/// ask it. Half of what a rack's requests may wait for (docs/decisions/049).
const PROBE_EVERY: Duration = Duration::from_millis(400);
const ANSWER_IN: Duration = Duration::from_millis(150);
/// For one that is suspect to say that it lives.
const SUSPECT_FOR: Duration = Duration::from_millis(1200);
/// Members that are down are asked back this often, and forgotten after this.
const ASK_BACK: Duration = Duration::from_secs(3);
const FORGET: Duration = Duration::from_secs(24 * 3600);
/// Members that were named and are not up are greeted this often.
const GREET_EVERY_MS: u64 = 2000;

/// A node as others know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its node id.
    pub node: String,
    /// Of its tunnel and, by UDP, of its gossip.
    pub address: SocketAddr,
    /// Grows with each of its lives.
    pub life: u64,
}

impl Identity for Member {
    type Addr = String;

    fn renew(&self) -> Option<Self> {
        Some(Self { life: self.life + 1, ..self.clone() })
    }

    fn addr(&self) -> String {
        self.node.clone()
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.life > other.life
    }
}

/// What became of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there.
    Up(Member),
    /// It is not.
    Down(Member),
}

/// What comes of something.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Datagrams to be sent.
    pub send: Vec<(SocketAddr, Vec<u8>)>,
    /// What changed.
    pub changes: Vec<Change>,
}

/// A node's part in it.
pub struct Gossip {
    foca: Foca<Member, PostcardCodec, SmallRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Member>,
    sealer: Sealer,
    opener: Opener,
    timers: BinaryHeap<Reverse<(u64, u64)>>,
    events: std::collections::HashMap<u64, Timer<Member>>,
    next_event: u64,
    seeds: Vec<Member>,
    greet_at: u64,
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gossip({:?})", self.foca.identity())
    }
}

impl Gossip {
    /// Begins at once. `None` without a key. `me.life` and `start` are over those before.
    pub fn new(me: Member, keys: &Keys, start: u64, seed: u64) -> Option<Self> {
        let rng = SmallRng::seed_from_u64(seed);
        Some(Self {
            foca: Foca::new(me, config(), rng, PostcardCodec),
            runtime: AccumulatingRuntime::new(),
            sealer: Sealer::new(keys, start)?,
            opener: Opener::new(keys),
            timers: BinaryHeap::new(),
            events: std::collections::HashMap::new(),
            next_event: 0,
            seeds: Vec::new(),
            greet_at: 0,
        })
    }

    /// Who is greeted until they are there.
    pub fn greet(&mut self, seeds: impl IntoIterator<Item = (String, SocketAddr)>) {
        let seeds = seeds.into_iter().filter(|(node, _)| *node != self.foca.identity().node);
        self.seeds = seeds.map(|(node, address)| Member { node, address, life: 0 }).collect();
    }

    /// A datagram came.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        now_ms: u64,
        beside: &Beside,
    ) -> Result<(Beside, Outcome), Unsealed> {
        let (theirs, payload) = self.opener.open(bytes)?;
        if let Err(error) = self.foca.handle_data(payload, &mut self.runtime) {
            tracing::debug!(%error, sender = theirs.sender, "a datagram was not understood");
        }
        Ok((theirs, self.outcome(now_ms, beside)))
    }

    /// When there is something to do next.
    pub fn next_at(&self) -> u64 {
        self.timers.peek().map_or(self.greet_at, |Reverse((at, _))| self.greet_at.min(*at))
    }

    /// Does what is due.
    pub fn tick(&mut self, now_ms: u64, beside: &Beside) -> Outcome {
        while let Some(Reverse((at, key))) = self.timers.peek().copied() {
            if at > now_ms {
                break;
            }
            self.timers.pop();
            let event = self.events.remove(&key);
            // What was asked for may be over meanwhile.
            _ = event.map(|event| self.foca.handle_timer(event, &mut self.runtime));
            self.schedule(now_ms);
        }
        if now_ms >= self.greet_at {
            self.greet_at = now_ms + GREET_EVERY_MS;
            for seed in self.seeds.clone() {
                if !self.foca.iter_members().any(|it| it.id().node == seed.node) {
                    _ = self.foca.announce(seed, &mut self.runtime);
                }
            }
        }
        self.outcome(now_ms, beside)
    }

    fn schedule(&mut self, now_ms: u64) {
        while let Some((after, event)) = self.runtime.to_schedule() {
            self.next_event += 1;
            self.events.insert(self.next_event, event);
            self.timers.push(Reverse((now_ms + after.as_millis() as u64, self.next_event)));
        }
    }

    fn outcome(&mut self, now_ms: u64, beside: &Beside) -> Outcome {
        self.schedule(now_ms);
        let mut outcome = Outcome::default();
        while let Some((to, payload)) = self.runtime.to_send() {
            outcome.send.push((to.address, self.sealer.seal(beside, &payload)));
        }
        while let Some(told) = self.runtime.to_notify() {
            match told {
                OwnedNotification::MemberUp(member) => outcome.changes.push(Change::Up(member)),
                OwnedNotification::MemberDown(member) => {
                    outcome.changes.push(Change::Down(member));
                }
                _ => {}
            }
        }
        outcome
    }
}

fn config() -> Config {
    let one = NonZeroUsize::MIN;
    Config {
        probe_period: PROBE_EVERY,
        probe_rtt: ANSWER_IN,
        num_indirect_probes: NonZeroUsize::MIN.saturating_add(2),
        max_transmissions: NonZeroU8::MIN.saturating_add(7),
        suspect_to_down_after: SUSPECT_FOR,
        remove_down_after: Some(FORGET),
        max_packet_size: NonZeroUsize::MIN.saturating_add(MAX_DATAGRAM - OVERHEAD - 1),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams { frequency: ASK_BACK * 5, num_members: one }),
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: ASK_BACK,
            num_members: one.saturating_add(1),
        }),
        periodic_gossip: Some(PeriodicParams {
            frequency: PROBE_EVERY,
            num_members: one.saturating_add(1),
        }),
    }
}
