//! The agent.
#![forbid(unsafe_code)]
pub mod document;
pub mod ledger;
pub mod spool;
pub mod state;
