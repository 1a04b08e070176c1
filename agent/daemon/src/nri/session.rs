//! One connection to a runtime, from registering to its end. Nothing of it outlives it:
//! whatever went wrong, the next one begins with being told of everything.
//!
//! The runtime waits for each of our answers, and goes on without us if one takes too
//! long: the container is then created as if we weren't there. So nothing here waits but
//! for the placement's owner and for the runtime to read, both with a deadline; whatever
//! can't be done in time ends the session, and the next one repairs what was missed.
//!
//! What a new container takes for itself, the others give up first: their updates go
//! with the answer, and the runtime makes them before it creates anything. All other
//! changes are asked for afterwards, by `UpdateContainers`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prost::Message as _;
use purlin_core::{
    cdi,
    idset::IdSet,
    inventory::Inventory,
    place::{container::Via, targets::Targets},
};
use purlin_proto::{api, nri};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::{self, Instant},
};

use super::{
    codec::{Connection, Decoder, Kind, Message, encode},
    view::{self, Cpuset},
};
use crate::{clock, kubelet, placement, spool::Spool};

/// What the runtime knows us by, and when it asks us: after plugins with smaller numbers.
const NAME: &str = "purlin";
const INDEX: &str = "50";
const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// Events we are told of; the others are none of ours.
const EVENTS: [nri::Event; 7] = [
    nri::Event::CreateContainer,
    nri::Event::PostCreateContainer,
    nri::Event::PostStartContainer,
    nri::Event::UpdateContainer,
    nri::Event::PostUpdateContainer,
    nri::Event::StopContainer,
    nri::Event::RemoveContainer,
];
/// Read at once.
const READ: usize = 64 << 10;
/// Half of the 2 s after which a runtime goes on without us.
const DECIDE: Duration = Duration::from_secs(1);
/// A runtime that reads nothing for so long is taken for dead.
const WRITE: Duration = Duration::from_secs(5);
/// From registering to being configured, and from there to being told of everything:
/// containerd waits with it until no container is being created.
const BEGIN: Duration = Duration::from_secs(60);
/// For the runtime to change [`MAX_UPDATES`] containers, one after the other.
const UPDATE: Duration = Duration::from_secs(120);
/// Containers changed by one call: as long as it takes, the runtime creates none.
const MAX_UPDATES: usize = 32;
/// Containers that a runtime may tell of, several times what is placed.
const MAX_TOLD: usize = 16 * 1024;
/// Containers that an event names; the log has all of them.
const MAX_NAMED: usize = 10;

/// gRPC's codes.
const FAILED_PRECONDITION: i32 = 9;
const UNIMPLEMENTED: i32 = 12;

/// What a session goes by.
#[derive(Debug)]
pub struct Wiring {
    /// Decides.
    pub placement: placement::Client,
    /// Looks what kubelet gave, before that.
    pub kubelet: kubelet::Client,
    /// What every cpuset should be.
    pub targets: watch::Receiver<Arc<Targets>>,
    /// The machine.
    pub inventory: watch::Receiver<Arc<Inventory>>,
    /// How it stands; only written here and by the task.
    pub status: watch::Sender<api::Nri>,
    /// Takes the events.
    pub spool: Spool,
}

/// One connection.
pub struct Session<'a, S> {
    trunk: S,
    wiring: &'a mut Wiring,
    /// The last stream that we opened: ids of ours are odd.
    stream: u32,
    stage: Stage,
    /// When the stage is over, or the call that is under way is answered, at the latest.
    due: Option<Instant>,
    /// Stream of the `UpdateContainers` that is under way.
    updating: Option<u32>,
    /// The cpuset that the runtime has each container for; empty: none of its own.
    shown: BTreeMap<String, Cpuset>,
}

#[derive(Debug)]
enum Stage {
    Registering,
    /// What was told so far.
    Synchronizing(nri::SynchronizeRequest),
    Running,
}

/// An answer's payload, or why a call fails. The outer error ends the session.
type Answer = Result<Result<Vec<u8>, nri::Status>, String>;

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    /// Over a connection that was just made.
    pub fn over(trunk: S, wiring: &'a mut Wiring) -> Self {
        Self {
            trunk,
            wiring,
            stream: 0,
            stage: Stage::Registering,
            due: None,
            updating: None,
            shown: BTreeMap::new(),
        }
    }

    /// Serves until the connection ends; why it did.
    pub async fn run(&mut self) -> String {
        match self.serve().await {
            Ok(never) => match never {},
            Err(why) => why,
        }
    }

    /// True once the runtime has told of everything.
    pub fn synchronized(&self) -> bool {
        matches!(self.stage, Stage::Running)
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, String> {
        let register =
            nri::RegisterPluginRequest { plugin_name: NAME.into(), plugin_idx: INDEX.into() };
        self.call("RegisterPlugin", &register).await?;
        self.due = Some(Instant::now() + BEGIN);
        let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
        let mut buffer = vec![0; READ];
        loop {
            let running = self.synchronized();
            let due = self.due.unwrap_or_else(Instant::now);
            // None of them loses anything when it is dropped while it waits.
            tokio::select! {
                read = self.trunk.read(&mut buffer) => {
                    let length = read.map_err(|error| error.to_string())?;
                    if length == 0 {
                        return Err("the runtime has closed the connection".into());
                    }
                    decoder
                        .push(&buffer[..length], &mut messages)
                        .map_err(|error| error.to_string())?;
                    for message in messages.drain(..) {
                        self.take(message).await?;
                    }
                }
                Ok(()) = self.wiring.targets.changed(), if running && self.updating.is_none() => {}
                () = time::sleep_until(due), if self.due.is_some() => return Err(self.late()),
            }
            if self.synchronized() && self.updating.is_none() {
                self.catch_up().await?;
            }
        }
    }

    fn late(&self) -> String {
        match &self.stage {
            Stage::Registering => format!("the runtime did not configure us within {BEGIN:?}"),
            Stage::Synchronizing(_) => {
                format!("the runtime did not tell of its containers within {BEGIN:?}")
            }
            Stage::Running => format!("the runtime did not change containers within {UPDATE:?}"),
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), String> {
        match (message.connection, message.kind) {
            (Connection::Plugin, Kind::Request) => self.answer(message).await,
            (Connection::Runtime, Kind::Response) => self.answered(message),
            _ => Ok(()),
        }
    }

    async fn answer(&mut self, message: Message) -> Result<(), String> {
        let call = nri::Call::decode(message.payload).map_err(unreadable)?;
        let answer = self.carry_out(&call).await?;
        let reply = match answer {
            Ok(payload) => nri::Reply { status: None, payload: payload.into() },
            Err(status) => nri::Reply { status: Some(status), ..Default::default() },
        };
        self.send(Connection::Plugin, message.stream, Kind::Response, &reply).await
    }

    async fn carry_out(&mut self, call: &nri::Call) -> Answer {
        let payload = &call.payload[..];
        match call.method.as_str() {
            "Configure" => self.configure(&decode(payload)?),
            "Synchronize" => self.synchronize(decode(payload)?).await,
            "CreateContainer" => self.create(decode(payload)?).await,
            "UpdateContainer" => self.update(decode(payload)?).await,
            "StopContainer" | "RemoveContainer" => {
                let request: nri::ContainerRequest = decode(payload)?;
                self.remove(request.container).await
            }
            "PostCreateContainer" | "PostStartContainer" | "PostUpdateContainer" => {
                let request: nri::ContainerRequest = decode(payload)?;
                self.shows(request.container)
            }
            "StateChange" => {
                let event: nri::StateChangeEvent = decode(payload)?;
                match event.event() {
                    nri::Event::RemoveContainer => self.remove(event.container).await,
                    nri::Event::PostCreateContainer
                    | nri::Event::PostStartContainer
                    | nri::Event::PostUpdateContainer => self.shows(event.container),
                    _ => Ok(Ok(Vec::new())),
                }
            }
            "Shutdown" => Ok(Ok(Vec::new())),
            method => {
                let message = format!("purlin has no {method}");
                Ok(Err(nri::Status { code: UNIMPLEMENTED, message }))
            }
        }
    }

    fn configure(&mut self, request: &nri::ConfigureRequest) -> Answer {
        let runtime = format!("{} {}", request.runtime_name, request.runtime_version);
        tracing::info!(runtime, nri = request.nri_version, "registered with the container runtime");
        self.wiring.status.send_modify(|status| status.runtime = Some(runtime.trim().to_owned()));
        self.stage = Stage::Synchronizing(nri::SynchronizeRequest::default());
        self.due = Some(Instant::now() + BEGIN);
        let events = EVENTS.iter().map(|event| 1 << (*event as i32 - 1)).sum();
        Ok(Ok(nri::ConfigureResponse { events }.encode_to_vec()))
    }

    /// Takes in what there is, and repairs what was created while we were away.
    async fn synchronize(&mut self, part: nri::SynchronizeRequest) -> Answer {
        let Stage::Synchronizing(told) = &mut self.stage else {
            return Err("the runtime told of its containers out of turn".into());
        };
        told.pods.extend(part.pods);
        told.containers.extend(part.containers);
        if told.pods.len().max(told.containers.len()) > MAX_TOLD {
            return Err(format!("the runtime told of over {MAX_TOLD} pods or containers"));
        }
        if part.more {
            let more = nri::SynchronizeResponse { more: true, update: Vec::new() };
            return Ok(Ok(more.encode_to_vec()));
        }
        let told = std::mem::take(told);
        let pods: BTreeMap<_, _> = told.pods.iter().map(|pod| (&*pod.id, pod)).collect();
        let there =
            |container: &nri::Container| container.state() != nri::ContainerState::ContainerStopped;
        let all = told.containers.into_iter().filter(there).map(|container| {
            let pod = pods.get(&*container.pod_sandbox_id).copied();
            view::container(container, pod)
        });
        let all: Vec<_> = all.collect();
        let names: BTreeMap<_, _> = all.iter().map(|it| (it.id.clone(), it.title())).collect();
        self.shown = all.iter().map(|it| (it.id.clone(), view::cpuset(&it.resources))).collect();
        self.wiring.kubelet.refresh().await;
        decided(self.wiring.placement.adopt(Via::Nri, all)).await?;
        let update = self.stale(usize::MAX, None);
        let titles: Vec<_> =
            update.iter().filter_map(|it| names.get(&it.container_id)).cloned().collect();
        tracing::info!(containers = names.len(), repaired = ?titles, "told of every container");
        if !titles.is_empty() {
            self.tell_repaired(&titles);
        }
        self.stage = Stage::Running;
        self.due = None;
        self.wiring.status.send_modify(|status| {
            status.state = api::NriState::Up;
            status.since_unix_ms = clock::unix_ms();
            status.last_error = None;
            status.sessions += 1;
            status.repaired += titles.len() as u64;
        });
        Ok(Ok(nri::SynchronizeResponse { update, more: false }.encode_to_vec()))
    }

    fn tell_repaired(&self, titles: &[String]) {
        let some = titles.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let count = titles.len().to_string();
        let text = format!(
            "{count} containers were not where they belong when the runtime told of them, and \
             are changed: {some}{}",
            if titles.len() > MAX_NAMED { ", …" } else { "" }
        );
        let attributes = [("containers".to_owned(), count)];
        self.wiring.spool.event_with("placement.repaired", text, attributes);
    }

    /// A container is about to be created.
    async fn create(&mut self, request: nri::ContainerRequest) -> Answer {
        let container =
            view::container(request.container.unwrap_or_default(), request.pod.as_ref());
        let (id, title) = (container.id.clone(), container.title());
        let has = view::cpuset(&container.resources);
        if container.pod.is_some() {
            self.wiring.kubelet.refresh().await;
        }
        let grant = match decided(self.wiring.placement.create(container)).await? {
            Ok(grant) => grant,
            Err(refusal) => return Ok(Err(self.refused(&title, &refusal.reason))),
        };
        let update = self.stale(usize::MAX, Some(&id));
        let wanted = grant.target.as_ref().map_or_else(|| has.clone(), view::wanted);
        let differs = filled(&has, &self.everything()) != (&wanted.0, &wanted.1);
        let resources = differs.then(|| view::adjustment(&wanted));
        self.shown.insert(id, if resources.is_some() { wanted } else { has });
        let adjust = nri::ContainerAdjustment {
            linux: Some(nri::LinuxContainerAdjustment { resources }),
            cdi_devices: self.cdi(&grant.devices),
            ..Default::default()
        };
        self.wiring.status.send_modify(|status| status.created += 1);
        Ok(Ok(nri::CreateContainerResponse { adjust: Some(adjust), update }.encode_to_vec()))
    }

    /// A container's resources are about to be changed, as when kubelet resizes it.
    async fn update(&mut self, request: nri::ContainerRequest) -> Answer {
        let mut container =
            view::container(request.container.unwrap_or_default(), request.pod.as_ref());
        let (id, title) = (container.id.clone(), container.title());
        let mut resources = view::resources(request.linux_resources.as_ref());
        // What is not said stays as it is.
        let before = container.resources;
        resources.cpu_shares = resources.cpu_shares.or(before.cpu_shares);
        resources.cpu_quota_us = resources.cpu_quota_us.or(before.cpu_quota_us);
        resources.cpu_period_us = resources.cpu_period_us.or(before.cpu_period_us);
        resources.memory_limit = resources.memory_limit.or(before.memory_limit);
        // The cpuset that we gave it is nobody else's decision.
        let ours = self.wiring.targets.borrow().containers.get(&id).map(view::wanted);
        let (cpus, mems) = ours.unwrap_or_default();
        resources.cpus = resources.cpus.or(before.cpus).filter(|it| *it != cpus);
        resources.mems = resources.mems.or(before.mems).filter(|it| *it != mems);
        container.resources = resources;
        self.wiring.kubelet.refresh().await;
        let grant = match decided(self.wiring.placement.update(container)).await? {
            Ok(grant) => grant,
            Err(refusal) => return Ok(Err(self.refused(&title, &refusal.reason))),
        };
        let mut update = self.stale(usize::MAX, Some(&id));
        if let Some(target) = &grant.target {
            let wanted = view::wanted(target);
            update.push(view::update(&id, &wanted));
            self.shown.insert(id, wanted);
        }
        Ok(Ok(nri::UpdateContainerResponse { update }.encode_to_vec()))
    }

    fn refused(&self, title: &str, reason: &str) -> nri::Status {
        tracing::warn!(container = title, reason, "refused");
        self.wiring.status.send_modify(|status| status.refused += 1);
        let message = format!("purlin can't place {title}: {reason}");
        nri::Status { code: FAILED_PRECONDITION, message }
    }

    /// A container has stopped, and is not started again. What others may have now is
    /// asked for when the targets have changed.
    async fn remove(&mut self, container: Option<nri::Container>) -> Answer {
        let id = container.unwrap_or_default().id;
        if self.shown.remove(&id).is_some() {
            decided(self.wiring.placement.remove(&id)).await?;
        }
        Ok(Ok(Vec::new()))
    }

    /// The runtime shows what became of a container: if that is not what we answered,
    /// [`catch_up`](Self::catch_up) repairs it.
    fn shows(&mut self, container: Option<nri::Container>) -> Answer {
        let container = container.unwrap_or_default();
        let linux = container.linux.unwrap_or_default();
        let cpuset = view::cpuset(&view::resources(linux.resources.as_ref()));
        match self.shown.get_mut(&container.id) {
            Some(shown) => *shown = cpuset,
            // Created in the moment between being told of everything and being asked.
            None => return Err(format!("container {} came to be unseen", container.id)),
        }
        Ok(Ok(Vec::new()))
    }

    /// Asks for what is not as it should be, a bounded part of it at a time.
    async fn catch_up(&mut self) -> Result<(), String> {
        self.wiring.targets.mark_unchanged();
        let update = self.stale(MAX_UPDATES, None);
        if !update.is_empty() {
            let request = nri::UpdateContainersRequest { update };
            self.updating = Some(self.call("UpdateContainers", &request).await?);
            self.due = Some(Instant::now() + UPDATE);
        }
        Ok(())
    }

    fn answered(&mut self, message: Message) -> Result<(), String> {
        let reply = nri::Reply::decode(message.payload).map_err(unreadable)?;
        let failed = reply.status.filter(|status| status.code != 0);
        if self.updating == Some(message.stream) {
            (self.updating, self.due) = (None, None);
            // What can't be changed is not tried again until it should be otherwise: a
            // container that is about to end. The verifier sees to its cgroup.
            let answer = nri::UpdateContainersResponse::decode(reply.payload).unwrap_or_default();
            let ids: Vec<_> = answer.failed.iter().map(|it| &*it.container_id).collect();
            if failed.is_some() || !ids.is_empty() {
                let why = failed.map(|status| status.message).unwrap_or_default();
                tracing::warn!(why, containers = ids.join(" "), "not changed by the runtime");
            }
        } else if let Some(status) = failed {
            return Err(format!("the runtime does not let us register: {}", status.message));
        }
        Ok(())
    }

    /// At most `limit` updates that make the containers what they should be, first of
    /// those that give CPUs up, last of those that get them for themselves. They are
    /// taken for done.
    fn stale(&mut self, limit: usize, but: Option<&str>) -> Vec<nri::ContainerUpdate> {
        let everything = self.everything();
        let targets = self.wiring.targets.borrow();
        let mut stale = Vec::new();
        for (id, has) in self.shown.iter().filter(|(id, _)| but != Some(id.as_str())) {
            let Some(target) = targets.containers.get(id) else { continue };
            let has = filled(has, &everything);
            if has != (&target.cpus, &target.mems) {
                let gains = !target.cpus.is_subset(has.0);
                stale.push(((gains, target.exclusive), id.clone(), view::wanted(target)));
            }
        }
        drop(targets);
        stale.sort_by_key(|(order, ..)| *order);
        stale.truncate(limit);
        let done = stale.into_iter().map(|(_, id, wanted)| {
            let update = view::update(&id, &wanted);
            self.shown.insert(id, wanted);
            update
        });
        done.collect()
    }

    /// The cpuset of a container that has none of its own.
    fn everything(&self) -> Cpuset {
        let inventory = self.wiring.inventory.borrow();
        let pus = inventory.cpu.iter().flat_map(|cpu| &cpu.pus);
        let nodes = inventory.numa.iter().flatten();
        let with_memory = nodes.filter(|node| node.memory.is_some_and(|bytes| bytes > 0));
        (pus.map(|pu| pu.id).collect(), with_memory.map(|node| node.id).collect())
    }

    /// The full names of devices that were chosen.
    fn cdi(&self, devices: &[String]) -> Vec<nri::CdiDevice> {
        if devices.is_empty() {
            return Vec::new();
        }
        let specs = cdi::specs(&self.wiring.inventory.borrow());
        let full = |name: &String| {
            let spec = specs.iter().find(|spec| spec.devices.iter().any(|it| it.name == *name))?;
            Some(nri::CdiDevice { name: format!("{}={name}", spec.kind) })
        };
        devices.iter().filter_map(full).collect()
    }

    /// Calls the runtime; the answer comes in the stream that is returned.
    async fn call(&mut self, method: &str, request: &impl prost::Message) -> Result<u32, String> {
        let call = nri::Call {
            service: RUNTIME_SERVICE.into(),
            method: method.into(),
            payload: request.encode_to_vec().into(),
            timeout_nano: 0,
        };
        self.stream = if self.stream == 0 { 1 } else { self.stream.wrapping_add(2) };
        self.send(Connection::Runtime, self.stream, Kind::Request, &call).await?;
        Ok(self.stream)
    }

    async fn send(
        &mut self,
        connection: Connection,
        stream: u32,
        kind: Kind,
        message: &impl prost::Message,
    ) -> Result<(), String> {
        let payload = message.encode_to_vec().into();
        let message = Message { connection, stream, kind, payload };
        let bytes = encode(&message).map_err(|error| error.to_string())?;
        match time::timeout(WRITE, self.trunk.write_all(&bytes)).await {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the runtime has read nothing for {WRITE:?}")),
        }
    }
}

/// Every set that is empty means the whole.
fn filled<'a>(cpuset: &'a Cpuset, everything: &'a Cpuset) -> (&'a IdSet, &'a IdSet) {
    let or = |set: &'a IdSet, all: &'a IdSet| if set.is_empty() { all } else { set };
    (or(&cpuset.0, &everything.0), or(&cpuset.1, &everything.1))
}

/// What the placement's owner answers in time.
async fn decided<T>(asked: impl Future<Output = Option<T>>) -> Result<T, String> {
    match time::timeout(DECIDE, asked).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err("the placement's task is being restarted".into()),
        Err(_) => Err(format!("the placement's task did not answer within {DECIDE:?}")),
    }
}

fn decode<T: prost::Message + Default>(payload: &[u8]) -> Result<T, String> {
    T::decode(payload).map_err(unreadable)
}

fn unreadable(error: prost::DecodeError) -> String {
    format!("what the runtime says can't be read: {error}")
}

#[cfg(test)]
mod tests;
