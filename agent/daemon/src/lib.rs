//! The agent.
#![forbid(unsafe_code)]
pub mod boot;
pub mod clock;
pub mod document;
pub mod door;
pub mod helper;
pub mod ledger;
pub mod logging;
pub mod sample;
pub mod spool;
pub mod state;
pub mod tasks;
pub mod uplink;
