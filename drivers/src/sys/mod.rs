//! The one place of this crate where `unsafe` is allowed: calls that have no
//! safe form elsewhere, each behind a function that is safe to call.

#![allow(unsafe_code)]

pub(crate) mod nvml;
