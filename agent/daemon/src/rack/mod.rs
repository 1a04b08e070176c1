//! What the rack is made of, read over its serial buses.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`alarms`] | the alarms that register maps bring along |
//! | [`bmc`] | looks at the BMC, tells and shows what it says |
//! | [`bus`] | takes turns on one bus, and keeps what its devices said |
//! | [`guarded`] | asks a unit that may owe an answer |
//! | [`map`] | what a kind of device has at which address |
//! | [`nmea`] | a GNSS receiver on a serial port |
//! | [`nut`] | asks a NUT server for its UPSes |
//! | [`port`] | a serial port, by path |
//! | [`rtu`] | one Modbus RTU transaction at a time on one line |
//! | [`run`] | the buses that are configured: opened, read, shown, spooled |
//! | [`shared`] | a bus that two nodes are wired to |
//! | [`tcp`] | the same through a gateway |

pub mod alarms;
pub mod bmc;
pub mod bus;
pub mod guarded;
pub mod map;
pub mod nmea;
mod nut;
pub mod port;
pub mod rtu;
pub mod run;
pub mod shared;
pub mod tcp;
