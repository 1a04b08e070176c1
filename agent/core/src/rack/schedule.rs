//! Whose turn it is on one bus.
//!
//! Every register has its interval, on a grid that doesn't drift: what was missed is
//! not made up for. A device that does not answer costs its timeout each time it is
//! asked. It is tried again within its shortest interval, but all devices that are
//! dead cost the bus no more than their share.

use alloc::vec::Vec;
use core::time::Duration;

/// A device is dead after so many requests without an answer: noise rarely hits
/// three in a row.
pub const DEAD_AFTER: u32 = 3;
/// The first wait before a dead device is tried again; doubled each time, up to the
/// shortest of its intervals.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// One part in so many of a bus's time may be lost to dead devices.
pub const DEAD_SHARE: u32 = 10;
/// What may be saved up of that share.
const MOST_SAVED: Duration = Duration::from_secs(2);

/// Whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Read these registers of a device, all indexes.
    Read {
        /// Which device.
        device: usize,
        /// Which of its registers.
        registers: Vec<usize>,
    },
    /// Nobody's before this time.
    Sleep(Duration),
}

/// The schedule of one bus. Times are on any clock that only moves forward.
#[derive(Clone, Debug)]
pub struct Schedule {
    devices: Vec<Device>,
    /// Time that may yet be lost to dead devices, and when that was reckoned.
    saved: Duration,
    owing: Duration,
    reckoned: Duration,
}

#[derive(Clone, Debug)]
struct Device {
    /// Each register's interval, and when it is due.
    registers: Vec<(Duration, Duration)>,
    failures: u32,
    /// When it is tried again, if it is dead.
    retry: Duration,
}

impl Device {
    fn is_dead(&self) -> bool {
        self.failures >= DEAD_AFTER
    }

    fn due(&self) -> Duration {
        match self.is_dead() {
            true => self.retry,
            false => self.registers.iter().map(|(_, due)| *due).min().unwrap_or(Duration::MAX),
        }
    }

    fn shortest(&self) -> Duration {
        self.registers.iter().map(|(interval, _)| *interval).min().unwrap_or(Duration::MAX)
    }
}

impl Schedule {
    /// Devices with the intervals of their registers, all due at `now`.
    pub fn new(devices: impl IntoIterator<Item = Vec<Duration>>, now: Duration) -> Self {
        let device = |intervals: Vec<Duration>| Device {
            registers: intervals.into_iter().map(|interval| (interval, now)).collect(),
            failures: 0,
            retry: now,
        };
        let devices = devices.into_iter().map(device).collect();
        Self { devices, saved: Duration::ZERO, owing: Duration::ZERO, reckoned: now }
    }

    /// Whether a device has stopped answering.
    pub fn is_dead(&self, device: usize) -> bool {
        self.devices[device].is_dead()
    }

    /// Whose turn it is: a dead device's first, if its time has come and the share
    /// allows; else the device that has waited longest.
    pub fn next(&mut self, now: Duration) -> Turn {
        self.reckon(now);
        let earliest = |dead: bool| {
            let those = self.devices.iter().enumerate().filter(|(_, it)| it.is_dead() == dead);
            those.map(|(index, device)| (device.due(), index)).min()
        };
        let (dead, alive) = (earliest(true), earliest(false));
        // When the share is paid off again.
        let paid_off = now + self.owing * DEAD_SHARE;
        let dead = dead.map(|(due, index)| (due.max(paid_off), index));
        match (dead, alive) {
            (Some((due, device)), _) if due <= now => self.read(device, now),
            (_, Some((due, device))) if due <= now => self.read(device, now),
            _ => {
                let soonest = dead.into_iter().chain(alive).map(|(due, _)| due).min();
                Turn::Sleep(soonest.unwrap_or(Duration::MAX))
            }
        }
    }

    /// All of a device that is due.
    fn read(&self, index: usize, now: Duration) -> Turn {
        let registers = self.devices[index].registers.iter().enumerate();
        let due = registers.filter(|(_, (_, due))| *due <= now).map(|(register, _)| register);
        Turn::Read { device: index, registers: due.collect() }
    }

    fn reckon(&mut self, now: Duration) {
        let earned = now.saturating_sub(self.reckoned) / DEAD_SHARE;
        let paid = earned.min(self.owing);
        self.owing -= paid;
        self.saved = (self.saved + (earned - paid)).min(MOST_SAVED);
        self.reckoned = now;
    }

    /// Notes that a register's words came.
    pub fn answered(&mut self, device: usize, register: usize, now: Duration) {
        let device = &mut self.devices[device];
        device.failures = 0;
        let (interval, due) = &mut device.registers[register];
        let interval = (*interval).max(Duration::from_millis(1));
        let missed = now.saturating_sub(*due).as_nanos() / interval.as_nanos();
        *due += interval.saturating_mul(u32::try_from(missed + 1).unwrap_or(u32::MAX));
    }

    /// Notes that a device did not answer, and what that cost.
    pub fn failed(&mut self, index: usize, cost: Duration, now: Duration) {
        self.reckon(now);
        let device = &mut self.devices[index];
        device.failures = device.failures.saturating_add(1);
        if !device.is_dead() {
            return;
        }
        let tries = device.failures - DEAD_AFTER;
        let wait = RETRY_FIRST.saturating_mul(1 << tries.min(20)).min(device.shortest());
        device.retry = now + wait;
        if tries > 0 {
            let saved = self.saved.min(cost);
            self.saved -= saved;
            self.owing += cost - saved;
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn read(device: usize, registers: &[usize]) -> Turn {
        Turn::Read { device, registers: registers.to_vec() }
    }

    #[test]
    fn each_register_is_read_when_it_is_due_and_not_before() {
        let mut schedule = Schedule::new([vec![SECOND, 10 * SECOND]], Duration::ZERO);
        assert_eq!(schedule.next(Duration::ZERO), read(0, &[0, 1]));
        schedule.answered(0, 0, 50 * MS);
        schedule.answered(0, 1, 50 * MS);
        assert_eq!(schedule.next(50 * MS), Turn::Sleep(SECOND));
        assert_eq!(schedule.next(SECOND), read(0, &[0]));
        // Late, and on the grid again.
        schedule.answered(0, 0, 3700 * MS);
        assert_eq!(schedule.next(3700 * MS), Turn::Sleep(4 * SECOND));
    }

    #[test]
    fn who_has_waited_longest_is_first() {
        let mut schedule = Schedule::new([vec![3 * SECOND], vec![2 * SECOND]], Duration::ZERO);
        for device in [0, 1] {
            assert_eq!(schedule.next(Duration::ZERO), read(device, &[0]));
            schedule.answered(device, 0, Duration::ZERO);
        }
        assert_eq!(schedule.next(4 * SECOND), read(1, &[0]));
    }

    /// Runs a bus on which every request to a dead device costs its timeout, until
    /// `end`. Returns the time lost to the dead, and the longest between two tries.
    fn run(dead: usize, alive: usize, interval: Duration, end: Duration) -> (Duration, Duration) {
        let timeout = 300 * MS;
        let mut schedule = Schedule::new(vec![vec![interval]; dead + alive], Duration::ZERO);
        let (mut now, mut lost, mut longest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut tried = vec![Duration::ZERO; dead];
        while now < end {
            match schedule.next(now) {
                Turn::Sleep(until) => now = until.max(now + MS),
                Turn::Read { device, .. } if device < dead => {
                    longest = longest.max(now - tried[device]);
                    now += timeout;
                    tried[device] = now;
                    lost += timeout;
                    schedule.failed(device, timeout, now);
                }
                Turn::Read { device, registers } => {
                    now += 20 * MS;
                    registers.iter().for_each(|&at| schedule.answered(device, at, now));
                }
            }
        }
        (lost, longest)
    }

    #[test]
    fn a_dead_device_is_tried_again_within_its_interval() {
        let (_, longest) = run(1, 5, 10 * SECOND, 600 * SECOND);
        assert!(longest <= 10 * SECOND + 400 * MS, "{longest:?}");
    }

    #[test]
    fn many_dead_devices_cost_no_more_than_their_share() {
        let end = 600 * SECOND;
        for dead in [1, 10, 100] {
            let (lost, _) = run(dead, 5, SECOND, end);
            // The first three requests to each found out that it is dead.
            let found_out = DEAD_AFTER * dead as u32 * 300 * MS;
            assert!(lost <= end / DEAD_SHARE + found_out + 3 * SECOND, "{dead}: {lost:?}");
            assert!(lost > end / DEAD_SHARE / 2, "{dead}: {lost:?}");
        }
    }

    #[test]
    fn a_device_that_is_back_is_read_at_once_and_whole() {
        let mut schedule = Schedule::new([vec![10 * SECOND; 2]], Duration::ZERO);
        for _ in 0..DEAD_AFTER {
            schedule.failed(0, 300 * MS, SECOND);
        }
        assert!(schedule.is_dead(0));
        assert_eq!(schedule.next(SECOND), Turn::Sleep(2 * SECOND));
        assert_eq!(schedule.next(2 * SECOND), read(0, &[0, 1]));
        schedule.answered(0, 0, 2 * SECOND);
        assert!(!schedule.is_dead(0));
    }
}
