//! Network namespaces that live as long as they: nothing in one reaches anything outside,
//! but others at the same switch.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
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

    /// Puts this thread into it, for ever: the sockets that it makes, and the processes and
    /// threads that it starts, are there.
    pub fn enter(&self) -> Result {
        let file = File::open(format!("/proc/{}/ns/net", self.pid()))?;
        Ok(setns(&file, CloneFlags::CLONE_NEWNET)?)
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

/// A switch that namespaces are plugged into, and no way out. It may be parted in two.
#[derive(Debug)]
pub struct Switch(Namespace);

impl Switch {
    /// One that nothing is plugged into.
    pub fn new() -> Result<Self> {
        let net = Namespace::new()?;
        for part in ["br0", "br1"] {
            net.ip(&["link", "add", part, "type", "bridge"])?;
            net.ip(&["link", "set", part, "up"])?;
        }
        Ok(Self(net))
    }

    /// A namespace at its port `n`, with this address of a /24 on its `eth0`.
    pub fn plug(&self, n: usize, address: Ipv4Addr) -> Result<Namespace> {
        let space = Namespace::new()?;
        let (port, there) = (format!("p{n}"), space.pid());
        let ends = ["type", "veth", "peer", "name", "eth0", "netns", &there];
        self.0.ip(&[&["link", "add", &port][..], &ends].concat())?;
        self.0.ip(&["link", "set", &port, "master", "br0", "up"])?;
        space.ip(&["addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        space.ip(&["link", "set", "eth0", "up"])?;
        Ok(space)
    }

    /// Pulls the cable of port `n`, or plugs it in again.
    pub fn cable(&self, n: usize, is_in: bool) -> Result {
        self.0.ip(&["link", "set", &format!("p{n}"), if is_in { "up" } else { "down" }])
    }

    /// Puts port `n` into the first part or the second, which don't reach each other.
    pub fn part(&self, n: usize, is_second: bool) -> Result {
        let part = if is_second { "br1" } else { "br0" };
        self.0.ip(&["link", "set", &format!("p{n}"), "master", part])
    }
}
