//! `purlin`: one binary, that is the agent, its helper, and the technician's command
//! line. What comes in goes one way: arguments, client (or hardware), page, output.
//!
//! The command line may die at any line and changes nothing itself: what changes a
//! node goes through the agent.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::{path::Path, process::ExitCode};

use clap::Parser;
use purlin_daemon::helper;

use crate::{
    args::{Cli, Command},
    exit::{Ended, Exit, Failure},
    output::Output,
};

mod alarm;
mod args;
mod audit;
mod client;
mod config;
mod confirm;
mod document;
mod driver;
mod exit;
mod fleet;
mod happened;
mod hw;
mod link;
mod log;
mod mesh;
mod metrics;
mod node;
mod numa;
mod oci;
mod output;
mod plot;
mod power;
mod queue;
mod rack;
#[cfg(test)]
mod sample;
mod shell;
mod status;
mod table;
mod top;
mod units;
mod watch;

fn main() -> ExitCode {
    // Only the agent types this. A helper runs on every node for ever, and the command
    // line would be an eighth of its memory.
    if std::env::args_os().nth(1).is_some_and(|command| command == helper::COMMAND) {
        return helper::main(std::env::args_os().nth(2).as_deref());
    }
    if let Some(place) = purlin_mesh::place() {
        return purlin_mesh::main(place);
    }
    let words: Vec<_> = std::env::args_os().collect();
    if oci::is_meant(&words) {
        return oci::main(words);
    }
    match Cli::try_parse_from(words) {
        Ok(cli) => run(cli),
        Err(error) => not_run(&error).into(),
    }
}

fn run(Cli { global, command }: Cli) -> ExitCode {
    let output = Output::new(global.output, global.color);
    let ended = match command {
        // These make a runtime of their own, or do without.
        Command::Agent => return purlin_daemon::main(global.config.as_deref()),
        Command::Completions { shell } => shell::completions(shell, &output),
        Command::Man { dir } => shell::man(&dir),
        Command::Hw(args) => {
            return reading(args.root.as_deref(), || wait(hw::run(&args, &global, &output)));
        }
        Command::Numa(args) => {
            return reading(args.root.as_deref(), || wait(numa::run(&args, &global, &output)));
        }
        Command::OciRuntime { runtime, arguments } => {
            return oci::main_with(runtime, arguments);
        }
        Command::Mesh(args) => match args.command {
            None => return mesh::serve(&global, args.drain),
            Some(command) => wait(mesh::run(&command, &global, &output)),
        },
        Command::Status(args) => wait(status::run(&args, &global, &output)),
        Command::Top(args) => wait(top::run(&args, &global, &output)),
        Command::Node(command) => wait(node::run(&command, &global, &output)),
        Command::Audit(command) => wait(audit::run(&command, &global, &output)),
        Command::Alarm(command) => wait(alarm::run(&command, &global, &output)),
        Command::Power(command) => wait(power::run(&command, &global, &output)),
        Command::Rack(command) => wait(rack::run(&command, &global, &output)),
        Command::Driver(command) => wait(driver::run(&command, &output)),
        Command::Queue(command) => wait(queue::run(&command, &global, &output)),
        Command::Metrics(command) => wait(metrics::run(&command, &global, &output)),
        Command::Link(command) => wait(link::run(&command, &global, &output)),
        Command::Log(watch) => wait(log::run(watch, &global, &output)),
        Command::Fleet(command) => wait(fleet::run(&command, &output)),
        Command::Config(command) => wait(config::run(&command, &global, &output)),
    };
    exit(ended).into()
}

/// What reads the live machine may get stuck in it, in a process that can be left
/// behind. Where there can be none it is done here, and ends when the device lets go.
fn reading(root: Option<&Path>, work: impl Fn() -> Ended) -> ExitCode {
    match root.is_none_or(helper::is_live) {
        true => helper::apart(|| exit(work()) as u8)
            .map_or_else(|_| exit(work()).into(), ExitCode::from),
        false => exit(work()).into(),
    }
}

fn exit(ended: Ended) -> Exit {
    ended.unwrap_or_else(|failure| failure.report())
}

/// One thread is plenty for one request at a time.
fn wait(work: impl Future<Output = Ended>) -> Ended {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("the kernel gives no event loop: {error}")))?
        .block_on(work)
}

/// Help and version were asked for; anything else was typed wrong.
fn not_run(error: &clap::Error) -> Exit {
    // The reader may have gone: `purlin --help | head -1`.
    let _ = error.print();
    match error.use_stderr() {
        true => Exit::Usage,
        false => Exit::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(words: &[&str]) -> Exit {
        let words = ["purlin"].iter().chain(words);
        Cli::try_parse_from(words).map_or_else(|error| not_run(&error), |_| Exit::Ok)
    }

    #[test]
    fn wrong_usage_is_64_and_help_is_not() {
        assert_eq!(typed(&["frobnicate"]), Exit::Usage);
        assert_eq!(typed(&["status", "--output", "xml"]), Exit::Usage);
        assert_eq!(typed(&["queue"]), Exit::Usage);
        assert_eq!(typed(&[]), Exit::Usage);
        assert_eq!(typed(&["--help"]), Exit::Ok);
        assert_eq!(typed(&["--version"]), Exit::Ok);
    }
}
