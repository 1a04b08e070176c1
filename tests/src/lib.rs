//! What the tests that cross crates stand on: a node on this machine, a real
//! broker, an independent observer in front of it, and a file that never answers.
//!
//! Everything a test starts lives in its [`Lab`]: one temporary directory, and
//! processes that end, by their pid, with it. Every wait has a deadline.

#![forbid(unsafe_code)]

use libtest_mimic::Failed;

pub mod broker;
pub mod disk;
pub mod faults;
pub mod guest;
pub mod lab;
pub mod modbus;
pub mod mqtt;
pub mod namespace;
pub mod node;
pub mod process;
pub mod proxy;
pub mod random;
pub mod serial;
pub mod stuck;
pub mod wait;

pub use broker::Broker;
pub use guest::Guest;
pub use lab::{Lab, Need, Test, run, test};
pub use node::Node;
pub use proxy::{Behaviour, Proxy};
pub use random::Random;

/// What a test ends with.
pub type Result<T = ()> = std::result::Result<T, Failed>;

/// Fails the test with a formatted message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+).into());
        }
    };
}
