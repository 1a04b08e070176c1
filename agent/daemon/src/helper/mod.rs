//! The helper: a process for whatever can hang in the kernel or needs a
//! privilege, which the agent can afford to lose.
//!
//! A read that is stuck in the kernel can't be killed, and neither can the
//! process it is stuck in. So the agent waits for an answer until a deadline,
//! then abandons that helper and starts another. A request that a helper is
//! still stuck on is not made again until the kernel lets go of it: there is at
//! most one stuck helper for each kind of request, and one for each disk that
//! hangs while it is asked about its health.
//!
//! What changes something, or needs to be root, is asked of a helper of its own
//! ([`writer`]), which alone needs a privilege; a change is read back before it is answered. Where the agent has none it
//! is a service of its own that systemd starts at a connection (`purlin-helper.socket`).
//!
//! The two talk over a socket pair, the helper's standard input: a frame is a
//! `u32` length (little-endian) and so many bytes of JSON, one [`Request`] or
//! one [`Answer`]; a connection that was asked for comes with the frame's first byte
//! ([`pass`]). Both ends are the same executable, and the length is bounded.

use std::{io, os::fd::OwnedFd, path::PathBuf, time::Duration};

use purlin_core::{
    cpuset::{Change, Cpuset, To},
    inventory::{Asked, GpuEvent, Inventory, Neighbour, Part, PartData, Problem, Smart},
    irq::Affinity,
    metric::{Point, Sampler},
    place::{book::Room, kubelet::Kubelet},
    rack::bmc,
};
use purlin_drivers::{gpu, power};
use serde::{Deserialize, Serialize};

mod client;
mod nri;
mod once;
mod pass;
mod reboot;
mod server;

pub use client::{Client, Helpers, WRITER_SOCKET, blinker, client, gpu_limiter, writer};
pub use once::{Dump, apart, gather, inventory, is_live};
pub use server::main;

/// What the agent types to start one: `purlin helper`.
pub const COMMAND: &str = "helper";
/// Devices that may be stuck while they are asked about their health before no
/// other is asked: each costs a process and a deadline, and more than that hang
/// together, on what they share.
const MAX_STUCK_DEVICES: usize = 8;
/// Largest frame: a hundred times the inventory of a machine with 256 PUs, which
/// `purlin hw list -o json` prints in 81 kB.
const MAX_FRAME_BYTES: usize = 8 << 20;

/// A request that takes longer is taken for stuck. A part takes milliseconds; only
/// NVML, which brings the driver up at its first call, may take seconds.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// The same for memory that is moved: the kernel answers when all of it is, at a
/// gigabyte a second or so, and a budget says how much that may be.
const MOVE_DEADLINE: Duration = Duration::from_secs(120);
/// The same for the first look at a BMC: hundreds of records in thousands of answers, of
/// 10 to 20 ms each where they come byte by byte.
const BMC_DEADLINE: Duration = Duration::from_secs(180);

/// Everything a helper can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Read one part of the inventory.
    Part(Part),
    /// Ask the device of this name about its health.
    Smart(String),
    /// Take one sample.
    Sample(Sampler),
    /// What GPUs said of their own accord since this was last asked.
    GpuEvents,
    /// Who is at the other end of each cable, as heard so far.
    Neighbours,
    /// Change a cgroup's cpuset. Needs the right to write its files.
    Cpuset(Change),
    /// Change where an interrupt may arrive. Needs the right to write `/proc/irq`.
    Affinity(Affinity),
    /// Connect to the container runtime's NRI socket at this path. Needs the right to.
    Nri(PathBuf),
    /// Tell Kubernetes' scheduler what is left. Needs the right to write its file.
    Features(Room),
    /// Read what kubelet's managers gave out. Needs the right to read their files.
    Kubelet,
    /// Restart the machine. Needs to be root.
    Reboot,
    /// Look at the BMC, and at its log from there on.
    Bmc(bmc::Place),
    /// Let the chassis be found for so many seconds.
    Identify(u8),
    /// Let a port be found.
    Blink {
        /// Its interface.
        nic: String,
        /// For so long. Needs CAP_NET_ADMIN.
        seconds: u32,
    },
    /// Let a cgroup stand still, or go on. Needs the right to write its files.
    Freeze {
        /// Below the mount.
        cgroup: String,
        /// Else it goes on.
        still: bool,
    },
    /// What packages may take.
    Caps,
    /// Set what packages may take. Needs the right to write RAPL's files.
    Cap(Vec<power::Cap>),
    /// What GPUs may take.
    GpuLimits,
    /// Set what GPUs may take. Needs CAP_SYS_ADMIN.
    LimitGpus(Vec<gpu::Cap>),
    /// Switch the machine off. Needs to be root.
    PowerOff,
}

impl What {
    /// For messages, e.g. `sensor`, `temperature sample`.
    fn describe(&self) -> String {
        match self {
            What::Part(part) => part.name().into(),
            What::Smart(device) => device.clone(),
            What::Sample(sampler) => format!("{} sample", sampler.name()),
            What::GpuEvents => "GPU events".into(),
            What::Neighbours => "neighbours".into(),
            What::Cpuset(change) => change.to_string(),
            What::Affinity(Affinity { irq: Some(irq), .. }) => format!("interrupt {irq}"),
            What::Affinity(_) => "new interrupts".into(),
            What::Nri(socket) => socket.display().to_string(),
            What::Features(_) => "what is left for a scheduler".into(),
            What::Kubelet => "kubelet's CPU manager".into(),
            What::Reboot => "a restart of the machine".into(),
            What::Bmc(_) => "BMC".into(),
            What::Identify(_) => "chassis identify".into(),
            What::Blink { nic, .. } => nic.clone(),
            What::Freeze { cgroup, .. } => cgroup.clone(),
            What::Caps | What::Cap(_) => "RAPL".into(),
            What::GpuLimits | What::LimitGpus(_) => "power limits of GPUs".into(),
            What::PowerOff => "a shutdown of the machine".into(),
        }
    }

    /// The part a problem with it belongs to.
    fn part(&self) -> Part {
        match self {
            What::Part(part) => *part,
            What::Smart(_) => Part::Storage,
            What::Sample(Sampler::Cpu) => Part::Cpu,
            What::Sample(Sampler::Memory | Sampler::Pressure) => Part::Memory,
            What::Sample(Sampler::Disk) => Part::Storage,
            What::Sample(Sampler::Network) => Part::Nic,
            What::Sample(Sampler::Temperature) | What::Bmc(_) | What::Identify(_) => Part::Sensor,
            What::GpuEvents | What::Sample(Sampler::Gpu) | What::GpuLimits | What::LimitGpus(_) => {
                Part::Gpu
            }
            What::Neighbours | What::Blink { .. } => Part::Nic,
            What::Cpuset(_)
            | What::Affinity(_)
            | What::Nri(_)
            | What::Features(_)
            | What::Kubelet
            | What::Reboot
            | What::Freeze { .. }
            | What::Caps
            | What::Cap(_)
            | What::PowerOff => Part::Cpu,
        }
    }

    /// After which it is taken for stuck.
    fn deadline(&self) -> Duration {
        match self {
            What::Cpuset(Change { to: To::Mems(_), .. }) => MOVE_DEADLINE,
            What::Bmc(_) => BMC_DEADLINE,
            What::Blink { seconds, .. } => ANSWER_DEADLINE + Duration::from_secs((*seconds).into()),
            _ => ANSWER_DEADLINE,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    id: u64,
    /// The machine's root, or a dump's directory.
    root: PathBuf,
    what: What,
}

/// What a helper answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    id: u64,
    /// The part, if one was asked for and could be read.
    pub data: Option<PartData>,
    /// What the device said, if one was asked about its health.
    pub smart: Option<Smart>,
    /// The sample, if one was asked for.
    pub points: Vec<Point>,
    /// What GPUs said, if that was asked.
    pub gpu_events: Vec<GpuEvent>,
    /// Neighbours by interface name, if they were asked for.
    pub neighbours: Vec<(String, Neighbour)>,
    /// What came of it, if a change or a connection was asked for.
    pub changed: Option<Changed>,
    /// The connection, if one was asked for and made.
    #[serde(skip)]
    pub connection: Option<OwnedFd>,
    /// What the BMC says, if that was asked and there is one.
    pub bmc: Option<Box<bmc::Look>>,
    /// What packages may take, if that was asked.
    pub caps: Vec<power::Cap>,
    /// What GPUs may take, if that was asked.
    pub gpu_limits: Vec<gpu::Limit>,
    /// What kubelet gave out, if that was asked and it gives anything out.
    pub kubelet: Option<Kubelet>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// What came of what needs a privilege.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    /// A cpuset is, as read back, this.
    Cpuset(Cpuset),
    /// An interrupt arrives where it should, as read back.
    Affinity,
    /// An interrupt's driver decides itself where it arrives.
    Managed,
    /// The connection is made.
    Connected,
    /// It is told.
    Told,
    /// The chassis, or the port, can be found.
    Identified,
    /// Nobody ever listened there.
    Absent,
    /// It was not done, and why.
    Refused(String),
}

impl Answer {
    /// An answer that brings nothing but the reason why.
    fn nothing(what: &What, why: impl Into<String>) -> Self {
        let problem = Problem { part: what.part(), at: what.describe(), what: why.into() };
        Self { problems: vec![problem], ..Self::default() }
    }

    fn changing(changed: Changed) -> Self {
        Self { changed: Some(changed), ..Self::default() }
    }

    /// Why there is no answer, if there is none.
    pub fn failed(&self) -> Option<String> {
        self.problems.first().map(|it| format!("{}: {}", it.at, it.what))
    }

    /// What came of a change; without an answer nobody knows.
    pub fn changed(self) -> Changed {
        self.changed.unwrap_or_else(|| {
            let problem = self.problems.into_iter().next();
            Changed::Refused(
                problem.map_or("no answer".into(), |it| format!("{}: {}", it.at, it.what)),
            )
        })
    }

    /// What came of asking a device about its health.
    fn of_device(self, device: String) -> Asked {
        Asked { device, smart: self.smart, problems: self.problems }
    }
}

fn too_many_stuck() -> String {
    format!("not asked: {MAX_STUCK_DEVICES} other devices do not answer")
}

/// Puts a part in its place; which devices are to be asked next.
fn put(inventory: &mut Inventory, part: Part, answer: Answer, again: bool) -> Vec<String> {
    let is_storage = part == Part::Storage && answer.data.is_some();
    let before = inventory.storage.take_if(|_| is_storage);
    inventory.put(part, answer.data, answer.problems);
    let Some(storage) = inventory.storage.as_mut().filter(|_| is_storage) else {
        return Vec::new();
    };
    storage.keep_health(&before.unwrap_or_default());
    storage.to_ask(again)
}

fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME_BYTES);
    let length = length.ok_or_else(|| too_large(body.len()))?;
    Ok([&length.to_le_bytes()[..], &body].concat())
}

fn checked_length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(header) as usize;
    if length <= MAX_FRAME_BYTES { Ok(length) } else { Err(too_large(length)) }
}

fn too_large(length: usize) -> io::Error {
    let what = format!("a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}
