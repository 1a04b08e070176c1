//! Whether an answer may still be on its way to a question given up on.
//!
//! An RTU answer has no number. If a unit answers after its deadline, that answer
//! is taken for the one to the next question of the same shape (of 60 reads with
//! every fifth answer 350 ms late, common clients return 16 to 41 wrong ones as
//! success). Clearing buffers doesn't help: the answer has yet to come.
//!
//! So a unit that owes an answer is asked nothing that counts. A *sentinel* is asked
//! first: a read whose answer can't be confused with any that is owed, because its
//! length is another. A unit answers in the order it was asked, so once the
//! sentinel's answer is there, all before it has come or never will.
//!
//! Some gateways answer out of order. There a sentinel proves nothing, and the only
//! way is to wait for longer than their worst lateness. That bound has to be known
//! and declared: beyond it nothing on the line can tell.

use alloc::vec::Vec;
use core::time::Duration;

use super::pdu::{Request, Table};

/// A unit that answers in order owes an answer for at most this long: the slowest take
/// a second or two, and a unit with few registers, that is switched off and on, is to be
/// back within the usual interval. What buffers for longer declares its lateness.
pub const FORGET_AFTER: Duration = Duration::from_secs(10);

/// In which order a unit answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As it was asked: a device on the line itself.
    Kept,
    /// In any, but none later than this after its request: some gateways.
    Any(Duration),
}

/// Where a sentinel may be read: addresses that the unit has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// The table.
    pub table: Table,
    /// The first address.
    pub start: u16,
    /// How many may be read from there.
    pub most: u16,
    /// How many at least, and by how many more: 2 where a unit refuses odd counts.
    pub step: u16,
}

/// What a unit's guard says to the next question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask it.
    Ask,
    /// Ask this first, and nothing else until it is answered.
    Sentinel(Request),
    /// Ask nothing before this time.
    Wait(Duration),
}

/// Keeps account of what one unit owes. Times are on any clock that only moves
/// forward.
#[derive(Clone, Debug)]
pub struct Guard {
    order: Order,
    owed: Vec<Owed>,
}

#[derive(Clone, Debug)]
struct Owed {
    shape: Shape,
    forgotten: Duration,
}

/// All that tells one answer of a unit from another.
type Shape = (u8, usize);

fn shape(request: &Request) -> Shape {
    (request.function(), request.answer_len())
}

impl Guard {
    /// A unit that owes nothing.
    pub fn new(order: Order) -> Self {
        Self { order, owed: Vec::new() }
    }

    /// Whether anything is owed.
    pub fn is_dirty(&self) -> bool {
        !self.owed.is_empty()
    }

    /// What may be asked now.
    pub fn next(&mut self, now: Duration, sentinels: Sentinels) -> Next {
        self.owed.retain(|owed| owed.forgotten > now);
        let Some(latest) = self.owed.iter().map(|owed| owed.forgotten).max() else {
            return Next::Ask;
        };
        match self.order {
            Order::Any(_) => Next::Wait(latest),
            Order::Kept => self.sentinel(sentinels).map_or(Next::Wait(latest), Next::Sentinel),
        }
    }

    /// The shortest read that can't be taken for anything owed. An answer that
    /// refuses has no length to tell it by, so it is none to a sentinel.
    fn sentinel(&self, Sentinels { table, start, most, step }: Sentinels) -> Option<Request> {
        let counts = (step.max(1)..=most).step_by(step.max(1).into());
        counts
            .filter_map(|count| Request::read(table, start, count).ok())
            .find(|read| self.owed.iter().all(|owed| owed.shape != shape(read)))
    }

    /// Notes that a request goes out.
    pub fn asked(&mut self, request: &Request, now: Duration) {
        let lateness = match self.order {
            Order::Kept => FORGET_AFTER,
            Order::Any(lateness) => lateness,
        };
        self.owed.push(Owed { shape: shape(request), forgotten: now + lateness });
    }

    /// Notes that the last request was answered: whatever was owed before it has
    /// come or never will.
    pub fn answered(&mut self) {
        self.owed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HERE: Sentinels =
        Sentinels { table: Table::HoldingRegisters, start: 100, most: 3, step: 1 };

    fn read(count: u16) -> Request {
        Request::read(Table::HoldingRegisters, 100, count).expect("a short read")
    }

    #[test]
    fn a_unit_that_owes_an_answer_is_first_asked_something_of_another_length() {
        let mut guard = Guard::new(Order::Kept);
        assert_eq!(guard.next(SECOND, HERE), Next::Ask);
        guard.asked(&read(1), SECOND);
        assert_eq!(guard.next(2 * SECOND, HERE), Next::Sentinel(read(2)));
        guard.asked(&read(2), 2 * SECOND);
        assert_eq!(guard.next(3 * SECOND, HERE), Next::Sentinel(read(3)));
        guard.answered();
        assert_eq!(guard.next(4 * SECOND, HERE), Next::Ask);
    }

    #[test]
    fn without_a_length_left_it_waits_until_nothing_can_come_any_more() {
        let mut guard = Guard::new(Order::Kept);
        (1..=3).for_each(|count| guard.asked(&read(count), u32::from(count) * SECOND));
        assert_eq!(guard.next(4 * SECOND, HERE), Next::Wait(3 * SECOND + FORGET_AFTER));
        // The first length is free again before.
        assert_eq!(guard.next(SECOND + FORGET_AFTER, HERE), Next::Sentinel(read(1)));
        assert_eq!(guard.next(3 * SECOND + FORGET_AFTER, HERE), Next::Ask);
    }

    #[test]
    fn where_order_is_not_kept_only_time_helps() {
        let mut guard = Guard::new(Order::Any(2 * SECOND));
        guard.asked(&read(1), SECOND);
        assert_eq!(guard.next(2 * SECOND, HERE), Next::Wait(3 * SECOND));
        assert_eq!(guard.next(3 * SECOND, HERE), Next::Ask);
    }

    #[test]
    fn a_unit_that_refuses_odd_counts_is_asked_even_ones() {
        let pairs = Sentinels { most: 5, step: 2, ..HERE };
        let mut guard = Guard::new(Order::Kept);
        guard.asked(&read(2), SECOND);
        assert_eq!(guard.next(SECOND, pairs), Next::Sentinel(read(4)));
    }

    #[test]
    fn another_function_tells_an_answer_as_well_as_another_length() {
        let mut guard = Guard::new(Order::Kept);
        guard.asked(&Request::read(Table::InputRegisters, 0, 1).expect("one"), SECOND);
        assert_eq!(guard.next(SECOND, HERE), Next::Sentinel(read(1)));
    }
}
