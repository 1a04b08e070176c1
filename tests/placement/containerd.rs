//! A real containerd with NRI, in the lab's directory, out of Debian's newer suites:
//! `tests/placement/runtimes` unpacks it. Its containers, shims and cgroups end with it.

use std::{
    env,
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use purlin_tests::{Lab, Need, Result, ensure, process::Process, wait};

use super::cri::{Cri, Pod};

/// What every test of this module needs.
pub const NEEDS: [Need; 4] =
    [Need::Root, Need::Program("runc"), Need::Program("busybox"), Need::Path(RUNTIMES)];
/// Where `tests/placement/runtimes` left what it unpacked.
const RUNTIMES: &str = "PURLIN_CONTAINERDS";
/// How long containerd may take to answer.
const START: Duration = Duration::from_secs(30);
/// What it may take to end, and the kernel to let go of a cgroup.
const STOP: Duration = Duration::from_secs(10);
/// The first and the last part of a cgroup's name: the tests of a process share none.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Which of the two lines of containerd.
#[derive(Clone, Copy, Debug)]
pub enum Line {
    /// 1.7, with NRI 0.6.
    One,
    /// 2.x, with NRI 0.8 or later.
    Two,
}

/// A containerd of our own.
pub struct Containerd {
    line: Line,
    dir: PathBuf,
    log: PathBuf,
    /// The cgroup that all its pods are below, from the root of each hierarchy.
    cgroup: String,
    process: Option<Process>,
    /// The way to it.
    pub cri: Cri,
}

impl Containerd {
    /// Starts one and gives it the image.
    pub fn start(lab: &Lab, line: Line) -> Result<Self> {
        let dir = lab.dir().join("containerd");
        fs::create_dir_all(dir.join("nri"))?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut containerd = Self {
            line,
            cri: Cri::at(dir.join("sock"))?,
            cgroup: format!("/purlin-lab-{}-{count}", std::process::id()),
            log: lab.dir().join("containerd.log"),
            process: None,
            dir,
        };
        fs::write(containerd.dir.join("config.toml"), containerd.config())?;
        containerd.restart()?;
        containerd.import()?;
        Ok(containerd)
    }

    /// Starts it, again where it was.
    pub fn restart(&mut self) -> Result {
        self.kill()?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(self.program("containerd"));
        command.arg("--config").arg(self.dir.join("config.toml"));
        // Its shim stands beside it.
        let programs = self.program("");
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([programs].into_iter().chain(env::split_paths(&path)));
        command.env("PATH", path.map_err(|error| error.to_string())?);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(Process::start(&mut command)?);
        let answers =
            || self.cri.version().map_err(|failed| failed.message().unwrap_or_default().to_owned());
        let version = wait::until("containerd answers", START, answers)?;
        println!("{version}");
        Ok(())
    }

    /// SIGKILL: its shims and containers live on.
    pub fn kill(&mut self) -> Result {
        self.process.take().map_or(Ok(()), |process| process.kill())
    }

    /// The cgroup that all its pods are below.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Where plugins connect.
    pub fn nri_socket(&self) -> PathBuf {
        self.dir.join("nri/nri.sock")
    }

    /// A pod below this one's cgroup.
    pub fn pod<'a>(&'a self, name: &'a str, annotations: &'a [(&'a str, &'a str)]) -> Pod<'a> {
        Pod { name, cgroup: &self.cgroup, annotations }
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// A container's file in its cgroup of the controller `cpuset`, by the name that
    /// cgroup v1 has for it; nothing here asks the runtime.
    pub fn cpuset(&self, id: &str, file: &str) -> Result<String> {
        let path = self.cpuset_dir(id).join(file);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// The directory of a container's cpuset.
    pub fn cpuset_dir(&self, id: &str) -> PathBuf {
        cpuset_root().join(format!("{}/{id}", &self.cgroup[1..]))
    }

    /// The container's OCI configuration as the runtime was given it.
    pub fn spec(&self, id: &str) -> Result<serde_json::Value> {
        let tasks = self.dir.join("state/io.containerd.runtime.v2.task/k8s.io");
        let path = tasks.join(id).join("config.json");
        let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    fn program(&self, name: &str) -> PathBuf {
        let line = match self.line {
            Line::One => "containerd-1",
            Line::Two => "containerd-2",
        };
        let runtimes = env::var_os(RUNTIMES).unwrap_or_default();
        Path::new(&runtimes).join(line).join("usr/bin").join(name)
    }

    fn import(&self) -> Result {
        let image = Path::new(&env::var_os(RUNTIMES).unwrap_or_default()).join("busybox.tar");
        let mut ctr = Command::new(self.program("ctr"));
        ctr.arg("--address").arg(self.dir.join("sock"));
        // Unpacked when first used: what the `ctr` of 2.x asks to unpack knows no
        // snapshotter but overlayfs.
        ctr.args(["-n", "k8s.io", "image", "import", "--no-unpack"]).arg(image);
        let output = ctr.output()?;
        ensure!(output.status.success(), "ctr: {}", String::from_utf8_lossy(&output.stderr));
        // Until its CRI has heard of the image, it would go and pull it.
        wait::until("containerd has the image", START, || match self.cri.has_image() {
            Ok(true) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    /// The two lines name the same things differently.
    fn config(&self) -> String {
        let dir = self.dir.display();
        let image = super::IMAGE;
        let (version, cri, images, pause) = match self.line {
            Line::One => {
                let cri = "io.containerd.grpc.v1.cri";
                let images = "io.containerd.grpc.v1.cri\".\"containerd";
                (2, cri, images, format!("sandbox_image = {image:?}"))
            }
            Line::Two => {
                let images = "io.containerd.cri.v1.images";
                let pause = format!("[plugins.\"{images}\".pinned_images]\nsandbox = {image:?}");
                (3, "io.containerd.cri.v1.runtime", images, pause)
            }
        };
        let (own_pause, other_pause) = match self.line {
            Line::One => (pause.as_str(), ""),
            Line::Two => ("", pause.as_str()),
        };
        format!(
            r#"version = {version}
root = "{dir}/root"
state = "{dir}/state"
[grpc]
address = "{dir}/sock"
[debug]
level = "debug"
[plugins."{cri}"]
restrict_oom_score_adj = true
{own_pause}
[plugins."{images}"]
snapshotter = "native"
{other_pause}
[plugins."{cri}".cni]
conf_dir = "{dir}/cni"
[plugins."io.containerd.nri.v1.nri"]
disable = false
socket_path = "{dir}/nri/nri.sock"
plugin_path = "{dir}/nri/plugins"
plugin_config_path = "{dir}/nri/conf.d"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
"#
        )
    }

    /// Whatever the runtime did not take back itself.
    fn sweep(&self) {
        let ours = self.dir.as_os_str().as_encoded_bytes();
        let deadline = Instant::now() + STOP;
        // A shim has our directory among its arguments, and reaps what was in its
        // containers; those are found by their cgroup.
        for pid in pids().filter(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.windows(ours.len()).any(|window| window == ours)
                || fs::read_to_string(format!("/proc/{pid}/cgroup"))
                    .is_ok_and(|cgroups| cgroups.contains(&format!("{}/", self.cgroup)))
        }) {
            _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for mount in mounted.filter(|path| Path::new(path).starts_with(&self.dir)) {
            _ = umount2(mount, MntFlags::MNT_DETACH);
        }
        for hierarchy in hierarchies() {
            let cgroup = hierarchy.join(&self.cgroup[1..]);
            while !removed(&cgroup) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.process.is_none() {
            _ = self.restart();
        }
        _ = self.cri.remove_all();
        if let Some(process) = self.process.take() {
            _ = process.signal(Signal::SIGTERM);
            _ = process.wait(STOP);
        }
        self.sweep();
    }
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Where each hierarchy is mounted: one for cgroup v2, one a controller for v1.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let cgroup = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let path = PathBuf::from(fields.next()?);
        fields.next()?.starts_with("cgroup").then_some(path)
    };
    mounts.lines().filter_map(cgroup).collect()
}

/// Where the controller `cpuset` is.
fn cpuset_root() -> PathBuf {
    let v1 = Path::new("/sys/fs/cgroup/cpuset");
    if v1.exists() { v1.to_owned() } else { "/sys/fs/cgroup".into() }
}

/// Removes a cgroup and those below it, once they are empty.
fn removed(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            removed(&entry.path());
        }
    }
    match fs::remove_dir(cgroup) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}
