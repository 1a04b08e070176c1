//! What the rack is made of, read over its serial buses.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`port`] | a serial port, by path |
//! | [`rtu`] | one Modbus RTU transaction at a time on one line |

pub mod port;
pub mod rtu;
