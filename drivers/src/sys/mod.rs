//! System and library calls that no safe crate covers: the one place for `unsafe`.

#![allow(unsafe_code)]

pub(crate) mod ethtool;
pub(crate) mod nvml;
pub(crate) mod packet;
