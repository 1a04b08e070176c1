//! `purlin fleet`: the operator's side. It makes and keeps keys, signs documents,
//! publishes one to each node, and waits for what becomes of them.
//!
//! No agent is asked: it talks to the broker as any client, and what it shows is what
//! the nodes report. The keys are in a directory ([`keys`]) that belongs on a machine
//! that is no node.

use crate::{args::FleetCommand, exit::Ended, output::Output};

mod authority;
mod broker;
mod collect;
mod command;
mod keys;
mod page;
mod push;
mod sign;

/// `purlin fleet …`
pub async fn run(command: &FleetCommand, output: &Output) -> Ended {
    match command {
        FleetCommand::Keygen(args) => keys::generate(args, output),
        FleetCommand::Authority(args) => authority::make(args, output),
        FleetCommand::Certify(args) => authority::certify(args, output),
        FleetCommand::Token(command) => authority::token::run(command, output),
        FleetCommand::Enrol(args) => authority::serve::run(args, output).await,
        FleetCommand::Rotate(args) => keys::rotate(args, output),
        FleetCommand::Sign(args) => sign::run(args, output),
        FleetCommand::Push(args) => push::run(args, output).await,
        FleetCommand::Command(args) => command::run(args, output).await,
        FleetCommand::Status(args) => broker::status(args, output).await,
        FleetCommand::Watch(args) => broker::watch(args, output).await,
        FleetCommand::Collect(args) => collect::run(args, output).await,
    }
}
