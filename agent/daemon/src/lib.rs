//! The agent: everything between the pure core and the outside world.
//!
//! [`main`] runs it, [`helper::main`] is the process that may hang in its place,
//! and [`boot`], [`helper::inventory`] and [`offline`] serve the commands that
//! work with the agent dead. ARCHITECTURE.md has the picture.

#![forbid(unsafe_code)]

mod agent;
mod alarm;
mod api;
pub mod audit;
pub mod baseline;
pub mod boot;
#[cfg(feature = "broker")]
mod broker;
pub mod cdi;
pub mod clock;
pub mod command;
pub mod document;
pub mod door;
mod enforce;
pub mod enrol;
mod export;
mod heart;
pub mod helper;
pub mod history;
pub mod http;
mod intake;
pub mod inventory;
pub mod kubelet;
mod ledger;
mod logging;
pub mod machine;
mod mesh;
pub mod nri;
pub mod offline;
pub mod otlp;
mod placement;
mod power;
pub mod rack;
pub mod reset;
mod sample;
pub mod sandbox;
mod secret;
mod serve;
mod sparkplug;
pub mod spool;
mod state;
mod status;
mod tasks;
mod time_service;
pub mod trust;
mod two_files;
mod uevent;
mod uplink;
pub mod wire;
pub mod workload;

pub use agent::main;
pub use placement::LastPlan;

/// What a client of the fleet's broker needs.
pub mod mqtt {
    pub use crate::uplink::{
        Answer, Message, PendingAnswer, Session, Transport,
        mqtt::{Connection, Mqtt},
        subscriber::{Arrived, Durable, Filter, Receipt, Subscriber},
    };
}
