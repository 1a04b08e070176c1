//! How long the runtime waits for us: `CreateContainer` and its answer over the real
//! socket of a real agent, whose machine is a dump of 256 PUs on 8 nodes.
//!
//! `./tests/run bench nri` builds what packages ship and prints the table that
//! docs/benchmarks.md keeps. We are the runtime, with the agent's own codec.

#![forbid(unsafe_code)]

use std::{
    env,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use nix::mount::MsFlags;
use prost::Message as _;
use purlin_daemon::nri::codec::{Connection, Decoder, Kind, Message, encode};
use purlin_proto::nri;
use purlin_tests::{Lab, Node, Result, lab};

/// Containers created and removed for a row.
const ROUNDS: usize = 2000;
/// The dump with the most PUs, 256 on 8 nodes.
const DUMP: &str = "hwloc_256ppc-8n8s4t";
/// What an agent may take to come.
const COMES: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    match lab::in_a_lab(measure) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("nri: {}", failed.message().unwrap_or("failed"));
            ExitCode::FAILURE
        }
    }
}

fn measure(lab: &Lab) -> Result {
    let Some(dump) = unpacked(lab)? else {
        eprintln!("skipped: no corpus of dumps (set PURLIN_CORPUS)");
        return Ok(());
    };
    println!("| what is created | others it changes | p50 | p99 | p99.9 |");
    println!("| --- | --- | --- | --- | --- |");
    for (what, cpus, others) in [
        ("one that asks for nothing", 0, 100),
        ("one with 4 CPUs of its own", 4, 0),
        ("one with 4 CPUs of its own", 4, 100),
        ("one with 4 CPUs of its own", 4, 500),
    ] {
        let took = created(lab, Some(&dump), cpus, others)?;
        row(what, if cpus == 0 { 0 } else { others }, took);
    }
    if !nix::unistd::geteuid().is_root() {
        println!("no row of kubelet: its files are root's, and so is making some");
        return Ok(());
    }
    kubelets_files()?;
    row("the same, where kubelet gives CPUs out", 0, created(lab, None, 0, 0)?);
    Ok(())
}

fn row(what: &str, others: usize, mut took: Vec<Duration>) {
    took.sort();
    let at = |thousandths: usize| took[(took.len() - 1) * thousandths / 1000].as_micros();
    println!("| {what} | {others} | {} µs | {} µs | {} µs |", at(500), at(990), at(999));
}

/// Kubelet's state, which is read before each answer, where this process and its children
/// alone see it.
fn kubelets_files() -> Result {
    let none = None::<&str>;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    nix::mount::mount(Some("tmpfs"), "/var/lib", Some("tmpfs"), MsFlags::empty(), none)?;
    let pods = (0..50).map(|pod| format!(r#""pod-{pod}":{{"main":"1"}}"#)).collect::<Vec<_>>();
    let state = format!(
        r#"{{"policyName":"static","defaultCpuSet":"0","entries":{{{}}},"checksum":1}}"#,
        pods.join(",")
    );
    std::fs::create_dir("/var/lib/kubelet")?;
    Ok(std::fs::write("/var/lib/kubelet/cpu_manager_state", state)?)
}

/// How long each answer took, with so many others there; on this machine or a dump.
fn created(lab: &Lab, root: Option<&Path>, cpus: u32, others: usize) -> Result<Vec<Duration>> {
    let name = format!("node-{cpus}-{others}-{}", root.is_some());
    let socket = lab.dir().join(format!("{name}.nri"));
    let listener = UnixListener::bind(&socket)?;
    let mut node = Node::new(lab, &name)?;
    node.set("PURLIN_NRI__SOCKET", &socket);
    if let Some(root) = root {
        node.set("PURLIN_TEST__ROOT", root);
    }
    node.launch()?;
    let (trunk, _) = listener.accept()?;
    trunk.set_read_timeout(Some(COMES))?;
    let mut runtime = Runtime { trunk, decoder: Decoder::default(), stream: 1, granted: 0 };
    runtime.registered()?;
    runtime.call("Configure", &nri::ConfigureRequest::default())?;
    let containers = (0..others).map(|at| container(&format!("other-{at}"), 0)).collect();
    runtime.call("Synchronize", &nri::SynchronizeRequest { containers, ..Default::default() })?;
    let mut took = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let request = nri::ContainerRequest {
            pod: Some(nri::PodSandbox { uid: format!("pod-{round}"), ..Default::default() }),
            container: Some(container(&format!("new-{round}"), cpus)),
            ..Default::default()
        };
        let began = Instant::now();
        let answer = runtime.call("CreateContainer", &request)?;
        took.push(began.elapsed());
        let answer = nri::CreateContainerResponse::decode(&answer[..])?;
        let changed = if cpus == 0 { 0 } else { others };
        if answer.update.len() != changed {
            return Err(format!("{} others are changed, not {changed}", answer.update.len()).into());
        }
        runtime.call("StopContainer", &request)?;
        // They get their CPUs back.
        runtime.granted_until(round * changed + changed)?;
    }
    Ok(took)
}

/// The runtime's end.
struct Runtime {
    trunk: UnixStream,
    decoder: Decoder,
    stream: u32,
    /// Updates that the agent asked for.
    granted: usize,
}

impl Runtime {
    fn registered(&mut self) -> Result {
        self.read_until(|message| message.kind == Kind::Request).map(drop)
    }

    fn granted_until(&mut self, updates: usize) -> Result {
        while self.granted < updates {
            self.read_until(|message| message.connection == Connection::Runtime)?;
        }
        Ok(())
    }

    /// Calls the agent; what it asks for meanwhile is granted.
    fn call(&mut self, method: &str, request: &impl prost::Message) -> Result<Vec<u8>> {
        let call = nri::Call {
            service: "nri.pkg.api.v1alpha1.Plugin".into(),
            method: method.into(),
            payload: request.encode_to_vec().into(),
            timeout_nano: 0,
        };
        self.stream += 2;
        let stream = self.stream;
        self.send(Connection::Plugin, stream, Kind::Request, call.encode_to_vec())?;
        let answer = self.read_until(|message| {
            message.connection == Connection::Plugin && message.stream == stream
        })?;
        let reply = nri::Reply::decode(answer.payload)?;
        match reply.status {
            None => Ok(reply.payload.into()),
            Some(status) => Err(format!("{method}: {}", status.message).into()),
        }
    }

    fn send(
        &mut self,
        connection: Connection,
        stream: u32,
        kind: Kind,
        payload: Vec<u8>,
    ) -> Result {
        let message = Message { connection, stream, kind, payload: payload.into() };
        Ok(self.trunk.write_all(&encode(&message)?)?)
    }

    fn read_until(&mut self, wanted: impl Fn(&Message) -> bool) -> Result<Message> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (length, mut messages) = (self.trunk.read(&mut buffer)?, Vec::new());
            if length == 0 {
                return Err("the agent has closed the connection".into());
            }
            self.decoder.push(&buffer[..length], &mut messages)?;
            let mut found = None;
            for message in messages {
                if message.connection == Connection::Runtime {
                    let call = nri::Call::decode(&message.payload[..])?;
                    let request = nri::UpdateContainersRequest::decode(&call.payload[..]);
                    self.granted += request.map_or(0, |request| request.update.len());
                    let reply = nri::Reply::default().encode_to_vec();
                    self.send(Connection::Runtime, message.stream, Kind::Response, reply)?;
                }
                found = if wanted(&message) { Some(message) } else { found };
            }
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }
}

/// A container of a pod, with so many whole CPUs or none.
fn container(id: &str, cpus: u32) -> nri::Container {
    let shares = nri::OptionalUint64 { value: 1024 * u64::from(cpus) };
    let cpu = nri::LinuxCpu { shares: Some(shares), ..Default::default() };
    let kind = if cpus == 0 { "besteffort/" } else { "" };
    nri::Container {
        id: id.into(),
        name: id.into(),
        state: nri::ContainerState::ContainerRunning.into(),
        linux: Some(nri::LinuxContainer {
            resources: Some(nri::LinuxResources { cpu: Some(cpu), ..Default::default() }),
            cgroups_path: format!("/kubepods/{kind}pod/{id}"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn unpacked(lab: &Lab) -> Result<Option<PathBuf>> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let corpus = env::var_os("PURLIN_CORPUS").map_or_else(beside, PathBuf::from);
    let archive = corpus.join("dumps").join(format!("{DUMP}.tar.xz"));
    if !archive.is_file() {
        return Ok(None);
    }
    let dir = lab.dir().join("dump");
    std::fs::create_dir(&dir)?;
    let tar = Command::new("tar").arg("xJf").arg(archive).arg("-C").arg(&dir).status()?;
    if !tar.success() {
        return Err("the dump can't be unpacked".into());
    }
    Ok(Some(dir))
}
