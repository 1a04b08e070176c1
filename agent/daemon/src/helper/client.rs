//! The agent's end: starts helpers, waits with a deadline, abandons the stuck.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    process::Stdio,
};

use purlin_core::inventory::{Inventory, Part};
use purlin_proto::api;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
    time,
};

use super::{
    ANSWER_DEADLINE, Answer, COMMAND, MAX_STUCK_DEVICES, Request, What, checked_length, encode,
    pass, put, too_many_stuck,
};

/// Where systemd listens for the agent, to start a helper that may write.
pub const WRITER_SOCKET: &str = "/run/purlin-helper.sock";
/// The same, to start one that may set what GPUs may take.
const GPU_SOCKET: &str = "/run/purlin-gpu.sock";
/// The same, to start one that may have a port's driver let it blink.
const NIC_SOCKET: &str = "/run/purlin-nic.sock";
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

/// The same for what NVIDIA's GPUs may take: their library hangs on a broken GPU, and asks
/// for a privilege that nothing else here needs.
pub fn gpu_limiter() -> (Client, Helpers) {
    lane("/".into(), Some(GPU_SOCKET.into()))
}

/// The same for ports that are to be found: it takes as long as they blink.
pub fn blinker() -> (Client, Helpers) {
    lane("/".into(), Some(NIC_SOCKET.into()))
}

fn lane(root: PathBuf, socket: Option<PathBuf>) -> (Client, Helpers) {
    let (asks, inbox) = mpsc::channel(INBOX);
    let (publish, state) = watch::channel(api::Helper::default());
    let helpers = Helpers { root, socket, inbox, publish, running: None, stuck: Vec::new() };
    (Client { asks, state }, helpers)
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
            return Answer::nothing(&what, too_many_stuck());
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
        let (header, connection) = self.header().await?;
        let mut body = vec![0; checked_length(header)?];
        self.socket.read_exact(&mut body).await?;
        let answer = Answer { connection, ..serde_json::from_slice(&body)? };
        match answer.id == id {
            true => Ok(answer),
            false => Err(io::Error::other("an answer to another request")),
        }
    }

    /// The length of an answer, and the connection that comes with its first byte.
    async fn header(&mut self) -> io::Result<([u8; 4], Option<OwnedFd>)> {
        let (mut header, mut filled, mut connection) = ([0; 4], 0, None);
        while filled < header.len() {
            let rest = &mut header[filled..];
            let (read, passed) = self
                .socket
                .async_io(Interest::READABLE, || pass::receive(&self.socket, rest))
                .await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            connection = connection.or(passed);
        }
        Ok((header, connection))
    }
}
