//! The pure heart of Purlin: what is known, what is wanted, what follows.
//!
//! Nothing here has a clock, a file, a socket, a thread, randomness or an
//! iteration order that depends on a hash. The crate is `no_std` with `alloc`,
//! so that none of these can be had by mistake; time and random bits arrive as
//! arguments. A week without the cloud is then a loop in a test.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`inventory`] | what a machine is made of, as values |
//! | [`drift`] | what differs between two inventories, and what of it is to be believed |
//! | [`counts`](mod@counts) | a machine in numbers, as hwloc counts and as the kernel shows it |
//! | [`idset`] | sets of CPU and node ids in the kernel's list form |
//! | [`irq`] | where device interrupts may arrive |
//! | [`metric`] | a measured point: name, unit, attributes, value |
//! | [`modbus`] | what is asked on a serial line, and what of the answers is to be believed |
//! | [`rack`] | the rack's own buses: when what is read, and what it means |
//! | [`identity`] | who a record is from: incarnation, class, sequence |
//! | [`settings`] | which settings exist, their limits, and which source wins |
//! | [`trial`] | whether a change of the configuration is kept or undone |
//! | [`trust`] | which keys may say what, and whether it is new |
//! | [`window`] | how far a cursor may move when acknowledgements come in any order |
//! | [`pacing`] | what is sent next over a link, and when |
//! | [`failover`] | which of several brokers is tried next |
//! | [`retention`] | what a full log gives up first |
//! | [`rate`] | how much there is of something in a day |
//! | [`gap`] | holes in a log, and why they are there |
//! | [`seen`] | which numbers of another's log were brought here |
//! | [`column`](mod@column) | a metric's values over time in few bytes |
//! | [`backoff`] | when to try again |
//! | [`alarm`] | when a reading or a fault is an alarm, and when no more |
//! | [`pattern`] | texts with a `*` in them |
//! | [`cpuset`] | what every container may run on, and what is to be written so that it is so |
//! | [`mesh`] | which request goes to which endpoint |
//! | [`cdi`] | what a container may be given, as its runtime reads it |

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod alarm;
pub mod arrival;
pub mod backoff;
pub mod cdi;
pub mod chrony;
pub mod column;
pub mod counts;
pub mod cpuset;
pub mod drift;
pub mod failover;
pub mod gap;
pub mod identity;
pub mod idset;
pub mod inventory;
pub mod irq;
pub mod mesh;
pub mod metric;
pub mod modbus;
pub mod moved;
pub mod pace;
pub mod pacing;
pub mod pattern;
pub mod place;
pub mod power;
pub mod ptp;
pub mod quota;
pub mod rack;
pub mod rate;
pub mod renewal;
pub mod retention;
pub mod seen;
pub mod settings;
pub mod trial;
pub mod trust;
pub mod window;
