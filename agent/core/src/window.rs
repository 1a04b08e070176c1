//! How far a cursor may move when acknowledgements come in any order.
//!
//! Frames of consecutive records are sent without waiting for one another. The
//! cursor passes a frame only when it and all before it were acknowledged, so
//! whatever is lost with a connection lies behind no cursor and is sent again.

use alloc::collections::VecDeque;

/// Frames that were sent and not yet passed by the cursor.
#[derive(Debug)]
pub struct Window {
    /// Last sequence number passed.
    acked: u64,
    /// Last sequence number sent.
    sent: u64,
    /// Frames after the cursor in sending order: last sequence number, acknowledged.
    frames: VecDeque<(u64, bool)>,
}

impl Window {
    /// A window whose cursor stands at `acked`, with nothing in flight.
    pub fn new(acked: u64) -> Self {
        Self { acked, sent: acked, frames: VecDeque::new() }
    }

    /// The last sequence number that is acknowledged with all before it.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The sequence number to send next.
    pub fn next(&self) -> u64 {
        self.sent + 1
    }

    /// Frames sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.frames.iter().filter(|(_, acked)| !acked).count()
    }

    /// Notes that records up to `last` were sent in one frame. Records between
    /// [`next`](Self::next) and the frame's first that no longer exist are
    /// passed together with it.
    pub fn sent(&mut self, last: u64) {
        debug_assert!(last > self.sent);
        self.sent = last;
        self.frames.push_back((last, false));
    }

    /// Notes that the frame ending at `last` was acknowledged, and moves the
    /// cursor over every leading frame that was. A frame it doesn't know is
    /// ignored: it was sent before a reset.
    pub fn acknowledge(&mut self, last: u64) {
        if let Some(frame) = self.frames.iter_mut().find(|frame| frame.0 == last) {
            frame.1 = true;
        }
        while let Some((last, _)) = self.frames.pop_front_if(|frame| frame.1) {
            self.acked = last;
        }
    }

    /// Forgets what is in flight: everything after the cursor is to be sent again.
    pub fn reset(&mut self) {
        self.frames.clear();
        self.sent = self.acked;
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn waits_for_the_frame_that_is_missing() {
        let mut window = Window::new(0);
        for last in [10, 20, 30] {
            window.sent(last);
        }
        window.acknowledge(20);
        window.acknowledge(30);
        assert_eq!((window.acked(), window.in_flight()), (0, 1));
        window.acknowledge(10);
        assert_eq!((window.acked(), window.in_flight()), (30, 0));
    }

    #[test]
    fn a_reset_sends_again_from_the_cursor() {
        let mut window = Window::new(5);
        window.sent(10);
        window.sent(20);
        window.acknowledge(20);
        window.reset();
        assert_eq!((window.acked(), window.next()), (5, 6));
    }

    #[test]
    fn an_answer_from_before_the_reset_moves_nothing() {
        let mut window = Window::new(0);
        window.sent(10);
        window.reset();
        window.acknowledge(10);
        assert_eq!(window.acked(), 0);
    }

    proptest::proptest! {
        /// The cursor never passes an unacknowledged record, whatever happens.
        #[test]
        fn never_passes_what_is_unacknowledged(steps in proptest::collection::vec((0..3u8, 0..8usize), 0..60)) {
            let mut window = Window::new(0);
            let mut unacked: Vec<u64> = Vec::new();
            for (step, which) in steps {
                match step {
                    0 => {
                        let last = window.next() + which as u64;
                        window.sent(last);
                        unacked.push(last);
                    }
                    1 if which < unacked.len() => window.acknowledge(unacked.remove(which)),
                    2 => {
                        window.reset();
                        unacked.clear();
                    }
                    _ => {}
                }
                proptest::prop_assert!(unacked.iter().all(|&last| last > window.acked()));
                proptest::prop_assert_eq!(window.in_flight(), unacked.len());
            }
        }
    }
}
