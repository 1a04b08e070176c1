//! Who a record is from.
//!
//! A record's identity is (node, incarnation, class, sequence number). Delivery
//! is at least once; a reader drops what it has seen by this identity.

use core::{fmt, num::ParseIntError, str::FromStr};

/// A random number made together with a state directory. A node that lost its
/// directory starts a new incarnation, so that its sequence numbers may start
/// again without being taken for old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = ParseIntError;
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u64::from_str_radix(text.trim(), 16).map(Self)
    }
}

/// What kind of record it is; each class has its own log, budget and sequence.
/// The numbers stand in files on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Something a person must know of. Made durable at once, drained first.
    Alarm = 0,
    /// Something that happened. Made durable at once.
    Event = 1,
    /// A sample. Made durable in groups.
    Metric = 2,
    /// A line that a workload wrote. Made durable in groups.
    Log = 3,
    /// Another node's record, brought here to be sent on. It keeps its own identity.
    Relay = 4,
}

impl Class {
    /// Every class, in the order in which they are drained.
    pub const ALL: [Class; 5] =
        [Class::Alarm, Class::Event, Class::Metric, Class::Log, Class::Relay];

    /// Those of this node's own records.
    pub const OWN: [Class; 4] = [Class::Alarm, Class::Event, Class::Metric, Class::Log];

    /// The name used for its directory and its topic.
    pub fn name(self) -> &'static str {
        match self {
            Class::Alarm => "alarm",
            Class::Event => "event",
            Class::Metric => "metric",
            Class::Log => "log",
            Class::Relay => "relay",
        }
    }
}
