//! The two clocks that a record carries, and whether the wall clock may be believed.
//!
//! The time since boot is never wrong. The wall clock is, on a node whose battery is
//! empty, until a time service has set it: until then records say so. When it is
//! set, or jumps, an event tells how far, and from that record's two times whoever
//! reads can set the earlier ones of the same boot right.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};
use prost::Message;
use purlin_core::trust::BUILT_UNIX_S;
use purlin_proto::{
    api,
    v1::{ClockSet, Record, record::Body},
};
use tokio::{sync::watch, time};

use crate::{
    alarm, sample,
    spool::Spool,
    time_service::{self, Said},
};

/// How often it is looked whether the clock was set.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A step below it is what a time service does all the time.
const LEAST_STEP_MS: u64 = 1000;

/// The time that certificates are judged by: the wall clock, but unless a time service has
/// set it never before this agent was built, or before a time that somebody who is believed
/// has told and what has gone by since. So a node whose clock never comes right renews its
/// certificate all the same; and one whose own clock was years ahead does not make every
/// certificate expire on nodes that know better. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Floor {
    /// When this node booted, at the earliest, in seconds since 1970; before that if it was
    /// up before the agent was built.
    booted_unix_s: Arc<AtomicI64>,
}

impl Default for Floor {
    fn default() -> Self {
        Self::at(boot_ms() / 1000)
    }
}

impl Floor {
    fn at(boot_s: u64) -> Self {
        Self { booted_unix_s: Arc::new((BUILT_UNIX_S as i64 - boot_s as i64).into()) }
    }

    /// Somebody who is believed has told that it is later than this, in seconds since 1970.
    pub fn learn(&self, unix_s: u64) {
        self.learn_at(unix_s, boot_ms() / 1000);
    }

    fn learn_at(&self, unix_s: u64, boot_s: u64) {
        let booted = i64::try_from(unix_s).unwrap_or_default().saturating_sub_unsigned(boot_s);
        self.booted_unix_s.fetch_max(booted, Ordering::Relaxed);
    }

    /// What it is at least, in seconds since 1970.
    pub fn least(&self) -> u64 {
        self.least_at(boot_ms() / 1000)
    }

    fn least_at(&self, boot_s: u64) -> u64 {
        self.booted_unix_s.load(Ordering::Relaxed).saturating_add_unsigned(boot_s) as u64
    }

    /// Now, in seconds since 1970.
    pub fn now(&self) -> u64 {
        self.judged(unix_ms() / 1000, boot_ms() / 1000, purlin_drivers::clock_is_synchronized())
    }

    fn judged(&self, clock_s: u64, boot_s: u64, is_trusted: bool) -> u64 {
        if is_trusted { clock_s } else { self.least_at(boot_s).max(clock_s) }
    }
}

/// What records are stamped with; cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    boot: u32,
    trusted: Arc<AtomicBool>,
    said: Arc<watch::Sender<Said>>,
}

impl Clock {
    /// The clocks of this boot, the `boot`th of this state directory.
    pub fn new(boot: u32) -> Self {
        let trusted = Arc::new(AtomicBool::new(purlin_drivers::clock_is_synchronized()));
        Self { boot, trusted, said: Arc::default() }
    }

    /// How it is kept, for people and machines.
    pub fn view(&self) -> api::Clock {
        let said = self.said.borrow();
        let (service, ptp) = (said.service(), said.ptp());
        api::Clock { trusted: self.is_trusted(), service, ptp }
    }

    /// Whether a time service has set the wall clock.
    pub fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }

    /// A record of now, encoded.
    pub fn stamp(&self, body: Body) -> Vec<u8> {
        let record = Record {
            unix_ms: unix_ms(),
            boot_ms: boot_ms(),
            boot: self.boot,
            clock_untrusted: !self.is_trusted(),
            body: Some(body),
        };
        record.encode_to_vec()
    }

    /// The same of an instant that is past, in milliseconds since 1970.
    pub fn stamp_at(&self, body: Body, at_unix_ms: u64) -> Vec<u8> {
        let (now, boot_ms) = (unix_ms(), boot_ms());
        let record = Record {
            unix_ms: at_unix_ms,
            boot_ms: boot_ms.saturating_sub(now.saturating_sub(at_unix_ms)),
            boot: self.boot,
            clock_untrusted: !self.is_trusted(),
            body: Some(body),
        };
        record.encode_to_vec()
    }

    /// Watches for the clock being set, and how it is kept, for ever.
    pub async fn watch(self, spool: Spool, alarms: alarm::Client) -> Result<(), String> {
        let mut was = (offset(), self.is_trusted());
        let (mut dictionary, mut asker) = (0, time_service::Asker::default());
        loop {
            let said = asker.ask().await;
            let is_set = purlin_drivers::clock_is_synchronized();
            let now = (offset(), is_trusted(is_set, &said));
            self.trusted.store(now.1, Ordering::Relaxed);
            let points = said.points(now.1);
            if !points.is_empty() {
                alarms.observe(&points);
                spool.sample(sample::split("clock", points), &mut dictionary);
            }
            self.said.send_replace(said);
            if let Some(set) = was_set(was, now) {
                tracing::info!(step_ms = set.step_ms, synchronized = now.1, "the clock was set");
                spool.append(Body::ClockSet(set));
            }
            was = now;
            time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Where a time service answers it has to say so too: the kernel believes for hours what
/// was set once.
fn is_trusted(is_set: bool, said: &Said) -> bool {
    is_set && said.is_synchronized() != Some(false)
}

/// What is told if the clock was set between two looks, or is trusted from now on. A
/// look is the [`offset`] and whether it is trusted.
fn was_set(was: (i64, bool), now: (i64, bool)) -> Option<ClockSet> {
    let step_ms = now.0 - was.0;
    let is_set = step_ms.unsigned_abs() >= LEAST_STEP_MS || (now.1 && !was.1);
    is_set.then_some(ClockSet { step_ms })
}

/// How far the wall clock is ahead of the time since boot.
fn offset() -> i64 {
    unix_ms() as i64 - boot_ms() as i64
}

/// Milliseconds since 1970 by the node's clock, which may be wrong.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Milliseconds since the node booted, suspended time included; never wrong.
pub fn boot_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000)
}

/// The same, for what is counted from now on.
pub fn since_boot() -> Duration {
    Duration::from_millis(boot_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node whose battery is empty starts in 1970, and hours later has the time.
    #[test]
    fn a_clock_of_1970_goes_on_from_what_was_told_last_unless_a_time_service_set_it() {
        let floor = Floor::at(7);
        assert_eq!(floor.judged(7, 7, false), BUILT_UNIX_S);
        let later = BUILT_UNIX_S + 100;
        floor.learn_at(later, 17);
        floor.learn_at(later - 50, 17);
        assert_eq!(floor.judged(17, 17, false), later);
        assert_eq!(floor.judged(later + 1, 17, false), later + 1);
        assert_eq!(floor.judged(later - 1, 17, true), later - 1);
        assert_eq!(floor.judged(1017, 1017, false), later + 1000, "what has gone by counts");
    }

    #[test]
    fn a_clock_that_was_wrong_at_boot_is_told_so_that_earlier_records_can_be_set_right() {
        let (booted, set_after) = (1_800_000_000_000_i64, 5_400_000_i64);
        let early = Record { unix_ms: 60_000, boot_ms: 60_000, ..Record::default() };
        let set = was_set((0, false), (booted, true)).expect("it was set");
        assert_eq!(set.step_ms, booted);
        // As telemetry.proto says: its unix_ms - its boot_ms + this boot_ms.
        let (unix_ms, boot_ms) = (booted + set_after, set_after);
        assert_eq!(unix_ms - boot_ms + early.boot_ms as i64, booted + 60_000);
    }

    #[test]
    fn what_a_time_service_does_all_the_time_is_not_told() {
        let told = |was, now| was_set(was, now).is_some();
        assert!(!told((0, true), (999, true)));
        assert!(told((0, true), (-1000, true)), "backwards too");
        assert!(told((0, false), (0, true)), "it can be believed from now on");
        assert!(!told((0, true), (0, false)), "the service is gone, and the time still right");
    }
}
