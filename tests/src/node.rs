//! A node on this machine: its directories, and its agent while one runs.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use purlin_proto::api;
use serde::de::DeserializeOwned;

use crate::{Lab, Result, ensure, process::Process, wait};

/// How long an agent may take to answer, built without optimization on a busy machine.
const START: Duration = Duration::from_secs(20);
/// The promise: Ctrl-C ends the agent within five seconds.
const STOP: Duration = Duration::from_secs(5);
/// Seconds that any other command may take.
const COMMAND_S: &str = "30";

/// A node.
#[derive(Debug)]
pub struct Node {
    dir: PathBuf,
    log: PathBuf,
    /// Words that come before the binary, such as an emulator.
    runner: Vec<OsString>,
    binary: PathBuf,
    environment: BTreeMap<String, OsString>,
    standalone: bool,
    agent: Option<Process>,
}

impl Node {
    /// A node configured as a service is: by a file (an empty one) and the
    /// environment. Without an endpoint it only spools.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let mut node = Self::standalone(lab, name)?;
        node.standalone = false;
        fs::write(node.config_file(), "")?;
        node.set("PURLIN_STATE_DIR", node.state_dir());
        node.set("PURLIN_SOCKET", node.dir.join("agent.sock"));
        node.set("PURLIN_NODE", name);
        node.set("PURLIN_FLEET", "lab");
        Ok(node)
    }

    /// A node as a newcomer starts it: no configuration at all, a home of its own.
    pub fn standalone(lab: &Lab, name: &str) -> Result<Self> {
        let dir = lab.dir().join(name);
        let mut node = Self {
            log: lab.dir().join(format!("{name}.log")),
            runner: Vec::new(),
            binary: binary()?,
            environment: BTreeMap::new(),
            standalone: true,
            agent: None,
            dir,
        };
        for (variable, folder) in
            [("HOME", "home"), ("XDG_STATE_HOME", "home/state"), ("XDG_RUNTIME_DIR", "home/run")]
        {
            let folder = node.dir.join(folder);
            fs::create_dir_all(&folder)?;
            node.set(variable, folder);
        }
        // Agents of other tests have containers of their own on this machine.
        node.set("PURLIN_TEST__CGROUP", node.cgroup());
        node.set("PATH", env::var_os("PATH").unwrap_or_default());
        node.set("RUST_BACKTRACE", "1");
        Ok(node)
    }

    /// Runs another binary than the one just built, with `runner` before it.
    pub fn run_with(&mut self, runner: &[&str], binary: &Path) {
        self.runner = runner.iter().map(OsString::from).collect();
        self.binary = binary.to_owned();
    }

    /// The binary it runs.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Sets an environment variable for whatever is started from now on.
    pub fn set(&mut self, variable: &str, value: impl AsRef<OsStr>) {
        self.environment.insert(variable.to_owned(), value.as_ref().to_owned());
    }

    /// Takes one back.
    pub fn unset(&mut self, variable: &str) {
        self.environment.remove(variable);
    }

    /// The environment of all that is started.
    pub fn environment(&self) -> &BTreeMap<String, OsString> {
        &self.environment
    }

    /// The cgroup outside which its agent sees and changes no container.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.dir.parent().and_then(Path::file_name).unwrap_or_default().display())
    }

    /// What the local API answers to `GET`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let body = self.ask("GET", path)?;
        serde_json::from_str(&body).map_err(|e| format!("{path}: {e} in {body}").into())
    }

    /// The same for `DELETE`.
    pub fn delete(&self, path: &str) -> Result {
        self.ask("DELETE", path).map(drop)
    }

    fn ask(&self, method: &str, path: &str) -> Result<String> {
        let mut socket = UnixStream::connect(self.dir.join("agent.sock"))?;
        socket.set_read_timeout(Some(START))?;
        write!(socket, "{method} {path} HTTP/1.1\r\nHost: purlin\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no whole answer")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        Ok(body.to_owned())
    }

    /// The directory that holds everything of this node.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the agent keeps its state.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("purlin.toml")
    }

    /// What the agent wrote so far.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// Starts the agent without waiting for it.
    pub fn launch(&mut self) -> Result {
        ensure!(self.agent.is_none(), "the agent runs already");
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.command(&[]);
        command.args(self.agent_arguments());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.agent = Some(Process::start(&mut command)?);
        Ok(())
    }

    fn agent_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![OsString::from("agent")];
        if !self.standalone {
            arguments.extend(["--config".into(), self.config_file().into()]);
        }
        arguments
    }

    /// Starts the agent and waits until it answers; how long that took.
    pub fn start(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.launch()?;
        wait::until("the agent answers", START, || self.status().map(drop).map_err(message))?;
        Ok(began.elapsed())
    }

    /// Fails if the agent that was started is gone by itself.
    fn still_runs(&self) -> Result {
        match self.agent.as_ref().map(Process::ended).transpose()?.flatten() {
            Some(status) => Err(format!("the agent ended by itself: {status}").into()),
            None => Ok(()),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result {
        self.still_runs()?;
        self.agent.take().ok_or("no agent to kill")?.kill()
    }

    /// Ctrl-C. Fails unless the agent ends well within five seconds.
    pub fn stop(&mut self) -> Result<Duration> {
        self.stop_by(Signal::SIGINT)
    }

    /// The same by another signal.
    pub fn stop_by(&mut self, signal: Signal) -> Result<Duration> {
        self.still_runs()?;
        let agent = self.agent.take().ok_or("no agent to stop")?;
        agent.signal(signal)?;
        let (status, took) = agent.wait(STOP)?;
        ensure!(status.success(), "after {signal} the agent ended with {status}");
        Ok(took)
    }

    /// Pid of the agent (of its emulator, if there is one).
    pub fn pid(&self) -> Result<u32> {
        let agent = self.agent.as_ref().ok_or("no agent runs")?;
        Ok(agent.pid().as_raw().cast_unsigned())
    }

    /// The binary with this node's environment and no other.
    pub fn command(&self, before: &[&str]) -> Command {
        let mut words = before.iter().map(OsString::from).chain(self.runner.iter().cloned());
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command.env_clear().envs(&self.environment).current_dir(&self.dir);
        command
    }

    /// Runs a command of the CLI.
    pub fn cli(&self, arguments: &[&str]) -> Result<Answer> {
        self.cli_as(&[], arguments)
    }

    /// The same for a command that waits for others: it may take so many seconds.
    pub fn cli_for(&self, seconds: u32, arguments: &[&str]) -> Result<Answer> {
        self.cli_with(&seconds.to_string(), &[], arguments)
    }

    /// The same with words before the binary, such as another user's.
    pub fn cli_as(&self, before: &[&str], arguments: &[&str]) -> Result<Answer> {
        self.cli_with(COMMAND_S, before, arguments)
    }

    fn cli_with(&self, seconds: &str, before: &[&str], arguments: &[&str]) -> Result<Answer> {
        let mut words = vec!["timeout", "-k", "1", seconds];
        words.extend(before);
        let began = Instant::now();
        let output = self.command(&words).args(arguments).stdin(Stdio::null()).output()?;
        let answer = Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: began.elapsed(),
        };
        ensure!(answer.code != 124, "purlin {arguments:?} took over {seconds} s");
        ensure!(
            !answer.stderr.contains("panicked at"),
            "purlin {arguments:?} panicked: {}",
            answer.stderr
        );
        Ok(answer)
    }

    /// What a command says as JSON, with all well (0) or faults found (2).
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let answer = self.cli(&[arguments, &["-o", "json"]].concat())?;
        // Some commands would answer from the disk without it.
        self.still_runs()?;
        ensure!(matches!(answer.code, 0 | 2), "purlin {arguments:?}: {answer:?}");
        answer.json()
    }

    /// `purlin status`
    pub fn status(&self) -> Result<api::Status> {
        self.json(&["status"])
    }

    /// `purlin queue show`
    pub fn queue(&self) -> Result<api::Queue> {
        self.json(&["queue", "show"])
    }

    /// `purlin link show`
    pub fn link(&self) -> Result<api::Link> {
        self.json(&["link", "show"])
    }

    /// `purlin config show`
    pub fn config(&self) -> Result<api::Config> {
        self.json(&["config", "show"])
    }
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Answer {
    /// Standard output as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.stdout).map_err(|e| format!("{e} in {self:?}").into())
    }
}

/// A setting's value, by its path.
pub fn setting<'a>(config: &'a api::Config, path: &str) -> Result<&'a api::Setting> {
    let found = config.settings.iter().find(|setting| setting.path == path);
    found.ok_or_else(|| format!("no setting {path} in {:?}", config.settings).into())
}

/// One class's log.
pub fn class<'a>(queue: &'a api::Queue, name: &str) -> Result<&'a api::QueueClass> {
    let found = queue.classes.iter().find(|class| class.class == name);
    found.ok_or_else(|| format!("no class {name} in {queue:?}").into())
}

/// The binary under test: `PURLIN_BIN`, or what cargo put beside this test.
pub fn binary() -> std::result::Result<PathBuf, String> {
    let path = match env::var_os("PURLIN_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let test = env::current_exe().map_err(|e| e.to_string())?;
            test.ancestors().nth(2).map(|dir| dir.join("purlin")).unwrap_or_default()
        }
    };
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("no binary at {}: start it with ./tests/run", path.display())),
    }
}

fn message(failed: libtest_mimic::Failed) -> String {
    failed.message().unwrap_or("failed").to_owned()
}
