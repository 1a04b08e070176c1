//! The harness: a test's name, what it needs, its deadline and its directory.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tempfile::TempDir;

use crate::{Result, node, process};

/// Lines of each log shown when a test fails.
const LOG_TAIL: usize = 30;

/// One test's room on this machine.
#[derive(Debug)]
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    /// Its directory, gone when the test ends. Files in it that end in `.log`
    /// are shown when the test fails.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into the directory.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.dir().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content)?;
        Ok(path)
    }

    fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::Builder::new().prefix("purlin-lab-").tempdir()? })
    }

    fn explain(&self, failed: &Failed) -> Failed {
        format!("{}{}", failed.message().unwrap_or("failed"), self.logs()).into()
    }

    fn logs(&self) -> String {
        let mut files: Vec<_> = fs::read_dir(self.dir())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "log"))
            .collect();
        files.sort();
        files.iter().map(|path| tail(path)).collect()
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
    let name = path.file_name().unwrap_or_default().display();
    format!("\n--- {name}, last {LOG_TAIL} lines\n{shown}")
}

/// What a test can't do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// The binary, built.
    Purlin,
    /// A program on the PATH.
    Program(&'static str),
    /// Being root.
    Root,
    /// Mounting a FUSE file system.
    Fuse,
    /// An installed target of the Rust toolchain.
    RustTarget(&'static str),
    /// A path in this environment variable, set by `./tests/run`.
    Path(&'static str),
    /// Whatever this finds missing.
    Is(fn() -> Option<String>),
}

impl Need {
    /// Why it can't be had here.
    fn missing(self) -> Option<String> {
        match self {
            Need::Purlin => node::binary().err(),
            Need::Program(name) => {
                (!on_path(name)).then(|| format!("no program {name} on the PATH"))
            }
            Need::Root => (!nix::unistd::geteuid().is_root()).then(|| "not root".to_owned()),
            Need::Fuse => Need::Root.missing().or_else(|| {
                let device = fs::File::options().read(true).write(true).open("/dev/fuse");
                device.err().map(|e| format!("/dev/fuse: {e}"))
            }),
            Need::RustTarget(target) => {
                let installed = Command::new("rustup")
                    .args(["target", "list", "--installed"])
                    .output()
                    .map(|o| String::from_utf8_lossy(&o.stdout).lines().any(|l| l == target))
                    .unwrap_or(false);
                (!installed).then(|| format!("no Rust target {target}: rustup target add {target}"))
            }
            Need::Path(variable) => match env::var_os(variable) {
                Some(path) if Path::new(&path).exists() => None,
                Some(path) => Some(format!("{variable}={}: no such file", path.display())),
                None => Some(format!("{variable} is not set: start it with ./tests/run")),
            },
            Need::Is(missing) => missing(),
        }
    }
}

fn on_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// A test, before it is known whether it can run here.
pub struct Test {
    name: &'static str,
    deadline: Duration,
    needs: Vec<Need>,
    body: fn(&Lab) -> Result,
}

/// A test of the running agent that must be over `deadline_s` seconds after it began.
pub fn test(name: &'static str, deadline_s: u64, body: fn(&Lab) -> Result) -> Test {
    Test { name, deadline: Duration::from_secs(deadline_s), needs: vec![Need::Purlin], body }
}

impl Test {
    /// What it needs besides the binary.
    #[must_use]
    pub fn needs(mut self, needs: &[Need]) -> Self {
        self.needs.extend(needs);
        self
    }

    fn trial(self) -> Trial {
        if let Some(reason) = self.needs.iter().find_map(|need| need.missing()) {
            return Trial::ignorable_test(self.name, || Ok(Completion::ignored_with(reason)));
        }
        Trial::test(self.name, move || within(self.deadline, self.body))
    }
}

/// Runs an area's tests as the command line asks.
pub fn run(tests: impl IntoIterator<Item = Test>) -> ExitCode {
    let trials = tests.into_iter().map(Test::trial).collect();
    let mut arguments = Arguments::from_args();
    // They wait more than they work.
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cpus + 1);
    let conclusion = libtest_mimic::run(&arguments, trials);
    process::kill_all();
    conclusion.exit_code()
}

/// Runs `body` with a directory of its own, and shows its logs if it fails.
pub fn in_a_lab(body: fn(&Lab) -> Result) -> Result {
    let lab = Lab::new()?;
    body(&lab).map_err(|e| lab.explain(&e))
}

/// Runs `body` in a thread of its own, which is left behind if it hangs.
fn within(deadline: Duration, body: fn(&Lab) -> Result) -> Result {
    let lab = Arc::new(Lab::new()?);
    let (done, result) = mpsc::channel();
    let theirs = Arc::clone(&lab);
    thread::spawn(move || {
        let result = body(&theirs);
        // First: whoever gets the result may end the process, and the directory stay.
        drop(theirs);
        done.send(result)
    });
    let result = result.recv_timeout(deadline).unwrap_or_else(|e| match e {
        mpsc::RecvTimeoutError::Timeout => Err(format!("not over after {deadline:?}").into()),
        mpsc::RecvTimeoutError::Disconnected => Err("the test panicked".into()),
    });
    result.map_err(|e| lab.explain(&e))
}
