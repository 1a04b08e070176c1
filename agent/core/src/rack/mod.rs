//! The rack's own buses: what is on them, when it is read, what the words mean.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`action`] | what may be written to a device, and when |
//! | [`bmc`] | what a BMC says, and what of it is an alarm |
//! | [`config`] | which buses there are, and what is on them |
//! | [`gnss`] | what a GNSS receiver says, and how far it may be believed |
//! | [`nut`] | what a NUT server says of its UPSes, and what of it is an alarm |
//! | [`serial`] | how characters go over a line |
//! | [`register`] | what a register's words mean, and how far they are to be believed |
//! | [`reads`] | which requests fetch which registers |
//! | [`schedule`] | whose turn it is on a bus |
//! | [`shared`] | who speaks on a bus that two nodes are wired to |

pub mod action;
pub mod bmc;
pub mod config;
pub mod gnss;
pub mod nut;
pub mod reads;
pub mod register;
pub mod schedule;
pub mod serial;
pub mod shared;
