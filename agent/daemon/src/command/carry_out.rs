//! What each command does.

use std::{path::PathBuf, time::Duration};

use purlin_proto::{
    api,
    v1::{CommandOutcome, signed_command::Command},
};
use tokio::{
    process,
    time::{self, Instant},
};

use super::{Came, Owner, identify};
use crate::helper::{self, Changed, What};

/// For the core to take what waits: other commands wait as well meanwhile.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked how far it has come.
const LOOK: Duration = Duration::from_millis(100);
/// Faults that are told.
const MAX_FAULTS: usize = 50;
/// Tasks that are not ended from outside, and why.
const NEVER: [(&str, &str); 2] = [
    ("command", "it carries this out"),
    ("config", "a change may be on its way to the disk; a trial undoes itself"),
];

/// Who restarts the machine.
#[derive(Debug)]
pub enum Rebooter {
    /// The helper that is root.
    Helper(helper::Client),
    /// A program in place of it, for this project's own tests.
    Program(PathBuf),
    /// Nobody, and why.
    Nobody(&'static str),
}

/// What is to be done, for a person.
pub fn describe(command: &Command) -> String {
    match command {
        Command::Restart(restart) => format!("restart {}", restart.task),
        Command::Drain(_) => "drain".into(),
        Command::Doctor(_) => "doctor".into(),
        Command::SupportBundle(_) => "support-bundle".into(),
        Command::Identify(identify) if identify.nic.is_empty() => "identify".into(),
        Command::Identify(identify) => format!("identify {}", identify.nic),
        Command::Reboot(_) => "reboot".into(),
    }
}

impl Owner {
    /// What came of it; nothing yet of one that ends with the machine.
    pub(super) async fn carry_out(&self, id: &[u8], command: Command) -> Option<Came> {
        let came = match command {
            Command::Restart(restart) => self.restart(&restart.task),
            Command::Drain(_) => match self.drain().await {
                Ok(text) => done(text),
                Err(text) => failed(text),
            },
            Command::Doctor(_) => self.doctor().await,
            Command::SupportBundle(_) => self.support_bundle(id).await,
            Command::Identify(what) => {
                identify::identify(&self.wiring.root, &self.wiring.lights, what).await
            }
            Command::Reboot(_) => return self.reboot().await.err().map(failed),
        };
        Some(came)
    }

    fn restart(&self, task: &str) -> Came {
        if let Some((task, why)) = NEVER.iter().find(|(never, _)| *never == task) {
            return failed(format!("{task} is not ended from afar: {why}"));
        }
        let board = &self.wiring.sources.board;
        match board.restart(task) {
            true => done(format!("task {task} is started anew")),
            false => {
                let tasks = board.tasks();
                let names: Vec<_> = tasks.iter().map(|task| task.name.as_str()).collect();
                failed(format!("no task {task} runs; there are {}", names.join(", ")))
            }
        }
    }

    /// Everything that waits now is on disk, and then the core's.
    async fn drain(&self) -> Result<String, String> {
        let gone = "the spool is away";
        let spool = &self.wiring.spool;
        spool.commit().await.ok_or(gone)?;
        let wanted = spool.figures().await.ok_or(gone)?;
        let waited: u64 = wanted.iter().map(|class| class.pending).sum();
        let deadline = Instant::now() + DRAIN_WITHIN;
        loop {
            let now = spool.figures().await.ok_or(gone)?;
            let late: Vec<_> = wanted.iter().zip(&now).filter(still_waits).collect();
            if late.is_empty() {
                return Ok(format!("{waited} records that waited are the core's"));
            }
            if Instant::now() >= deadline {
                let names: Vec<_> = late.iter().map(|(class, _)| class.class.as_str()).collect();
                let link = self.wiring.sources.link.borrow().view();
                let why = link.last_error.filter(|_| link.state != api::LinkState::Up);
                return Err(format!(
                    "after {DRAIN_WITHIN:?} not all of {} is the core's: {}",
                    names.join(", "),
                    why.unwrap_or_else(|| "the link is slow; look again later".into())
                ));
            }
            time::sleep(LOOK).await;
        }
    }

    async fn doctor(&self) -> Came {
        let queue = self.wiring.spool.figures().await.unwrap_or_default();
        let faults = self.wiring.sources.faults(&queue);
        let text = match faults.len() {
            0 => "no faults".to_owned(),
            1 => "1 fault".to_owned(),
            count => format!("{count} faults"),
        };
        let line = |it: api::Fault| format!("{}: {}; {}", it.id, it.what, it.next);
        let faults = faults.into_iter().take(MAX_FAULTS).map(line).collect();
        Came { faults, ..done(text) }
    }

    /// The machine is told to; its next start says that it did.
    async fn reboot(&self) -> Result<(), String> {
        match &self.wiring.rebooter {
            Rebooter::Nobody(why) => Err((*why).into()),
            Rebooter::Helper(helper) => match helper.ask(What::Reboot).await.changed() {
                Changed::Told => Ok(()),
                Changed::Refused(why) => Err(why),
                other => Err(format!("the helper answers {other:?}")),
            },
            Rebooter::Program(program) => {
                let status = process::Command::new(program).status().await;
                let status = status.map_err(|error| format!("{}: {error}", program.display()))?;
                let failed = || format!("{}: {status}", program.display());
                status.success().then_some(()).ok_or_else(failed)
            }
        }
    }
}

fn still_waits((then, now): &(&api::QueueClass, &api::QueueClass)) -> bool {
    now.acked_seq < then.last_seq
}

pub(super) fn done(text: impl Into<String>) -> Came {
    Came::new(CommandOutcome::Done, text)
}

pub(super) fn failed(text: impl Into<String>) -> Came {
    Came::new(CommandOutcome::Failed, text)
}
