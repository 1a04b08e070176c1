//! The agent's end: starts helpers, waits with a deadline, abandons the stuck.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc as blocking,
    thread,
};

use purlin_core::{
    inventory::{Inventory, Part},
    metric::Sampler,
};
use purlin_drivers::Archive;
use purlin_proto::api;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
    time,
};

use super::{ANSWER_DEADLINE, Answer, COMMAND, Request, What, checked_length, encode, server};

/// Where systemd listens for the agent, to start a helper that may write.
const WRITER_SOCKET: &str = "/run/purlin-helper.sock";
/// Devices that may be stuck while they are asked about their health before no
/// other is asked: each costs a process and a deadline, and more than that hang
/// together, on what they share.
const MAX_STUCK_DEVICES: usize = 8;
/// Requests that may wait for the one under way.
const INBOX: usize = 32;

/// A way to ask; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    asks: mpsc::Sender<(What, oneshot::Sender<Answer>)>,
    state: watch::Receiver<api::Helper>,
}

impl Client {
    /// Asks, and waits for the answer or for the reason why there is none.
    pub async fn ask(&self, what: What) -> Answer {
        let (reply, answer) = oneshot::channel();
        if self.asks.send((what.clone(), reply)).await.is_err() {
            return Answer::nothing(&what, "the agent is stopping");
        }
        answer.await.unwrap_or_else(|_| Answer::nothing(&what, "the helper's task was restarted"))
    }

    /// Reads every part into `inventory`; what can't be read stays as it was.
    pub async fn read_inventory(&self, inventory: &mut Inventory) {
        for part in Part::ALL {
            self.read(part, inventory, true).await;
        }
    }

    /// Reads one part into `inventory`; false if it can't be read and stays as it
    /// was. The list of disks waits for none of them; each is asked for itself
    /// about its health, all of them `again` or only those that are new.
    pub async fn read(&self, part: Part, inventory: &mut Inventory, again: bool) -> bool {
        let answer = self.ask(What::Part(part)).await;
        let is_read = answer.data.is_some();
        let mut all = Vec::new();
        for device in put(inventory, part, answer, again) {
            all.push(self.ask(What::Smart(device.clone())).await.of_device(device));
        }
        inventory.put_health(all);
        is_read
    }

    /// How the helpers are.
    pub fn state(&self) -> api::Helper {
        self.state.borrow().clone()
    }
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

/// A client, and the owner of the helpers that its task runs. `root` is what
/// they read: the machine, or a dump.
pub fn client(root: PathBuf) -> (Client, Helpers) {
    lane(root, None)
}

/// The same for what changes something: by a helper that systemd starts, which has
/// the privilege for it, or where there is none by a child.
pub fn writer() -> (Client, Helpers) {
    lane("/".into(), Some(WRITER_SOCKET.into()))
}

fn lane(root: PathBuf, socket: Option<PathBuf>) -> (Client, Helpers) {
    let (asks, inbox) = mpsc::channel(INBOX);
    let (publish, state) = watch::channel(api::Helper::default());
    let helpers = Helpers { root, socket, inbox, publish, running: None, stuck: Vec::new() };
    (Client { asks, state }, helpers)
}

/// Reads the whole machine through a helper of its own, each part under a
/// deadline, or the dump at `root`; for commands that work without the agent.
pub async fn inventory(root: Option<&Path>) -> Inventory {
    let root = root.unwrap_or(Path::new("/"));
    // A helper works in /, wherever the command was typed.
    let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    if root != Path::new("/") {
        return inventory_of_dump(root).await;
    }
    let (client, mut helpers) = client(root.clone());
    let mut inventory = Inventory::default();
    match helpers.start().await {
        Ok(helper) => helpers.running = Some(helper),
        Err(_) => return inventory_in_threads(&root),
    }
    tokio::select! {
        () = client.read_inventory(&mut inventory) => {}
        () = helpers.run() => {}
    }
    inventory
}

/// A dump can't hang in the kernel, and a tar is unpacked once for all parts.
async fn inventory_of_dump(root: PathBuf) -> Inventory {
    let read = tokio::task::spawn_blocking(move || server::dump(&root));
    read.await.unwrap_or_default()
}

/// The same where no process can be started (under an emulator, or a seccomp
/// filter): in threads, which are left behind if they get stuck.
fn inventory_in_threads(root: &Path) -> Inventory {
    let mut inventory = Inventory::default();
    for part in Part::ALL {
        read_part(&mut inventory, part, |what| {
            let root = root.to_owned();
            let read = in_thread(&what, move |what| server::answer(&root, what));
            read.unwrap_or_else(|| no_answer(&what))
        });
    }
    inventory
}

/// Reads one part, and each device's health, by `ask`.
fn read_part(inventory: &mut Inventory, part: Part, mut ask: impl FnMut(What) -> Answer) {
    let answer = ask(What::Part(part));
    let devices = put(inventory, part, answer, true);
    let all = devices.into_iter().map(|it| ask(What::Smart(it.clone())).of_device(it)).collect();
    inventory.put_health(all);
}

/// What `read` brings; `None` if it gets stuck.
fn in_thread<T: Send + 'static>(
    what: &What,
    read: impl FnOnce(&What) -> T + Send + 'static,
) -> Option<T> {
    let (answers, inbox) = blocking::channel();
    let asked = what.clone();
    thread::spawn(move || _ = answers.send(read(&asked)));
    inbox.recv_timeout(ANSWER_DEADLINE).ok()
}

fn no_answer(what: &What) -> Answer {
    Answer::nothing(what, format!("no answer within {ANSWER_DEADLINE:?}"))
}

/// A machine and the files it was read from.
#[derive(Debug, Default)]
pub struct Dump {
    /// What was read.
    pub inventory: Inventory,
    /// Every file that was.
    pub files: Archive,
}

/// Reads this machine and keeps each file that is read; `told` hears which part
/// is next. Each read is in a thread that is left behind if it gets stuck.
pub fn gather(told: impl Fn(Part)) -> Dump {
    let mut dump = Dump::default();
    let Dump { inventory, files } = &mut dump;
    let mut ask = |what| {
        let read = in_thread(&what, server::gather);
        let (answer, read) = read.unwrap_or_else(|| (no_answer(&what), Archive::default()));
        // The limits of an archive are far above what drivers read of a machine.
        _ = files.absorb(&read);
        answer
    };
    for part in Part::ALL {
        told(part);
        read_part(inventory, part, &mut ask);
    }
    for sampler in Sampler::ALL {
        ask(What::Sample(sampler));
    }
    dump
}

/// Owns the helper processes.
#[derive(Debug)]
pub struct Helpers {
    root: PathBuf,
    /// Where a helper is had from, if somebody listens there.
    socket: Option<PathBuf>,
    inbox: mpsc::Receiver<(What, oneshot::Sender<Answer>)>,
    publish: watch::Sender<api::Helper>,
    running: Option<Running>,
    /// Abandoned helpers that the kernel has not let go of, and on what.
    stuck: Vec<(Running, What)>,
}

#[derive(Debug)]
struct Running {
    /// `None` for one that systemd started.
    child: Option<Child>,
    pid: Option<u32>,
    socket: UnixStream,
    requests: u64,
}

impl Helpers {
    /// Serves until nobody is left to ask.
    pub async fn run(&mut self) {
        while let Some((what, reply)) = self.inbox.recv().await {
            let answer = self.ask(what).await;
            _ = reply.send(answer);
        }
    }

    async fn ask(&mut self, what: What) -> Answer {
        tracing::debug!(what = what.describe(), "the helper is asked");
        self.forget_ended();
        if let Some((helper, _)) = self.stuck.iter().find(|(_, stuck_on)| *stuck_on == what) {
            let pid = helper.pid.unwrap_or_default();
            let why = format!("helper {pid} is still stuck in the kernel with it");
            return Answer::nothing(&what, why);
        }
        if matches!(what, What::Smart(_)) && self.stuck_devices() >= MAX_STUCK_DEVICES {
            let why = format!("not asked: {MAX_STUCK_DEVICES} other devices do not answer");
            return Answer::nothing(&what, why);
        }
        // One that died since it was asked last, for whatever reason, costs a retry.
        let mut answer = self.ask_running(&what).await;
        if answer.is_err() {
            answer = self.ask_running(&what).await;
        }
        answer.unwrap_or_else(|error| Answer::nothing(&what, format!("no helper answers: {error}")))
    }

    fn stuck_devices(&self) -> usize {
        self.stuck.iter().filter(|(_, what)| matches!(what, What::Smart(_))).count()
    }

    /// Asks the helper that runs, or a new one. The error is a helper that can't
    /// be started, died, or talks nonsense.
    async fn ask_running(&mut self, what: &What) -> io::Result<Answer> {
        let mut helper = match self.running.take() {
            Some(helper) => helper,
            None => self.start().await?,
        };
        match time::timeout(what.deadline(), helper.ask(&self.root, what)).await {
            Ok(Ok(answer)) => {
                self.running = Some(helper);
                Ok(answer)
            }
            Ok(Err(error)) => {
                // Dropping it kills it.
                self.publish.send_modify(|state| state.pid = None);
                Err(error)
            }
            Err(_) => {
                self.abandon(helper, what.clone());
                let why =
                    format!("no answer within {:?}: its helper was abandoned", what.deadline());
                Ok(Answer::nothing(what, why))
            }
        }
    }

    fn abandon(&mut self, mut helper: Running, what: What) {
        tracing::error!(pid = helper.pid, what = what.describe(), "a helper is stuck: abandoned");
        // It ends as soon as the kernel lets go of it, if ever.
        if let Some(child) = &mut helper.child {
            _ = child.start_kill();
        }
        self.stuck.push((helper, what));
        self.publish.send_modify(|state| {
            state.pid = None;
            state.abandoned += 1;
        });
        self.publish_stuck();
    }

    fn forget_ended(&mut self) {
        let before = self.stuck.len();
        self.stuck.retain_mut(|(helper, _)| helper.is_there());
        if self.stuck.len() != before {
            self.publish_stuck();
        }
    }

    fn publish_stuck(&self) {
        let pids = self.stuck.iter().filter_map(|(helper, _)| helper.pid).collect();
        self.publish.send_modify(|state| state.stuck_pids = pids);
    }

    /// Starts a helper. It inherits its end of the socket pair and nothing else:
    /// a stuck one must hold neither a lock nor a pipe that someone waits for.
    async fn start(&self) -> io::Result<Running> {
        let started = match self.socket.as_deref().filter(|socket| socket.exists()) {
            Some(socket) => connect(socket).await,
            None => spawn(),
        };
        self.publish.send_modify(|state| match &started {
            Ok(helper) => {
                state.pid = helper.pid;
                state.started += 1;
                state.error = None;
            }
            Err(error) => state.error = Some(error.to_string()),
        });
        started
    }
}

fn spawn() -> io::Result<Running> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    let child = Command::new("/proc/self/exe")
        .arg0("purlin")
        .arg(COMMAND)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let socket = UnixStream::from_std(ours)?;
    Ok(Running { pid: child.id(), child: Some(child), socket, requests: 0 })
}

/// A new one for each connection.
async fn connect(socket: &Path) -> io::Result<Running> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "nobody takes the connection");
    let socket =
        time::timeout(ANSWER_DEADLINE, UnixStream::connect(socket)).await.map_err(late)??;
    Ok(Running { child: None, pid: None, socket, requests: 0 })
}

impl Running {
    /// False once it has ended. One that is no child of ours ends when it has
    /// nobody to answer any more; whatever it answers late tells that it was let go.
    fn is_there(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => {
                let late = self.socket.try_read(&mut [0]);
                late.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }

    async fn ask(&mut self, root: &Path, what: &What) -> io::Result<Answer> {
        self.requests += 1;
        let id = self.requests;
        self.socket
            .write_all(&encode(&Request { id, root: root.to_owned(), what: what.clone() })?)
            .await?;
        let mut header = [0; 4];
        self.socket.read_exact(&mut header).await?;
        let mut body = vec![0; checked_length(header)?];
        self.socket.read_exact(&mut body).await?;
        let answer: Answer = serde_json::from_slice(&body)?;
        match answer.id == id {
            true => Ok(answer),
            false => Err(io::Error::other("an answer to another request")),
        }
    }
}
