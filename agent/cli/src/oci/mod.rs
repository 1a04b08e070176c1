//! `purlin oci-runtime`: stands in for `runc` or `crun`, and puts into a new container's
//! specification the CPUs and memory nodes that the agent gives it.
//!
//! It runs for everything that is done to a container, so it does as little as it can: it
//! looks at its arguments, for `create` and `run` asks the agent, and becomes the real
//! runtime (`execve`), whose exit code and signals are then its own. Nothing but the cpuset
//! in `config.json` is changed.
//!
//! Without the agent the last plan on disk holds: a container that is in it has its CPUs,
//! any other those that nobody has for itself alone.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Write},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, SystemTime},
};

use purlin_core::{
    idset::IdSet,
    place::{book::Grant, container::Container, targets::Target},
};
use purlin_daemon::LastPlan;

use crate::{
    args::Global,
    client::{Body, Client},
    exit::{Exit, Failure},
};

mod arguments;
mod specification;

use arguments::{Call, Create};

/// How long the agent may take. It answers in a millisecond; a container manager waits for
/// minutes, so that this is for an agent that hangs.
const DEADLINE: Duration = Duration::from_secs(3);
/// The largest specification, in bytes: one with a thousand mounts is 200 kB.
const MAX_SPECIFICATION: u64 = 4 << 20;
/// What the real runtime is called, unless someone says.
const RUNTIMES: [&str; 2] = ["runc", "crun"];
/// CPUs that are online, for a plan without an agent.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// True if this process was started by the name of a runtime.
pub fn is_meant(words: &[OsString]) -> bool {
    is_runtime(words.first()).is_some()
}

/// The runtime that a path is named after.
fn is_runtime(path: Option<&OsString>) -> Option<&OsStr> {
    let name = Path::new(path?).file_name()?;
    RUNTIMES.iter().any(|it| name == *it).then_some(name)
}

/// Does what a runtime was called for, by the real one of that name.
pub fn main(mut words: Vec<OsString>) -> ExitCode {
    let name = words.remove(0);
    run(&Call::parse(words), None, is_runtime(Some(&name)))
}

/// The same by another, or by the first there is.
pub fn main_with(runtime: Option<PathBuf>, words: Vec<OsString>) -> ExitCode {
    run(&Call::parse(words), runtime.as_deref(), None)
}

/// Returns only if it could not become the real runtime.
fn run(call: &Call, runtime: Option<&Path>, name: Option<&OsStr>) -> ExitCode {
    let placed = call.create.as_ref().map_or(Ok(()), place);
    let failed = match placed {
        Ok(()) => become_runtime(call, runtime, name),
        Err(why) => why,
    };
    call.tell(&failed);
    Exit::Failed.into()
}

/// Asks where the container goes and writes that into its specification.
fn place(create: &Create) -> Result<(), String> {
    let path = &create.config;
    let text = read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let container = specification::container(&create.id, &text);
    let container = container.map_err(|why| format!("{}: {why}", path.display()))?;
    let Some(target) = target(container)? else { return Ok(()) };
    let text = specification::with_cpuset(&text, &target.cpus, &target.mems);
    let text = text.map_err(|why| format!("{}: {why}", path.display()))?;
    replace(path, &text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Its cpuset, by the agent or by the last plan; `None` if it stays as it is.
fn target(container: Container) -> Result<Option<Target>, String> {
    // A file that is wrong is no reason to stop a node's containers.
    let client = Client::find(&Global::default()).map_err(|failure| failure.to_string());
    let boot = client.as_ref().ok().and_then(Client::boot);
    let silent = match client.as_ref().map_err(Clone::clone).and_then(|it| ask(it, &container)) {
        Ok(Ok(grant)) => return Ok(grant.target),
        Ok(Err(refusal)) => return Err(format!("purlin can't place it: {refusal}")),
        Err(silent) => silent,
    };
    if boot.is_some_and(|boot| boot.oci_fail_closed) {
        return Err(format!(
            "purlin can't be asked where it goes ({silent}), and oci_runtime.fail_closed says \
             that nothing is created then: start the agent"
        ));
    }
    let plan = boot.and_then(|boot| LastPlan::read(&boot.state_dir));
    let online = fs::read_to_string(ONLINE).ok().and_then(|list| IdSet::parse(&list).ok());
    let (Some(plan), Some(online)) = (plan, online) else { return Ok(None) };
    // Somebody else decided.
    if container.resources.cpus.is_some() {
        return Ok(None);
    }
    let cpus = plan.cpus(&container.id, &online);
    Ok((!cpus.is_empty()).then(|| Target { cpus, ..Target::default() }))
}

/// The agent's answer or its refusal; the error is why there is none.
fn ask(client: &Client, container: &Container) -> Result<Result<Grant, String>, String> {
    let bytes = serde_json::to_vec(container).map_err(|error| error.to_string())?;
    let body = Body { content_type: Some("application/json"), bytes };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    match runtime.block_on(client.post("/v1/placement/containers", body, DEADLINE)) {
        Ok(grant) => Ok(Ok(grant)),
        Err(Failure::Refused(refusal)) => Ok(Err(refusal.error)),
        Err(failure) => Err(failure.to_string()),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let length = fs::metadata(path)?.len();
    if length > MAX_SPECIFICATION {
        let what = format!("{length} bytes, over the limit of {MAX_SPECIFICATION}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    fs::read(path)
}

/// Whoever reads it sees the old one or the new one, whole, with the same owner and mode.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let new = path.with_extension("json.purlin");
    let mut file = File::create(&new)?;
    file.set_permissions(old.permissions())?;
    // One who may not give files away has the same owner anyway.
    _ = std::os::unix::fs::chown(&new, Some(old.uid()), Some(old.gid()));
    file.write_all(text)?;
    fs::rename(&new, path)
}

/// Becomes the real runtime; what went wrong if it could not.
fn become_runtime(call: &Call, runtime: Option<&Path>, name: Option<&OsStr>) -> String {
    let found = runtime.map(Path::to_owned).or_else(|| find(name));
    let Some(runtime) = found else {
        let names = name.map_or(RUNTIMES.join(" and no "), |name| name.display().to_string());
        return format!("no {names} on the PATH but this one: name it with --runtime PATH");
    };
    let error = Command::new(&runtime).args(&call.words).exec();
    format!("{}: {error}", runtime.display())
}

/// A runtime on the PATH that is not this executable by another name.
fn find(name: Option<&OsStr>) -> Option<PathBuf> {
    let names = name.map_or(RUNTIMES.map(OsStr::new).to_vec(), |name| vec![name]);
    let ours = fs::metadata("/proc/self/exe").map(|it| (it.dev(), it.ino())).ok();
    // A shim may have no PATH at all.
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let dirs: Vec<PathBuf> = env::split_paths(&path).chain(usual).collect();
    names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).find(|path| {
        let is = fs::metadata(path).ok().filter(|it| it.is_file() && it.mode() & 0o111 != 0);
        is.is_some_and(|it| Some((it.dev(), it.ino())) != ours)
    })
}

impl Call {
    /// Says it where the container manager looks: on standard error, and in the runtime's
    /// log if it was told of one, in the form it was told.
    fn tell(&self, what: &str) {
        // Whoever called may be gone.
        _ = writeln!(io::stderr(), "purlin oci-runtime: {what}");
        let Some(log) = &self.log else { return };
        let line = match self.log_is_json {
            true => {
                let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
                serde_json::json!({"level": "error", "msg": what, "time": time}).to_string()
            }
            false => format!("level=error msg={what:?}"),
        };
        if let Ok(mut file) = File::options().create(true).append(true).open(log) {
            _ = writeln!(file, "{line}");
        }
    }
}
