//! A session against a runtime that does as the tests say; placement's owner is the real
//! one, on a machine of four CPUs of which the first is reserved.

use purlin_core::{
    identity::Incarnation,
    inventory::{Cpu, NumaNode, Pu},
    place::book::Book,
    settings::{Settings, Start},
};
use tokio::{
    io::DuplexStream,
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
};

use super::*;
use crate::placement::{Ask, Client, Owner, Sources, Store};
use crate::{clock::Clock, helper, kubelet, spool::Spool, tasks::Board};

/// Larger than anything these tests say.
const PIPE: usize = 1 << 20;
const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";

/// The runtime's end.
struct Runtime {
    trunk: DuplexStream,
    decoder: Decoder,
    messages: Vec<Message>,
    stream: u32,
    status: watch::Receiver<api::Nri>,
    session: JoinHandle<String>,
    owner: Option<AbortHandle>,
    _dir: tempfile::TempDir,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.session.abort();
        self.owner.iter().for_each(AbortHandle::abort);
    }
}

fn inventory() -> Inventory {
    let pu = |id: u32| Pu { id, logical: id, node: Some(0) };
    let cpus = (0..4).collect();
    let node = NumaNode { cpus: Some(cpus), memory: Some(1 << 30), ..NumaNode::default() };
    Inventory {
        cpu: Some(Cpu { pus: (0..4).map(pu).collect(), ..Cpu::default() }),
        numa: Some(vec![node]),
        ..Inventory::default()
    }
}

impl Runtime {
    /// A session that has just begun, whose owner answers or doesn't.
    fn begin(owner_answers: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (_, inventory) = watch::channel(Arc::new(inventory()));
        let (_, settings) = watch::channel(Arc::new(Settings::resolve(&Start::default(), None)));
        let (asks, inbox) = mpsc::channel::<Ask>(4);
        let (store, saved, _) = Store::open(dir.path());
        let planned = watch::channel(None).0;
        let (kubelets, kubelet, _) = kubelet::new(helper::writer().0);
        let inventory_now = inventory.clone();
        let room = watch::channel(None).0;
        let spool =
            Spool::open(&dir.path().join("spool"), Incarnation(1), Clock::new(1), Board::default())
                .expect("a spool");
        let sources = Sources {
            inventory: inventory_now,
            settings,
            kubelet,
            planned,
            room,
            served: watch::channel(None).0,
            spool: spool.clone(),
        };
        let (mut owner, targets) = Owner::new(sources, inbox, (store, Book::restore(saved)));
        let owner = owner_answers.then(|| tokio::spawn(async move { owner.run().await }));
        let (status_now, status) = watch::channel(api::Nri::default());
        let mut wiring = Wiring {
            placement: Client(asks),
            kubelet: kubelets,
            targets,
            inventory,
            status: status_now,
            spool: spool.clone(),
        };
        let (trunk, ours) = tokio::io::duplex(PIPE);
        let session = tokio::spawn(async move { Session::over(ours, &mut wiring).run().await });
        Self {
            trunk,
            decoder: Decoder::default(),
            messages: Vec::new(),
            stream: 1,
            status,
            session,
            owner: owner.map(|owner| owner.abort_handle()),
            _dir: dir,
        }
    }

    /// One that has told of these containers.
    async fn told(containers: Vec<nri::Container>) -> (Self, nri::SynchronizeResponse) {
        let mut runtime = Self::begin(true);
        let (stream, _) = runtime.called("RegisterPlugin").await;
        let configure = nri::ConfigureRequest {
            runtime_name: "containerd".into(),
            runtime_version: "2.1.9".into(),
            ..Default::default()
        };
        runtime.call::<nri::ConfigureResponse>("Configure", &configure).await.expect("taken");
        // As may be: the answer to what came first comes last.
        runtime.reply(stream, &[]).await;
        let request = nri::SynchronizeRequest { containers, ..Default::default() };
        let answer = runtime.call("Synchronize", &request).await.expect("taken");
        (runtime, answer)
    }

    async fn next(&mut self) -> Message {
        let mut buffer = vec![0; READ];
        while self.messages.is_empty() {
            let length = self.trunk.read(&mut buffer).await.expect("a read");
            assert!(length > 0, "the session ended");
            self.decoder.push(&buffer[..length], &mut self.messages).expect("well framed");
        }
        self.messages.remove(0)
    }

    async fn send(&mut self, connection: Connection, stream: u32, kind: Kind, payload: Vec<u8>) {
        let message = Message { connection, stream, kind, payload: payload.into() };
        self.trunk.write_all(&encode(&message).expect("short")).await.expect("a write");
    }

    /// The plugin's next call.
    async fn called(&mut self, method: &str) -> (u32, Vec<u8>) {
        let message = self.next().await;
        assert_eq!((message.connection, message.kind), (Connection::Runtime, Kind::Request));
        let call = nri::Call::decode(message.payload).expect("a call");
        assert_eq!((&*call.service, &*call.method), (RUNTIME_SERVICE, method));
        (message.stream, call.payload.into())
    }

    async fn reply(&mut self, stream: u32, payload: &[u8]) {
        let reply = nri::Reply { status: None, payload: payload.to_vec().into() };
        let reply = reply.encode_to_vec();
        self.send(Connection::Runtime, stream, Kind::Response, reply).await;
    }

    async fn say(&mut self, method: &str, request: &impl prost::Message) -> u32 {
        let call = nri::Call {
            service: PLUGIN.into(),
            method: method.into(),
            payload: request.encode_to_vec().into(),
            timeout_nano: 2_000_000_000,
        };
        self.stream += 2;
        let call = call.encode_to_vec();
        self.send(Connection::Plugin, self.stream, Kind::Request, call).await;
        self.stream
    }

    /// Calls the plugin.
    async fn call<A: prost::Message + Default>(
        &mut self,
        method: &str,
        request: &impl prost::Message,
    ) -> Result<A, nri::Status> {
        let stream = self.say(method, request).await;
        let message = self.next().await;
        let is = (message.connection, message.kind, message.stream);
        assert_eq!(is, (Connection::Plugin, Kind::Response, stream));
        let reply = nri::Reply::decode(message.payload).expect("a reply");
        match reply.status {
            None => Ok(A::decode(reply.payload).expect("an answer")),
            Some(status) => Err(status),
        }
    }

    async fn create(&mut self, id: &str, cpus: u64) -> Result<String, nri::Status> {
        let request = nri::ContainerRequest {
            container: Some(container(id, cpus, "")),
            ..Default::default()
        };
        let answer: nri::CreateContainerResponse = self.call("CreateContainer", &request).await?;
        let resources = answer.adjust.and_then(|it| it.linux).and_then(|it| it.resources);
        let own = resources.and_then(|it| it.cpu).map(|cpu| cpu.cpus).unwrap_or_default();
        Ok(format!("{own}; {}", updated(&answer.update)))
    }

    /// Why the session ended.
    async fn ended(mut self) -> String {
        (&mut self.session).await.expect("no panic")
    }
}

/// A container of a Guaranteed pod, on these CPUs.
fn container(id: &str, cpus: u64, on: &str) -> nri::Container {
    let cpu = nri::LinuxCpu {
        shares: Some(nri::OptionalUint64 { value: 1024 * cpus }),
        cpus: on.into(),
        ..Default::default()
    };
    let resources = nri::LinuxResources { cpu: Some(cpu), ..Default::default() };
    let kind = if cpus == 0 { "besteffort/" } else { "" };
    nri::Container {
        id: id.into(),
        name: id.into(),
        state: nri::ContainerState::ContainerRunning.into(),
        linux: Some(nri::LinuxContainer {
            resources: Some(resources),
            cgroups_path: format!("/kubepods/{kind}pod/{id}"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `a=0-1 b=2`, in their order.
fn updated(update: &[nri::ContainerUpdate]) -> String {
    let one = |update: &nri::ContainerUpdate| {
        assert!(update.ignore_failure, "one that is gone must not fail a creation");
        let resources = update.linux.as_ref().and_then(|it| it.resources.as_ref());
        let cpu = resources.and_then(|it| it.cpu.as_ref()).expect("a cpuset");
        format!("{}={}", update.container_id, cpu.cpus)
    };
    update.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[tokio::test(start_paused = true)]
async fn what_was_created_without_us_is_repaired_those_first_that_give_up() {
    let there = vec![container("a", 2, ""), container("web", 0, ""), container("b", 1, "3")];
    let (runtime, answer) = Runtime::told(there).await;
    assert_eq!(updated(&answer.update), "web=0 a=1-2");
    let status = runtime.status.borrow().clone();
    assert_eq!((status.state, status.repaired), (api::NriState::Up, 2));
    assert_eq!(status.runtime.as_deref(), Some("containerd 2.1.9"));
}

#[tokio::test(start_paused = true)]
async fn a_new_one_gets_what_the_others_give_up_and_gives_it_back() {
    let (mut runtime, _) = Runtime::told(vec![container("web", 0, "")]).await;
    assert_eq!(runtime.create("log", 0).await.expect("placed"), "; ");
    assert_eq!(runtime.create("db", 2).await.expect("placed"), "2-3; log=0-1 web=0-1");
    let refused = runtime.create("big", 2).await.expect_err("one is left");
    assert_eq!(refused.code, FAILED_PRECONDITION);
    assert!(refused.message.starts_with("purlin can't place big: "), "{}", refused.message);
    // Since 0.13 each event has a method of its own.
    let gone =
        nri::ContainerRequest { container: Some(container("db", 2, "2-3")), ..Default::default() };
    runtime.call::<nri::StopContainerResponse>("RemoveContainer", &gone).await.expect("taken");
    let (stream, request) = runtime.called("UpdateContainers").await;
    let request = nri::UpdateContainersRequest::decode(&request[..]).expect("a request");
    assert_eq!(updated(&request.update), "log=0-3 web=0-3");
    // One that can't be changed is not asked for again.
    let failed = nri::UpdateContainersResponse { failed: request.update[..1].to_vec() };
    runtime.reply(stream, &failed.encode_to_vec()).await;
    assert_eq!(runtime.create("db", 1).await.expect("placed"), "3; log=0-2 web=0-2");
}

#[tokio::test(start_paused = true)]
async fn what_became_of_a_container_otherwise_is_repaired() {
    let (mut runtime, _) = Runtime::told(Vec::new()).await;
    runtime.create("db", 2).await.expect("placed");
    let event = nri::StateChangeEvent {
        event: nri::Event::PostCreateContainer.into(),
        container: Some(container("db", 2, "0-1")),
        pod: None,
    };
    runtime.call::<nri::StopContainerResponse>("StateChange", &event).await.expect("taken");
    let (_, request) = runtime.called("UpdateContainers").await;
    let request = nri::UpdateContainersRequest::decode(&request[..]).expect("a request");
    assert_eq!(updated(&request.update), "db=2-3");
}

#[tokio::test(start_paused = true)]
async fn a_resize_keeps_the_cpuset_and_one_that_does_not_fit_is_refused() {
    let (mut runtime, _) = Runtime::told(Vec::new()).await;
    runtime.create("db", 1).await.expect("placed");
    let mut request =
        nri::ContainerRequest { container: Some(container("db", 1, "3")), ..Default::default() };
    let answer: nri::UpdateContainerResponse =
        runtime.call("UpdateContainer", &request).await.expect("placed");
    assert_eq!(updated(&answer.update), "db=3");
    request.linux_resources = container("db", 9, "").linux.and_then(|linux| linux.resources);
    let refused = runtime.call::<nri::UpdateContainerResponse>("UpdateContainer", &request).await;
    assert!(refused.expect_err("3 are not reserved").message.contains("of 9 exclusive"));
}

#[tokio::test(start_paused = true)]
async fn parts_are_put_together() {
    let mut runtime = Runtime::begin(true);
    let (stream, _) = runtime.called("RegisterPlugin").await;
    runtime.reply(stream, &[]).await;
    let configure = nri::ConfigureRequest::default();
    runtime.call::<nri::ConfigureResponse>("Configure", &configure).await.expect("taken");
    for (id, more) in [("a", true), ("b", true), ("c", false)] {
        let containers = vec![container(id, 1, "")];
        let request = nri::SynchronizeRequest { containers, more, ..Default::default() };
        let answer: nri::SynchronizeResponse =
            runtime.call("Synchronize", &request).await.expect("taken");
        assert_eq!((answer.more, answer.update.len()), (more, if more { 0 } else { 3 }));
    }
}

#[tokio::test(start_paused = true)]
async fn what_we_do_not_know_is_said_so() {
    let (mut runtime, _) = Runtime::told(Vec::new()).await;
    let answer = runtime.call::<nri::Reply>("EvictContainer", &nri::PodRequest::default()).await;
    assert_eq!(answer.expect_err("no such thing").code, UNIMPLEMENTED);
}

#[tokio::test(start_paused = true)]
async fn one_that_slipped_by_begins_a_new_session() {
    let (mut runtime, _) = Runtime::told(Vec::new()).await;
    let container = Some(container("seen-late", 1, ""));
    let request = nri::ContainerRequest { container, ..Default::default() };
    runtime.say("PostStartContainer", &request).await;
    assert_eq!(runtime.ended().await, "container seen-late came to be unseen");
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_goes_no_further_is_left() {
    let mut runtime = Runtime::begin(true);
    runtime.called("RegisterPlugin").await;
    assert_eq!(runtime.ended().await, "the runtime did not configure us within 60s");
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_does_not_answer_holds_up_nobody() {
    let mut runtime = Runtime::begin(false);
    runtime.called("RegisterPlugin").await;
    let configure = nri::ConfigureRequest::default();
    runtime.call::<nri::ConfigureResponse>("Configure", &configure).await.expect("taken");
    let began = Instant::now();
    runtime.say("Synchronize", &nri::SynchronizeRequest::default()).await;
    let why = runtime.ended().await;
    assert_eq!(why, "the placement's task is being restarted");
    assert!(began.elapsed() < Duration::from_secs(2), "the runtime waits no longer");
}
