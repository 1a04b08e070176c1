//! Who speaks on a bus that two nodes are wired to: its owner by configuration, and a
//! standby that takes over a bus that has fallen silent. Whoever hears another speak
//! keeps off.
//!
//! Modbus has one master. Two that speak at once garble each other, and neither can tell
//! that from noise; but whoever listens before he speaks hears the other. So each waits
//! for a silence of its own length first, the owner's being the shorter, and an owner
//! that has nothing to ask makes itself heard nevertheless. A standby that speaks falls
//! silent now and then for longer than an owner waits, so that one that is back gets the
//! bus. Pure: times are on any clock that only moves forward.

use core::{fmt, str::FromStr, time::Duration};

/// Silence after which an owner speaks: longer than any pause between a request and its
/// answer, with the requests that follow at once.
pub const OWNER_WAITS: Duration = Duration::from_secs(1);
/// Silence after which a standby speaks: several times what an owner leaves.
pub const STANDBY_WAITS: Duration = Duration::from_secs(10);
/// The longest silence that whoever speaks leaves on purpose.
pub const MAKES_ITSELF_HEARD: Duration = Duration::from_secs(3);
/// How long a standby speaks before it lets an owner in.
pub const STINT: Duration = Duration::from_secs(30);
/// For how long it then falls silent: an owner's wait, twice.
pub const LETS_IN: Duration = Duration::from_secs(2);
/// What a node is on a shared bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It speaks.
    Owner,
    /// It speaks while nobody else does.
    Standby,
}

impl Role {
    /// The name used in documents.
    pub fn name(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Standby => "standby",
        }
    }

    fn waits(self) -> Duration {
        match self {
            Role::Owner => OWNER_WAITS,
            Role::Standby => STANDBY_WAITS,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Role::Owner, Role::Standby].into_iter().find(|it| it.name() == text).ok_or(())
    }
}

/// Whether to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A turn may be taken now.
    Speak,
    /// Nothing may be said before this time.
    Listen(Duration),
}

/// One node's view of a shared bus.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    role: Role,
    /// Since when it has had the bus, or had it again after a pause.
    speaks: Option<Duration>,
    /// It may speak from then on, if it hears nobody.
    from: Duration,
}

impl Shared {
    /// A node that has just opened the bus: it listens first.
    pub fn new(role: Role, now: Duration) -> Self {
        Self { role, speaks: None, from: now + role.waits() }
    }

    /// Whether it has the bus.
    pub fn speaks(&self) -> bool {
        self.speaks.is_some()
    }

    /// Another was heard, or what can't be told from another.
    pub fn heard(&mut self, now: Duration) {
        self.speaks = None;
        self.from = now + self.role.waits();
    }

    /// Whether a turn may be taken.
    pub fn next(&mut self, now: Duration) -> Turn {
        if now < self.from {
            return Turn::Listen(self.from);
        }
        let since = *self.speaks.get_or_insert(now);
        if self.role == Role::Standby && now.saturating_sub(since) >= STINT {
            self.from = now + LETS_IN;
            self.speaks = Some(self.from);
            return Turn::Listen(self.from);
        }
        Turn::Speak
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const TICK: Duration = Duration::from_millis(10);
    /// The longest turn that is simulated, in milliseconds.
    const TURN_MS: u64 = 2000;

    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % limit
        }
    }

    /// A node on the wire: a rule, and the turn it is in.
    struct Node {
        role: Role,
        rule: Option<Shared>,
        /// It speaks until then.
        until: Duration,
        /// It is idle until then.
        idle: Duration,
        /// Another spoke while it did: it hears that when it listens again.
        garbled: bool,
    }

    impl Node {
        fn new(role: Role) -> Self {
            let (until, idle) = (Duration::ZERO, Duration::ZERO);
            Self { role, rule: None, until, idle, garbled: false }
        }

        fn is_talking(&self, now: Duration) -> bool {
            self.rule.is_some() && now < self.until
        }

        fn tick(&mut self, now: Duration, other_talks: bool, random: &mut Random) {
            let Some(rule) = &mut self.rule else { return };
            if now < self.until {
                self.garbled |= other_talks;
                return;
            }
            if self.garbled || other_talks {
                self.garbled = false;
                rule.heard(now);
            }
            if now >= self.idle && rule.next(now) == Turn::Speak {
                let turn = Duration::from_millis(30 + random.below(TURN_MS - 30));
                self.until = now + turn;
                let most = MAKES_ITSELF_HEARD.as_millis() as u64;
                self.idle = self.until + Duration::from_millis(random.below(most));
            }
        }
    }

    /// How long two spoke at once at most, how long nobody did while a node was there, and
    /// how long a standby spoke beside an owner that was there.
    struct Worst {
        both: Duration,
        nobody: Duration,
        beside: Duration,
    }

    /// Both nodes for so long, each there or not by chance for minutes.
    fn simulate(seed: u64, lasts: Duration) -> Worst {
        let mut random = Random(seed);
        let mut nodes = [Node::new(Role::Owner), Node::new(Role::Standby)];
        let mut change = [Duration::ZERO; 2];
        let (mut now, zero) = (Duration::ZERO, Duration::ZERO);
        let (mut both, mut nobody, mut beside) = (zero, zero, zero);
        let mut worst = Worst { both, nobody, beside };
        while now < lasts {
            for (node, change) in nodes.iter_mut().zip(&mut change) {
                if now >= *change {
                    let is_there = random.below(4) != 0;
                    if !is_there {
                        node.rule = None;
                    } else if node.rule.is_none() {
                        node.rule = Some(Shared::new(node.role, now));
                        (node.until, node.idle, node.garbled) = (now, now, false);
                    }
                    *change = now + Duration::from_secs(20 + random.below(300));
                }
            }
            let talk: Vec<bool> = nodes.iter().map(|it| it.is_talking(now)).collect();
            let there: Vec<bool> = nodes.iter().map(|it| it.rule.is_some()).collect();
            both = if talk[0] && talk[1] { both + TICK } else { zero };
            let is_silent = !talk[0] && !talk[1] && (there[0] || there[1]);
            nobody = if is_silent { nobody + TICK } else { zero };
            let stands_in = there[0] && nodes[1].rule.is_some_and(|it| it.speaks());
            beside = if stands_in { beside + TICK } else { zero };
            worst.both = worst.both.max(both);
            worst.nobody = worst.nobody.max(nobody);
            worst.beside = worst.beside.max(beside);
            nodes[0].tick(now, talk[1], &mut random);
            nodes[1].tick(now, talk[0], &mut random);
            now += TICK;
        }
        worst
    }

    #[test]
    fn two_never_speak_for_longer_than_a_turn_and_a_silent_bus_is_taken_over() {
        for seed in 0..200 {
            let worst = simulate(seed, Duration::from_secs(3600));
            let turn = Duration::from_millis(TURN_MS);
            assert!(worst.both <= turn, "seed {seed}: both for {:?}", worst.both);
            let most = STANDBY_WAITS + MAKES_ITSELF_HEARD + TICK;
            assert!(worst.nobody <= most, "seed {seed}: nobody for {:?}", worst.nobody);
            let most = STINT + MAKES_ITSELF_HEARD + LETS_IN + turn;
            assert!(worst.beside <= most, "seed {seed}: beside for {:?}", worst.beside);
        }
    }

    #[test]
    fn a_standby_waits_and_lets_its_owner_in() {
        let s = Duration::from_secs;
        let mut standby = Shared::new(Role::Standby, s(0));
        assert_eq!(standby.next(s(0)), Turn::Listen(s(10)));
        standby.heard(s(4));
        assert_eq!(standby.next(s(10)), Turn::Listen(s(14)));
        assert_eq!(standby.next(s(14)), Turn::Speak);
        assert_eq!(standby.next(s(44)), Turn::Listen(s(46)));
        assert_eq!(standby.next(s(46)), Turn::Speak);
        standby.heard(s(47));
        assert!(!standby.speaks());
        let mut owner = Shared::new(Role::Owner, s(44));
        assert_eq!(owner.next(s(44)), Turn::Listen(s(45)));
        assert_eq!(owner.next(s(45)), Turn::Speak);
        assert_eq!(owner.next(s(4500)), Turn::Speak);
    }
}
