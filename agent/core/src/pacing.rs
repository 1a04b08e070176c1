//! What is sent next over one link, and when: alarms first, then what happens now,
//! then the past, as fast as the link's owner pays for.
//!
//! A frame of the present that is ready waits behind at most [`MAX_REPLAYS`] frames of
//! the past: that many may be on their way and no more. A rate, where one is set, is a
//! bucket of bytes that everything is taken from; the present may overdraw it, and the
//! past waits until it is paid back.

use core::time::Duration;

use crate::{identity::Class, window::Lane};

/// Frames of the past on their way at once. Eight of 28 KiB fill 2 MB/s at a round
/// trip of 100 ms, and take 2 s on a line of 1 Mbit/s: no live alarm is later.
pub const MAX_REPLAYS: usize = 8;
/// What a bucket holds at most, so that a link that was quiet doesn't burst.
const BURST: Duration = Duration::from_secs(5);

/// What is ready to be sent, by class and lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The class.
    pub class: Class,
    /// The lane.
    pub lane: Lane,
}

/// When the next frame may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This one, now.
    Now(Ready),
    /// When so much time has passed.
    After(Duration),
    /// When an answer or a record comes.
    Wait,
}

/// A link's bucket.
#[derive(Debug)]
pub struct Pacer {
    bytes_a_second: Option<u64>,
    /// Bytes that may be sent; below zero: owed.
    left: i64,
    at: Duration,
}

impl Pacer {
    /// A link that may carry so much; without a rate as much as it can.
    pub fn new(bytes_a_second: Option<u64>, now: Duration) -> Self {
        Self { bytes_a_second, left: 0, at: now }
    }

    /// Decides. `is_ready` tells whether there is something of a class in a lane,
    /// `replays` how many frames of the past are on their way.
    pub fn turn(
        &mut self,
        is_ready: impl Fn(Ready) -> bool,
        replays: usize,
        now: Duration,
    ) -> Turn {
        let urgent = [Lane::Live, Lane::Replay].map(|lane| Ready { class: Class::Alarm, lane });
        let live = Class::ALL.map(|class| Ready { class, lane: Lane::Live });
        let past = Class::ALL.map(|class| Ready { class, lane: Lane::Replay });
        // What other nodes have sent is the past, whenever it came.
        let live = live.into_iter().filter(|it| it.class != Class::Relay);
        if let Some(ready) = urgent.into_iter().chain(live).find(|it| is_ready(*it)) {
            return Turn::Now(ready);
        }
        let brought = Ready { class: Class::Relay, lane: Lane::Live };
        let Some(ready) = past.into_iter().chain([brought]).find(|it| is_ready(*it)) else {
            return Turn::Wait;
        };
        if replays >= MAX_REPLAYS {
            return Turn::Wait;
        }
        match self.owed(now) {
            None => Turn::Now(ready),
            Some(wait) => Turn::After(wait),
        }
    }

    /// Notes that so much was sent.
    pub fn spend(&mut self, bytes: u64, now: Duration) {
        self.fill(now);
        self.left = self.left.saturating_sub_unsigned(bytes);
    }

    /// How long until the bucket has something again, if it has nothing.
    pub fn owed(&mut self, now: Duration) -> Option<Duration> {
        self.fill(now);
        let rate = self.bytes_a_second?.max(1);
        let owed = self.left.checked_neg().filter(|owed| *owed > 0)?;
        Some(Duration::from_millis((owed.unsigned_abs() * 1000).div_ceil(rate)))
    }

    fn fill(&mut self, now: Duration) {
        let Some(rate) = self.bytes_a_second else {
            self.left = 0;
            return;
        };
        let passed = now.saturating_sub(self.at).as_millis() as u64;
        let most = (rate * BURST.as_secs()) as i64;
        let filled = (rate.saturating_mul(passed) / 1000) as i64;
        // What is less than a byte waits for the next time.
        if filled > 0 {
            self.at = now;
            self.left = self.left.saturating_add(filled).min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{collections::VecDeque, vec::Vec};

    use super::*;

    const FRAME: u64 = 28 << 10;

    /// A link in virtual time: `carries` bytes a second, an answer 100 ms after a frame
    /// is through. A backlog that never ends, a live frame of each of `live` every
    /// second for ten minutes. For each live frame: frames of the past before it on
    /// its way, and how long until it was through. And all bytes sent.
    fn simulate(
        carries: u64,
        rate: Option<u64>,
        live: &[Class],
    ) -> (Vec<(Class, usize, Duration)>, u64) {
        let ms = Duration::from_millis;
        let mut pacer = Pacer::new(rate, ms(0));
        let mut waiting: VecDeque<(Class, Duration)> = VecDeque::new();
        // Frames on their way: whose, of the past, when it is through.
        let mut flying: VecDeque<(Option<(Class, Duration)>, Duration)> = VecDeque::new();
        let (mut told, mut bytes, mut free) = (Vec::new(), 0, ms(0));
        for now in (0..600_000).step_by(10).map(ms) {
            if now.as_millis() % 1000 == 0 {
                waiting.extend(live.iter().map(|class| (*class, now)));
            }
            while flying.front().is_some_and(|it| it.1 + ms(100) <= now) {
                flying.pop_front();
            }
            loop {
                let replays = flying.iter().filter(|it| it.0.is_none()).count();
                let is_ready = |it: Ready| match it.lane {
                    Lane::Live => waiting.iter().any(|(class, _)| *class == it.class),
                    Lane::Replay => it.class == Class::Metric,
                };
                let Turn::Now(turn) = pacer.turn(is_ready, replays, now) else { break };
                let live = (turn.lane == Lane::Live)
                    .then(|| waiting.iter().position(|(class, _)| *class == turn.class))
                    .flatten()
                    .and_then(|at| waiting.remove(at));
                let size = if live.is_some() { 1 << 10 } else { FRAME };
                let through = free.max(now) + Duration::from_micros(size * 1_000_000 / carries);
                if let Some((class, since)) = live {
                    let ahead = flying.iter().filter(|it| it.0.is_none() && it.1 > now).count();
                    told.push((class, ahead, through - since));
                }
                free = through;
                flying.push_back((live, through));
                pacer.spend(size, now);
                bytes += size;
            }
        }
        (told, bytes)
    }

    #[test]
    fn a_live_frame_waits_behind_at_most_so_many_replayed_ones() {
        for carries in [20_000, 125_000, 10_000_000] {
            let (told, bytes) = simulate(carries, None, &[Class::Metric, Class::Alarm]);
            assert!(told.len() >= 1190, "{} of 1200 live frames went", told.len());
            let most = told.iter().map(|it| it.1).max();
            assert!(most <= Some(MAX_REPLAYS), "behind {most:?} at {carries} B/s");
            let slowest = told.iter().map(|it| it.2).max().expect("some");
            // Those, and the live ones that came while they went: a tenth on the slowest.
            let bound = 1.15 * (MAX_REPLAYS as u64 * FRAME) as f64 / carries as f64;
            assert!(slowest.as_secs_f64() <= bound + 0.1, "{slowest:?} at {carries} B/s");
            assert!(bytes > 400 * carries.min(200_000), "the link is used: {bytes} at {carries}");
        }
    }

    #[test]
    fn alarms_go_before_all_that_is_ready_with_them() {
        let (told, _) = simulate(125_000, None, &[Class::Log, Class::Metric, Class::Alarm]);
        for three in told.chunks(3) {
            let order: Vec<_> = three.iter().map(|it| it.0).collect();
            assert_eq!(order, [Class::Alarm, Class::Metric, Class::Log]);
        }
    }

    #[test]
    fn a_metered_link_carries_what_it_may_and_the_present_never_waits_for_it() {
        let (told, bytes) = simulate(1_000_000, Some(50_000), &[Class::Metric]);
        let may = 50_000 * (600 + BURST.as_secs());
        assert!((may * 8 / 10..=may + FRAME).contains(&bytes), "{bytes} of {may}");
        let slowest = told.iter().map(|it| it.2).max().expect("some");
        assert!(slowest < Duration::from_millis(300), "{slowest:?}");
    }
}
