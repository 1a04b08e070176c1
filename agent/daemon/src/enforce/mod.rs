//! Makes every container's cpuset what the plan says, and keeps it so.
//!
//! The task `enforce` owns what is known of that, the [`api::Enforcement`] that it publishes.
//! It reads all cpusets when the plan changes, when the kernel tells of a write or of a new
//! cgroup, and on a timer; tells the placement's owner which containers there are; writes
//! what differs, those that lose CPUs first; and reads everything once more. Nothing is
//! claimed that was not read back.
//!
//! Reading is done here: cgroups and `/proc/irq` are the kernel's own memory and wait for no
//! device. Writing is the helper's. It decides over no CPU: that is the placement's.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use purlin_core::{
    cpuset::{
        self, Cpuset, Cpusets, Found, To,
        repair::{self, Review, Step},
    },
    idset::IdSet,
    inventory::Inventory,
    irq::Rule,
    place::{
        container::{Container, Resources, Via},
        targets::{Target, Targets},
    },
    settings::Settings,
};
use purlin_drivers::{Root, cgroup, irq};
use purlin_proto::api;
use tokio::{
    sync::watch,
    task,
    time::{self, Instant},
};

use crate::{
    clock,
    helper::{Changed, Client, What},
    placement::{self, Teller},
    spool::Spool,
};

mod interrupts;
mod memory;
mod watch_cgroups;

use interrupts::Keeper;
use memory::{Moved, Mover};
use watch_cgroups::Watch;

/// How often all is read back though nobody told of a change.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// After the kernel told of one: a runtime writes a dozen files.
const COALESCE: Duration = Duration::from_millis(20);
/// A container that appears is its runtime's to set up for so long: what looks wrong then
/// may be half done.
const SETTLE: Duration = Duration::from_millis(300);
/// Rounds of writing and reading back: the second is for what the first made possible.
const ROUNDS: usize = 3;
/// Who is written over so often …
const CONTEST: usize = 5;
/// … within this time has somebody else who wants it otherwise, and is left to the timer.
const CONTEST_WITHIN: Duration = Duration::from_secs(30);
/// Time that the placement's owner may take: after a start it waits for the inventory.
const ADOPT: Duration = Duration::from_secs(15);

/// What the task works with.
#[derive(Debug)]
pub struct Wiring {
    /// What every cpuset should be.
    pub targets: watch::Receiver<Arc<Targets>>,
    /// Whether interrupts are kept off exclusive CPUs, and how much memory may be moved.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Told which containers there are.
    pub placement: placement::Client,
    /// CPUs of each node.
    pub inventory: watch::Receiver<Arc<Inventory>>,
    /// Writes.
    pub writer: Client,
    /// Moves memory, and may be busy for minutes.
    pub mover: Client,
    /// Takes the events.
    pub spool: Spool,
    /// What it publishes.
    pub status: watch::Sender<Arc<api::Enforcement>>,
    /// Where it says by which settings it has gone through all.
    pub obeyed: watch::Sender<Option<Obeyed>>,
    /// Where it keeps what it made of interrupts.
    pub state_dir: PathBuf,
    /// Only cgroups below this one are looked at, and no interrupt is: for this project's
    /// own tests, which share a machine.
    pub below: Option<String>,
}

/// The settings that are obeyed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obeyed {
    /// Interrupts are kept off exclusive CPUs.
    interrupts: bool,
    /// Memory that one move may have to move, in MiB.
    move_mib: u64,
}

impl Obeyed {
    /// What these settings want.
    pub fn of(settings: &Settings) -> Self {
        let placement = &settings.placement;
        Self { interrupts: placement.interrupts.value, move_mib: placement.move_mib.value }
    }
}

/// Owns what is known of every cpuset.
#[derive(Debug)]
pub struct Owner {
    wiring: Wiring,
    teller: Teller,
    mover: Mover,
    interrupts: Keeper,
    known: Known,
}

/// What is kept from one pass to the next.
#[derive(Debug, Default)]
struct Known {
    /// What was read back as it should be, by container.
    verified: BTreeMap<String, Target>,
    /// When each cgroup was first seen.
    seen: BTreeMap<String, Instant>,
    /// When each was last written over.
    drifts: BTreeMap<String, VecDeque<Instant>>,
    repaired: BTreeMap<String, u64>,
    written: u64,
    moved_bytes: u64,
    /// What could not be done, by container; told once.
    failed: BTreeMap<String, String>,
    /// The last problem with reading, for the log.
    problem: Option<String>,
    /// It has been through all of them once.
    has_looked: bool,
}

/// Why a cpuset is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The plan is another now.
    Plan,
    /// It was right, and someone wrote over it.
    Drift,
    /// It was created so, while we were away or our word did not count.
    Unpinned,
}

impl Owner {
    /// Goes on with the interrupts as an agent before this one left them.
    pub fn new(wiring: Wiring) -> Self {
        let mover = Mover::new(wiring.mover.clone());
        let interrupts = Keeper::open(&wiring.state_dir);
        let teller = Teller::new(wiring.spool.clone());
        Self { wiring, teller, mover, interrupts, known: Known::default() }
    }

    /// Works for ever.
    pub async fn run(&mut self) {
        let mut watch = Watch::open().inspect_err(|error| {
            tracing::warn!(%error, every = ?CHECK_EVERY, "writes to cgroups are seen by a timer alone");
        });
        // Until the plan is known, nobody knows where containers with names of their own are.
        _ = time::timeout(ADOPT, self.wiring.targets.changed()).await;
        let mut at = Instant::now();
        loop {
            // None of them loses anything when it is dropped while it waits.
            tokio::select! {
                Ok(()) = self.wiring.targets.changed() => at = Instant::now(),
                Ok(()) = self.wiring.settings.changed() => at = Instant::now(),
                Ok(()) = changed(&mut watch) => at = at.min(Instant::now() + COALESCE),
                Some(moved) = self.mover.ended() => {
                    self.moved(moved);
                    at = Instant::now();
                }
                () = time::sleep_until(at) => at = self.pass(watch.as_mut().ok()).await,
            }
        }
    }

    /// Goes through all by the settings as they are. When to do it again.
    async fn pass(&mut self, watch: Option<&mut Watch>) -> Instant {
        let by = Obeyed::of(&self.wiring.settings.borrow_and_update());
        let next = self.go_through(watch, by).await;
        self.wiring.obeyed.send_if_modified(|obeyed| obeyed.replace(by) != Some(by));
        next
    }

    /// Reads all, writes what differs, reads it back. When to do it again.
    async fn go_through(&mut self, watch: Option<&mut Watch>, by: Obeyed) -> Instant {
        let later = Instant::now() + CHECK_EVERY;
        let Some(mut found) = self.read().await else { return later };
        // What was made before it was watched was not told.
        if watch.is_some_and(|watch| watch.follow(&found)) {
            found = self.read().await.unwrap_or(found);
        }
        let containers = containers(&found, &self.wiring.targets.borrow().clone());
        _ = time::timeout(ADOPT, self.wiring.placement.adopt(Via::Found, containers)).await;
        let targets = self.wiring.targets.borrow_and_update().clone();
        // What the plan names by its path alone was not looked at before.
        if targets.cgroups().any(|(_, path)| is_unread(path, &found)) {
            found = self.read().await.unwrap_or(found);
        }
        let unsettled = self.note_seen(&found);
        let due = |found: &Cpusets, owner: &Self| {
            let mut steps = repair::review(&targets, found).steps;
            steps
                .retain(|it| !unsettled.contains(&it.change.cgroup) && !owner.is_contested(&it.id));
            steps
        };
        let differed = due(&found, self);
        let mut steps = differed.clone();
        for _ in 0..ROUNDS {
            if steps.is_empty() || !self.write(&steps).await {
                break;
            }
            let Some(now) = self.read().await else { return later };
            found = now;
            steps = due(&found, self);
        }
        self.tell(&differed, &targets, &found);
        let review = repair::review(&targets, &found);
        let settled = |step: &&Step| !unsettled.contains(&step.change.cgroup);
        let moves = review.moves.iter().filter(settled).cloned().collect();
        self.mover.begin(moves, by.move_mib.saturating_mul(1 << 20));
        let off = if by.interrupts { repair::exclusive(&targets) } else { IdSet::default() };
        self.interrupts(&off, &found.cpus).await;
        self.verify(&targets, &review);
        self.publish(&targets, &found, &review, &off);
        if unsettled.is_empty() { later } else { Instant::now() + SETTLE }
    }

    async fn read(&mut self) -> Option<Cpusets> {
        let targets = self.wiring.targets.borrow().clone();
        let also: Vec<String> = targets.cgroups().map(|(_, path)| path.clone()).collect();
        let read = task::spawn_blocking(move || {
            let root = Root::live().map_err(|error| error.to_string())?;
            let (found, problems) = cgroup::read(&root, &also);
            let problem = problems.first().map(|it| format!("{}: {}", it.at, it.what));
            Ok::<_, String>((found, problem))
        });
        let (mut found, problem) = match read.await.map_err(|error| error.to_string()).flatten() {
            Ok(read) => read,
            Err(error) => (None, Some(error)),
        };
        if problem != self.known.problem {
            if let Some(problem) = &problem {
                tracing::warn!(problem, "can't read all cpusets");
            }
            self.known.problem = problem;
        }
        if let (Some(found), Some(below)) = (&mut found, &self.wiring.below) {
            found.containers.retain(|it| it.cpuset.cgroup.starts_with(below));
            found.others.retain(|path| path.starts_with(below) || below.starts_with(path));
        }
        found
    }

    /// Notes when each cgroup was first seen; those that are too young to be judged.
    fn note_seen(&mut self, found: &Cpusets) -> BTreeSet<String> {
        let now = Instant::now();
        let is_first = !std::mem::replace(&mut self.known.has_looked, true);
        let paths: BTreeSet<&String> =
            found.containers.iter().map(|it| &it.cpuset.cgroup).collect();
        self.known.seen.retain(|path, _| paths.contains(path));
        let mut unsettled = BTreeSet::new();
        for path in paths {
            // What was there before us is nobody's work in progress.
            let born = if is_first { now - SETTLE } else { now };
            let seen = *self.known.seen.entry(path.clone()).or_insert(born);
            if now - seen < SETTLE {
                unsettled.insert(path.clone());
            }
        }
        unsettled
    }

    fn is_contested(&self, id: &str) -> bool {
        let recent = |at: &&Instant| at.elapsed() < CONTEST_WITHIN;
        self.known
            .drifts
            .get(id)
            .is_some_and(|drifts| drifts.iter().filter(recent).count() >= CONTEST)
    }

    /// Writes one after the other; false if nothing was taken.
    async fn write(&mut self, steps: &[Step]) -> bool {
        let mut any = false;
        for step in steps {
            match self.wiring.writer.ask(What::Cpuset(step.change.clone())).await.changed() {
                Changed::Refused(why) => {
                    let told = self.known.failed.insert(step.id.clone(), why.clone());
                    if told.as_ref() != Some(&why) {
                        tracing::error!(container = step.id, why, "a cpuset could not be set");
                        self.not_in_force(step, why);
                    }
                }
                _ => {
                    any = true;
                    self.known.written += 1;
                    self.known.failed.remove(&step.id);
                }
            }
        }
        any
    }

    fn not_in_force(&mut self, step: &Step, why: String) {
        let name = match step.change.to {
            To::Isolated => "placement.partition_invalid",
            _ => "placement.not_in_force",
        };
        let (to, key) = (step.change.to.to_string(), format!("{} {why}", step.id));
        let text = format!("container {} has not {to}: {why}", short(&step.id));
        let attributes = [
            ("container", step.id.clone()),
            ("cgroup", step.change.cgroup.clone()),
            ("wanted", to),
            ("why", why),
        ];
        self.teller.tell(name, text, Some(&key), attributes);
    }

    /// Tells, of what differed, what it was and what it is now.
    fn tell(&mut self, steps: &[Step], targets: &Targets, found: &Cpusets) {
        let mut told = BTreeSet::new();
        for step in steps {
            let Some(target) = targets.containers.get(&step.id) else { continue };
            let Some(it) = found.of(&step.id, target.cgroup.as_deref()) else { continue };
            let cause = self.cause(step, target);
            if cause == Cause::Plan
                || !told.insert(&step.id)
                || self.known.failed.contains_key(&step.id)
            {
                continue;
            }
            let drifts = self.known.drifts.entry(step.id.clone()).or_default();
            drifts.push_back(Instant::now());
            while drifts.len() > CONTEST {
                drifts.pop_front();
            }
            *self.known.repaired.entry(step.id.clone()).or_insert(0) += 1;
            self.repaired(step, cause, &it.cpuset);
        }
    }

    fn cause(&self, step: &Step, target: &Target) -> Cause {
        match self.known.verified.get(&step.id) {
            Some(verified) if verified == target => Cause::Drift,
            Some(_) => Cause::Plan,
            // One that shares loses nothing by having been anywhere.
            None if !target.exclusive => Cause::Plan,
            None => Cause::Unpinned,
        }
    }

    fn repaired(&mut self, step: &Step, cause: Cause, now: &Cpuset) {
        let is = state(now);
        let why = match cause {
            Cause::Drift => "someone wrote over it",
            _ => "it was created so",
        };
        let short = short(&step.id);
        let text = format!("container {short} had {} ({why}); it has {is} again", step.found);
        let attributes = [
            ("container", step.id.clone()),
            ("cgroup", step.change.cgroup.clone()),
            ("found", step.found.clone()),
            ("now", is),
            ("cause", why.into()),
        ];
        tracing::warn!(container = step.id, found = step.found, why, "a cpuset was repaired");
        self.teller.tell("placement.repaired", text, None, attributes);
    }

    fn moved(&mut self, Moved { step, result }: Moved) {
        let short = short(&step.id);
        match result {
            Ok((bytes, ms)) => {
                self.known.moved_bytes += bytes;
                let to = step.change.to.to_string();
                let text = format!(
                    "container {short} had {} and has {to}: {} MiB moved in {ms} ms",
                    step.found,
                    bytes >> 20
                );
                tracing::info!(container = step.id, bytes, ms, to, "memory moved");
                let attributes = [("container", step.id), ("bytes", bytes.to_string())];
                self.teller.tell("placement.memory_moved", text, None, attributes);
            }
            Err(why) => tracing::warn!(container = step.id, why, "memory stays where it is"),
        }
    }

    async fn interrupts(&mut self, off: &IdSet, online: &IdSet) {
        if self.wiring.below.is_some() || (off.is_empty() && self.interrupts.is_idle()) {
            return;
        }
        let read = task::spawn_blocking(|| irq::read(&Root::live().ok()?).0).await;
        let Ok(Some(found)) = read else { return };
        let inventory = self.wiring.inventory.borrow().clone();
        let nodes: Vec<(u32, IdSet)> = inventory
            .numa
            .iter()
            .flatten()
            .filter_map(|node| Some((node.id, node.cpus.clone()?)))
            .collect();
        let rule = Rule { online, off, nodes: &nodes };
        self.interrupts.keep(&self.wiring.writer, &found, &rule).await;
    }

    fn verify(&mut self, targets: &Targets, review: &Review) {
        let known = &mut self.known;
        known.verified.retain(|id, target| {
            targets.containers.get(id) == Some(target) || !review.in_place.contains(id)
        });
        known.verified.retain(|id, _| targets.containers.contains_key(id));
        known.failed.retain(|id, _| targets.containers.contains_key(id));
        known.repaired.retain(|id, _| targets.containers.contains_key(id));
        known.drifts.retain(|id, _| targets.containers.contains_key(id));
        for id in &review.in_place {
            if let Some(target) = targets.containers.get(id) {
                known.verified.insert(id.clone(), target.clone());
            }
            known.failed.remove(id);
        }
    }

    fn publish(&self, targets: &Targets, found: &Cpusets, review: &Review, off: &IdSet) {
        let known = &self.known;
        let container = |(id, target): (&String, &Target)| {
            let it = found.of(id, target.cgroup.as_deref())?;
            let contested = self.is_contested(id).then_some(
                "something else keeps writing it: kubelet's static CPU manager, or another agent \
                 of this kind",
            );
            let why = known.failed.get(id).or(self.mover.left(id)).or(review.not_granted.get(id));
            Some(api::EnforcedContainer {
                id: id.clone(),
                cgroup: it.cpuset.cgroup.clone(),
                cpus: it.cpuset.granted_cpus.to_string(),
                mems: it.cpuset.granted_mems.to_string(),
                partition: it.cpuset.partition.as_ref().map(ToString::to_string),
                in_place: review.in_place.contains(id),
                why: why.cloned().or(contested.map(str::to_owned)),
                repaired: known.repaired.get(id).copied().unwrap_or(0),
            })
        };
        let status = api::Enforcement {
            checked_unix_ms: Some(clock::unix_ms()),
            generation: targets.generation,
            containers: targets.containers.iter().filter_map(container).collect(),
            written: known.written,
            moved_bytes: known.moved_bytes,
            moving: self.mover.moving().cloned(),
            interrupts: api::Interrupts {
                kept_off: off.to_string(),
                moved: self.interrupts.count() as u64,
                managed: self.interrupts.managed(),
                refused: self.interrupts.refused().cloned(),
            },
            problem: known.problem.clone(),
        };
        self.wiring.status.send_replace(Arc::new(status));
    }
}

fn is_unread(path: &str, found: &Cpusets) -> bool {
    let path = cpuset::path_of(path);
    path.is_some_and(|path| found.containers.iter().all(|it| it.cpuset.cgroup != path))
}

/// A container's id as people know it.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

async fn changed(watch: &mut std::io::Result<Watch>) -> std::io::Result<()> {
    match watch {
        Ok(watch) => watch.changed().await,
        Err(_) => std::future::pending().await,
    }
}

/// Every container that has a cgroup. What has a name of its own is there for as long as
/// what is at the path that its runtime told.
fn containers(found: &Cpusets, targets: &Targets) -> Vec<Container> {
    let by_path: BTreeMap<String, &String> =
        targets.cgroups().filter_map(|(id, path)| Some((cpuset::path_of(path)?, id))).collect();
    let id = |it: &Found| match &it.owner {
        Some(owner) => Some(owner.id.clone()),
        None => by_path.get(&it.cpuset.cgroup).copied().cloned(),
    };
    found.containers.iter().filter_map(|it| Some(container(id(it)?, it))).collect()
}

/// What a cgroup alone tells of a container.
fn container(id: String, found: &Found) -> Container {
    Container {
        id,
        cgroup: Some(found.cpuset.cgroup.clone()),
        resources: Resources {
            cpus: found.cpuset.cpus.clone(),
            mems: found.cpuset.mems.clone(),
            ..Resources::default()
        },
        via: Via::Found,
        ..Container::default()
    }
}

/// `CPUs 2-3 and memory of node 0`.
fn state(cpuset: &Cpuset) -> String {
    format!("CPUs {} and memory of node {}", cpuset.granted_cpus, cpuset.granted_mems)
}

#[cfg(test)]
mod tests {
    use purlin_core::cpuset::Version;

    use super::*;

    #[test]
    fn a_container_with_a_name_of_its_own_is_found_where_its_runtime_said() {
        let at = |cgroup: &str| Found {
            owner: cpuset::owner(cgroup),
            cpuset: Cpuset { cgroup: cgroup.into(), ..Cpuset::default() },
        };
        let docker = format!("/docker/{}", "a1".repeat(32));
        let found = Cpusets {
            version: Version::V2,
            mount: "/sys/fs/cgroup".into(),
            cpus: IdSet::default(),
            mems: IdSet::default(),
            remote_partitions: true,
            containers: ["/box/web", "/system.slice/runc-db.scope", "/other", &docker]
                .map(at)
                .into(),
            others: Vec::new(),
        };
        let target = Target { cgroup: Some("box/web".into()), ..Target::default() };
        let targets = Targets {
            containers: [("web".into(), target)].into(),
            left: [("db".into(), ":runc:db".into())].into(),
            ..Targets::default()
        };
        let ids: Vec<_> = containers(&found, &targets).into_iter().map(|it| it.id).collect();
        assert_eq!(ids, ["web", "db", &"a1".repeat(32)]);
    }
}
