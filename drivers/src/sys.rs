//! System calls that no crate has in a safe form; the only place with `unsafe`.
//!
//! A module each for what is asked. They must be called for the live machine
//! only, and never write to a device or change its state; but for a light that is asked
//! to blink, `ipmi`, which asks whatever it is given, and `watchdog`.

#![allow(unsafe_code)]

pub(crate) mod apart;
pub(crate) mod clock;
pub(crate) mod ethtool;
pub(crate) mod ipmi;
pub(crate) mod memory;
pub(crate) mod nvme;
pub(crate) mod nvml;
pub(crate) mod packet;
pub(crate) mod peer;
pub(crate) mod sg;
pub(crate) mod watchdog;
