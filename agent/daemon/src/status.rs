//! `GET /v1/status`: everything at a glance, from what the tasks publish. The
//! faults are derived from it, not kept.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::unistd::{AccessFlags, Uid, access};
use purlin_proto::api;
use tokio::sync::watch;

use crate::{
    alarm, audit,
    clock::{Clock, Floor},
    document,
    door::{Identity, VERSION},
    enrol,
    helper::{Client, WRITER_SOCKET},
    inventory::{Hardware, KEPT_CHANGES},
    kubelet, logging, mesh, nri,
    tasks::Board,
    uplink::{self, Link},
};

/// Version of the local API.
const API_VERSION: u32 = 1;

/// Sessions that a broker may end within ten minutes before another node with this one's id
/// is thought of.
const SHARED: u32 = 5;

/// What the status is made of.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Who this node is.
    pub identity: Identity,
    /// Its certificate.
    pub own: enrol::Node,
    /// Why there is none, or no next one.
    pub certificate: watch::Receiver<Option<api::Fault>>,
    /// Whether its state was made on another machine.
    pub moved: watch::Receiver<Option<api::Fault>>,
    /// What time it is at least.
    pub floor: Floor,
    /// How the agent runs.
    pub mode: api::Mode,
    /// State directory.
    pub state_dir: PathBuf,
    /// When the process started.
    pub started: Instant,
    /// How long it took to be ready.
    pub ready_after: Duration,
    /// The tasks.
    pub board: Board,
    /// What the agent keeps itself from.
    pub sandbox: api::Sandbox,
    /// The helper processes.
    pub helper: Client,
    /// The wall clock.
    pub clock: Clock,
    /// The uplink.
    pub link: watch::Receiver<Link>,
    /// The container runtime.
    pub nri: watch::Receiver<api::Nri>,
    /// What kubelet gave out.
    pub kubelet: watch::Receiver<kubelet::State>,
    /// The mesh.
    pub mesh: watch::Receiver<mesh::Seen>,
    /// The hardware, against what was accepted.
    pub hardware: watch::Receiver<Arc<Hardware>>,
    /// What was made of the placements.
    pub enforced: watch::Receiver<Arc<api::Enforcement>>,
    /// The record of what was done.
    pub audit: watch::Receiver<audit::State>,
    /// The core's commands.
    pub commands: watch::Receiver<api::Commands>,
    /// The alarms.
    pub alarms: watch::Receiver<Arc<alarm::Shown>>,
    /// What was found damaged at the start.
    pub damage: Vec<String>,
}

impl Sources {
    /// The status now.
    pub fn status(&self, queue: api::Queue, config: Option<api::Applied>) -> api::Status {
        let mut status = api::Status {
            api: API_VERSION,
            version: VERSION.into(),
            pid: std::process::id(),
            node: self.identity.node.clone(),
            fleet: self.identity.fleet.clone(),
            incarnation: self.identity.incarnation.to_string(),
            mode: self.mode,
            uptime_ms: self.started.elapsed().as_millis() as u64,
            ready_after_ms: self.ready_after.as_millis() as u64,
            state_dir: self.state_dir.display().to_string(),
            tasks: self.board.tasks(),
            sandbox: self.sandbox.clone(),
            helper: self.helper.state(),
            clock: self.clock.view(),
            link: self.link.borrow().view(),
            nri: self.nri.borrow().clone(),
            mesh: self.mesh.borrow().view.clone(),
            queue,
            config,
            you: None,
            commands: self.commands.borrow().clone(),
            alarms: self.alarms.borrow().raised.iter().map(alarm::view).collect(),
            faults: Vec::new(),
            limits: limitations(),
            bounds: Vec::new(),
        };
        status.bounds = bounds(&status);
        let hardware = self.hardware.borrow();
        let limits = hardware.limits.iter();
        status.limits.extend(
            limits.map(|(what, why)| api::Limitation { what: (*what).into(), why: why.clone() }),
        );
        drop(hardware);
        status.faults = self.faults(&status.queue.classes);
        status
    }

    /// What is wrong now.
    pub fn faults(&self, queue: &[api::QueueClass]) -> Vec<api::Fault> {
        let mut faults = faults(&self.helper.state(), &self.board.tasks(), queue, &self.damage);
        faults.extend(hardware_faults(&self.hardware.borrow()));
        faults.extend(nri::faults(&self.nri));
        faults.extend(kubelet::faults(&self.kubelet));
        faults.extend(audit::faults(&self.audit));
        faults.extend(self.own.faults(self.floor.now()));
        faults.extend(self.certificate.borrow().clone());
        faults.extend(self.moved.borrow().clone());
        faults.extend(shared_identity(&self.link.borrow().view()));
        faults.extend(mesh::faults(&self.mesh.borrow().view));
        faults.extend(placement_faults(&self.enforced.borrow()));
        faults
    }
}

/// What is wrong, and what to do next. A link that is down is none: the cloud is
/// an optional input.
fn faults(
    helper: &api::Helper,
    tasks: &[api::Task],
    queue: &[api::QueueClass],
    damage: &[String],
) -> Vec<api::Fault> {
    let fault =
        |id: &str, what: String, next: &str| api::Fault { id: id.into(), what, next: next.into() };
    let mut faults = Vec::new();
    if !helper.stuck_pids.is_empty() {
        let pids = helper.stuck_pids.iter().map(u32::to_string).collect::<Vec<_>>();
        faults.push(fault(
            "helper-stuck",
            format!("a device does not answer: helper {} is stuck on it", pids.join(", ")),
            "`purlin hw list` and `purlin log` name the device; pull or reset it. Nothing else waits for it",
        ));
    }
    if let Some(error) = &helper.error {
        faults.push(fault(
            "helper-missing",
            format!("no helper can be started: {error}"),
            "check the memory left and that the executable is still there",
        ));
    }
    for task in tasks.iter().filter(|task| !task.running && task.restarts > 0) {
        let error = task.last_error.as_deref().unwrap_or("no reason told");
        faults.push(fault(
            "task-failing",
            format!("task {} ended {} times: {error}", task.name, task.restarts),
            "it is restarted by itself; `purlin log` tells more",
        ));
    }
    for class in queue {
        if let Some(error) = &class.error {
            faults.push(fault(
                "spool-disk",
                format!("the {} log {error}", class.class),
                "free or mend the disk under the state directory; records wait in memory, bounded",
            ));
        }
    }
    faults.extend(damage.iter().map(|damage| {
        let next = "the node runs on what was left; see what `purlin config show` says is in force";
        fault("state-damaged", damage.clone(), next)
    }));
    faults
}

/// Two clients with one client id throw each other out, and each of them sees it. Most
/// brokers say so, others close the connection without a word.
fn shared_identity(link: &api::Link) -> Option<api::Fault> {
    (link.taken_over || link.ended >= SHARED).then(|| api::Fault {
        id: "identity-shared".into(),
        what: format!(
            "the broker ended this node's session {} times in ten minutes{}",
            link.ended,
            if link.taken_over { ": another client has its id" } else { "" }
        ),
        next: format!(
            "two nodes may have the id {}, as when a disk or an image was copied with its state: \
             on the copy, `purlin node reset --all`, and a machine id of its own; else see the \
             broker's log and the line",
            link.client_id
        ),
    })
}

fn hardware_faults(hardware: &Hardware) -> Vec<api::Fault> {
    let fault =
        |id: &str, what: String, next: &str| api::Fault { id: id.into(), what, next: next.into() };
    let mut faults = Vec::new();
    if let [first, rest @ ..] = &hardware.diff.changes[..] {
        let more =
            if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
        faults.push(fault(
            "hardware-drift",
            format!("the hardware is not what was accepted: {}{more}", first.text),
            "`purlin hw diff` shows it all; `purlin hw accept` if that is how it should be",
        ));
    }
    faults.extend(hardware.reader_faults.iter().map(|kind| {
        let what = format!("most things of kind {kind} can't be seen any more");
        fault(
            "reader-fault",
            what,
            "`purlin hw list` says what can't be read; `purlin hw accept` if they are gone",
        )
    }));
    faults.extend(hardware.damage.iter().map(|why| {
        let what = format!("the accepted hardware was damaged and set aside: {why}");
        fault(
            "baseline-damaged",
            what,
            "`purlin hw list` shows what is there; `purlin hw accept` takes it for right",
        )
    }));
    faults
}

/// One fault for all containers that do not have what the plan says.
fn placement_faults(enforced: &api::Enforcement) -> Option<api::Fault> {
    let mut wrong = enforced.containers.iter().filter(|it| !it.in_place && it.why.is_some());
    let first = wrong.next()?;
    let more = match wrong.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let id: String = first.id.chars().take(12).collect();
    let why = first.why.as_deref().unwrap_or_default();
    Some(api::Fault {
        id: "placement-not-in-force".into(),
        what: format!("container {id} is on CPUs {}: {why}{more}", first.cpus),
        next: "`purlin numa explain` tells of each container what it should have and what it has"
            .into(),
    })
}

fn bounds(status: &api::Status) -> Vec<api::Bound> {
    let bound = |what: &str, used, limit, unit: &str| api::Bound {
        what: what.into(),
        used,
        limit,
        unit: unit.into(),
    };
    let queue = status.queue.classes.iter();
    let mut bounds: Vec<_> = queue
        .map(|class| {
            bound(&format!("{} log", class.class), Some(class.bytes), class.cap_bytes, "By")
        })
        .collect();
    let in_flight = Some(status.link.in_flight.into());
    bounds.push(bound("batches in flight", in_flight, uplink::MAX_IN_FLIGHT as u64, "{batch}"));
    bounds.push(bound("hardware changes kept", None, KEPT_CHANGES as u64, "{change}"));
    bounds.push(bound("log lines kept", None, logging::KEPT_LINES as u64, "{line}"));
    bounds.push(bound("document", None, document::MAX_BYTES as u64, "By"));
    bounds
}

/// What needs a privilege that a helper of its own may have.
const PIN: &str = "pin containers";

/// What this process may not do, and why.
pub fn limitations() -> Vec<api::Limitation> {
    // What is not there at all, this machine doesn't have.
    const NEEDED: [(&str, AccessFlags, &str); 4] = [
        ("/sys/class/dmi/id/product_serial", AccessFlags::R_OK, "tell the machine's serial number"),
        ("/dev/ipmi0", AccessFlags::R_OK, "ask the BMC"),
        ("/sys/fs/cgroup/cgroup.procs", AccessFlags::W_OK, PIN),
        ("/sys/fs/cgroup/cpuset/cgroup.procs", AccessFlags::W_OK, PIN),
    ];
    let uid = Uid::effective();
    let denied = NEEDED.into_iter().filter_map(|(path, mode, what)| {
        // Another process has that privilege.
        if what == PIN && access(WRITER_SOCKET, AccessFlags::W_OK).is_ok() {
            return None;
        }
        let denied = access(path, mode).err().filter(|error| *error != nix::Error::ENOENT)?;
        let verb = if mode == AccessFlags::R_OK { "read" } else { "write" };
        let why = format!("uid {uid} may not {verb} {path}: {}", denied.desc());
        Some(api::Limitation { what: what.into(), why })
    });
    denied.collect()
}
