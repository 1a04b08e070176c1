//! The two clocks that a record carries, and whether the wall clock may be believed.
//!
//! The time since boot is never wrong. The wall clock is, on a node whose battery is
//! empty, until a time service has set it: until then records say so. When it is
//! set, or jumps, an event tells how far, and from that record's two times whoever
//! reads can set the earlier ones of the same boot right.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};
use prost::Message;
use purlin_proto::v1::{ClockSet, Record, record::Body};
use tokio::time;

use crate::spool::Spool;

/// How often it is looked whether the clock was set.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A step below it is what a time service does all the time.
const LEAST_STEP_MS: u64 = 1000;

/// What records are stamped with; cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    boot: u32,
    trusted: Arc<AtomicBool>,
}

impl Clock {
    /// The clocks of this boot, the `boot`th of this state directory.
    pub fn new(boot: u32) -> Self {
        let trusted = Arc::new(AtomicBool::new(purlin_drivers::clock_is_synchronized()));
        Self { boot, trusted }
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

    /// Watches for the clock being set, for ever.
    pub async fn watch(self, spool: Spool) -> Result<(), String> {
        let mut offset = offset();
        loop {
            time::sleep(LOOK_EVERY).await;
            let now = self::offset();
            let synchronized = purlin_drivers::clock_is_synchronized();
            let was = self.trusted.swap(synchronized, Ordering::Relaxed);
            let step_ms = now - offset;
            if step_ms.unsigned_abs() >= LEAST_STEP_MS || (synchronized && !was) {
                tracing::info!(step_ms, synchronized, "the clock was set");
                spool.append(Body::ClockSet(ClockSet { step_ms }));
            }
            offset = now;
        }
    }
}

/// How far the wall clock is ahead of the time since boot.
fn offset() -> i64 {
    unix_ms() as i64 - boot_ms() as i64
}

/// A time that is surely past, in seconds since 1970: 2026-11-01, raised with each
/// release. A clock that says less is wrong, as one without a battery is at its start.
pub const BUILT_UNIX_S: u64 = 1_793_491_200;

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
