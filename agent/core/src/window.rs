//! How far a cursor may move when acknowledgements come in any order.
//!
//! Frames of consecutive records are sent without waiting for one another, in two
//! lanes: what was there when the session began (the past), and what came since (the
//! present), so that the present needn't wait for the past. The cursor passes a frame
//! only when it and all before it were acknowledged, so whatever is lost with a
//! connection lies behind no cursor and is sent again; what was acknowledged ahead of
//! the cursor is remembered over sessions, and is not.

use alloc::vec::Vec;

use crate::seen::Seen;

/// Where a frame is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What came since the session began.
    Live,
    /// What was there before.
    Replay,
}

/// Numbers that a frame may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first.
    pub first: u64,
    /// The last that it may have.
    pub last: u64,
    /// Its lane.
    pub lane: Lane,
}

/// Frames of one log that were sent and not yet passed by the cursor.
#[derive(Debug)]
pub struct Window {
    /// Last sequence number passed.
    acked: u64,
    /// What is acknowledged beyond it.
    ahead: Seen,
    /// The last number of the past.
    mark: u64,
    /// Last numbers sent in each lane.
    replayed: u64,
    live: u64,
    /// To be read again, though later ones are on their way.
    again: Vec<(u64, u64)>,
    /// Frames on their way: first and last number, lane.
    in_flight: Vec<(u64, u64, Lane)>,
}

impl Window {
    /// A window whose cursor stands at `acked`, with nothing in flight.
    pub fn new(acked: u64) -> Self {
        Self {
            acked,
            ahead: Seen::default(),
            mark: acked,
            replayed: acked,
            live: acked,
            again: Vec::new(),
            in_flight: Vec::new(),
        }
    }

    /// A session begins: what is durable now is the past, and nothing is on its way.
    pub fn begin(&mut self, durable: u64) {
        self.mark = durable.max(self.acked);
        (self.replayed, self.live) = (self.acked, self.mark);
        self.again.clear();
        self.in_flight.clear();
    }

    /// The last sequence number that is acknowledged with all before it.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// What may be sent next in a lane, if there is something.
    pub fn next(&self, lane: Lane, durable: u64) -> Option<Span> {
        if let Some((first, last)) = self.again.first().filter(|_| lane == Lane::Replay) {
            return Some(Span { first: *first, last: *last, lane });
        }
        let (sent, end) = match lane {
            Lane::Live => (self.live, durable),
            Lane::Replay => (self.replayed, self.mark.min(durable)),
        };
        let mut first = sent + 1;
        let mut last = end;
        for (from, to) in self.ahead.list() {
            if *from <= first {
                first = first.max(to + 1);
            } else {
                last = last.min(from - 1);
                break;
            }
        }
        (first <= last).then_some(Span { first, last, lane })
    }

    /// Frames sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Those of them that are of the past.
    pub fn replays_in_flight(&self) -> usize {
        self.in_flight.iter().filter(|it| it.2 == Lane::Replay).count()
    }

    /// Notes that a frame of `span` was sent that ends with `last`. Records in it that
    /// no longer exist are passed together with it.
    pub fn sent(&mut self, span: Span, last: u64) {
        debug_assert!(span.first <= last);
        self.in_flight.push((span.first, last, span.lane));
        if let Some((first, end)) = self.again.first_mut()
            && *first == span.first
        {
            *first = last + 1;
            if *first > *end {
                self.again.remove(0);
            }
            return;
        }
        match span.lane {
            Lane::Live => self.live = self.live.max(last),
            Lane::Replay => self.replayed = self.replayed.max(last),
        }
    }

    /// Notes that the frame of these numbers was acknowledged, and moves the cursor
    /// over every leading one that was. A frame it doesn't know is ignored: it was
    /// sent before the session began.
    pub fn acknowledge(&mut self, first: u64, last: u64) {
        let Some(at) = self.in_flight.iter().position(|it| (it.0, it.1) == (first, last)) else {
            return;
        };
        self.in_flight.swap_remove(at);
        self.ahead.note(first, last);
        self.pass();
    }

    /// The frame of these numbers was not taken: what is left of them is to be read
    /// and sent once more.
    pub fn again(&mut self, first: u64, last: u64) {
        let known = self.in_flight.iter().position(|it| (it.0, it.1) == (first, last));
        if let Some(at) = known {
            self.in_flight.swap_remove(at);
            self.again.push((first, last));
        }
    }

    fn pass(&mut self) {
        let reached = self.ahead.list().iter().find(|it| it.0 <= self.acked + 1);
        self.acked = reached.map_or(self.acked, |it| it.1.max(self.acked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window of the past up to `mark`, each frame ten numbers.
    fn replay(mark: u64, frames: u64) -> Window {
        let mut window = Window::new(0);
        window.begin(mark);
        for _ in 0..frames {
            let span = window.next(Lane::Replay, mark).expect("more to send");
            window.sent(span, span.first + 9);
        }
        window
    }

    #[test]
    fn waits_for_the_frame_that_is_missing() {
        let mut window = replay(30, 3);
        window.acknowledge(11, 20);
        window.acknowledge(21, 30);
        assert_eq!((window.acked(), window.in_flight()), (0, 1));
        window.acknowledge(1, 10);
        assert_eq!((window.acked(), window.in_flight()), (30, 0));
    }

    #[test]
    fn a_new_session_sends_again_only_what_was_not_acknowledged() {
        let mut window = replay(30, 3);
        window.acknowledge(11, 20);
        window.begin(35);
        let spans = [(1, 10), (21, 35)];
        for (first, last) in spans {
            let span = window.next(Lane::Replay, 35).expect("more to send");
            assert_eq!((span.first, span.last), (first, last));
            window.sent(span, last);
        }
        assert_eq!(window.next(Lane::Replay, 35), None);
        window.acknowledge(21, 35);
        window.acknowledge(1, 10);
        assert_eq!(window.acked(), 35);
    }

    #[test]
    fn the_present_passes_the_past_and_the_cursor_waits_for_both() {
        let mut window = replay(1000, 1);
        let live = window.next(Lane::Live, 1005).expect("something came");
        assert_eq!((live.first, live.last), (1001, 1005));
        window.sent(live, 1005);
        window.acknowledge(1001, 1005);
        assert_eq!((window.acked(), window.replays_in_flight()), (0, 1));
        window.acknowledge(1, 10);
        assert_eq!(window.acked(), 10);
        assert_eq!(window.next(Lane::Live, 1005), None);
    }

    #[test]
    fn an_answer_from_before_the_session_moves_nothing() {
        let mut window = replay(10, 1);
        window.begin(10);
        window.acknowledge(1, 10);
        assert_eq!(window.acked(), 0);
    }

    #[test]
    fn what_was_not_taken_is_read_again_and_nothing_else() {
        let mut window = replay(100, 3);
        window.again(11, 20);
        let span = window.next(Lane::Replay, 100).expect("it");
        assert_eq!((span.first, span.last), (11, 20));
        window.sent(span, 20);
        assert_eq!(window.next(Lane::Replay, 100).map(|it| it.first), Some(31));
        for first in [1, 11, 21] {
            window.acknowledge(first, first + 9);
        }
        assert_eq!(window.acked(), 30);
    }

    proptest::proptest! {
        /// The cursor never passes an unacknowledged record, whatever happens, and
        /// what is acknowledged is not sent again.
        #[test]
        fn never_passes_what_is_unacknowledged(
            steps in proptest::collection::vec((0..5u8, 0..8usize), 0..80),
        ) {
            let mut window = Window::new(0);
            let mut taken = alloc::collections::BTreeSet::new();
            let mut flying: Vec<(u64, u64)> = Vec::new();
            let mut durable = 0;
            for (step, which) in steps {
                match step {
                    0 | 1 => {
                        let lane = if step == 0 { Lane::Live } else { Lane::Replay };
                        if let Some(span) = window.next(lane, durable) {
                            let last = span.last.min(span.first + which as u64);
                            for seq in span.first..=last {
                                proptest::prop_assert!(!taken.contains(&seq));
                            }
                            window.sent(span, last);
                            flying.push((span.first, last));
                        }
                    }
                    2 if which < flying.len() => {
                        let (first, last) = flying.remove(which);
                        window.acknowledge(first, last);
                        taken.extend(first..=last);
                    }
                    3 => {
                        window.begin(durable);
                        flying.clear();
                    }
                    _ => durable += which as u64,
                }
                proptest::prop_assert!((1..=window.acked()).all(|seq| taken.contains(&seq)));
                proptest::prop_assert!(!taken.contains(&(window.acked() + 1)));
                proptest::prop_assert_eq!(window.in_flight(), flying.len());
            }
        }
    }
}
