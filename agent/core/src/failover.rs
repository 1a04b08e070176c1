//! Which of several brokers is tried next. They stand in the order of preference: the
//! first that answers is taken, and while it is not the first of all, the better ones
//! are tried again beside it.

use core::time::Duration;

/// While a worse one serves, a better one is tried this often: soon enough that a
/// repaired broker is used the same hour, seldom enough to cost nothing.
pub const FAILBACK_EVERY: Duration = Duration::from_secs(60);

/// Where we stand in a list of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failover {
    at: usize,
}

impl Failover {
    /// The one to try now, of `count`; `None` of none.
    pub fn current(&self, count: usize) -> Option<usize> {
        self.at.checked_rem(count)
    }

    /// It could not be reached, or was lost. True if all were tried since one served:
    /// then it is time to wait.
    pub fn failed(&mut self, count: usize) -> bool {
        self.at = (self.at + 1).checked_rem(count).unwrap_or(0);
        self.at == 0
    }

    /// A better one was reached.
    pub fn moved(&mut self, to: usize) {
        self.at = to;
    }

    /// The one to try beside the one in use; `None` if there is no better.
    pub fn better(&self, probe: usize) -> Option<usize> {
        probe.checked_rem(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_tried_in_turn_and_then_it_waits() {
        let mut failover = Failover::default();
        let tried: alloc::vec::Vec<_> =
            (0..6).map(|_| (failover.current(3), failover.failed(3))).collect();
        let round = [(Some(0), false), (Some(1), false), (Some(2), true)];
        assert_eq!(tried, [round, round].concat());
    }

    #[test]
    fn only_better_ones_are_probed() {
        let mut failover = Failover::default();
        assert_eq!(failover.better(0), None);
        failover.failed(3);
        failover.failed(3);
        let probed = [0, 1, 2].map(|probe| failover.better(probe));
        assert_eq!(probed, [Some(0), Some(1), Some(0)]);
        failover.moved(0);
        assert_eq!((failover.current(3), failover.better(5)), (Some(0), None));
    }

    #[test]
    fn without_an_endpoint_there_is_nothing_to_try() {
        assert_eq!(Failover::default().current(0), None);
    }
}
