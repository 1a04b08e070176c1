//! A network namespace that lives as long as it: nothing in it reaches anything outside.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

use crate::{Result, ensure, process::Process, wait};

/// For it to come about.
const SOON: Duration = Duration::from_secs(20);

/// A network namespace, with loopback up.
#[derive(Debug)]
pub struct Namespace(Process);

impl Namespace {
    /// A new one.
    pub fn new() -> Result<Self> {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sleep", "600"]).stdin(Stdio::null());
        let net = Self(Process::start(&mut holder)?);
        wait::until("the namespace", SOON, || {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
            let (theirs, ours) = (of(&net.pid()), of("self"));
            let apart = theirs.as_ref().ok() != ours.as_ref().ok() && theirs.is_ok();
            if apart { Ok(()) } else { Err(format!("{theirs:?}")) }
        })?;
        net.ip(&["link", "set", "lo", "up"])?;
        Ok(net)
    }

    /// Process id of who holds it.
    pub fn pid(&self) -> String {
        self.0.pid().to_string()
    }

    /// A program in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid(), "-n", program]);
        command
    }

    /// `ip` in it.
    pub fn ip(&self, arguments: &[&str]) -> Result {
        let status = self.command("ip").args(arguments).stdin(Stdio::null()).status()?;
        ensure!(status.success(), "ip {arguments:?}: {status}");
        Ok(())
    }

    /// What a thread does in it: the sockets that it makes, and those of its threads, stay
    /// there.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>> {
        let file = File::open(format!("/proc/{}/ns/net", self.pid()))?;
        let (entered, has_entered) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let is_in = setns(&file, CloneFlags::CLONE_NEWNET);
            // Whoever asked waits for it.
            _ = entered.send(is_in);
            is_in.is_ok().then(work)
        });
        has_entered.recv()??;
        Ok(thread::spawn(move || match thread.join() {
            Ok(Some(done)) => done,
            Ok(None) => panic!("the namespace is gone"),
            Err(panicked) => std::panic::resume_unwind(panicked),
        }))
    }
}
