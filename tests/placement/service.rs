//! The agent as its unit runs it, a user without a privilege, and the helper as systemd
//! starts it for each connection: root without a capability. There is no systemd here.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{PermissionsExt, chown},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use purlin_tests::{Lab, Need, Node, Result, ensure, process::Process};

/// What every test of this kind needs.
pub const NEEDS: [Need; 3] = [Need::Root, Need::Program("setpriv"), Need::Program("unshare")];
/// Whom the agent runs as.
const NOBODY: u32 = 65_534;
/// Directories of the lab (`$0/run`, …) in the place of the machine's own, for one process.
const AGENT: &str = r#"mount --bind "$0/run" /run && mount --bind "$0/lib" /var/lib &&
    mount --bind "$0/etc" /etc && exec setpriv --reuid=65534 \
    --regid=65534 --clear-groups --no-new-privs "$@""#;
const HELPER: &str = r#"mount --bind "$0/etc" /etc && mount --bind "$0/lib" /var/lib &&
    exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@""#;

/// A node's agent without a privilege; it is not started yet.
pub fn node(lab: &Lab) -> Result<Node> {
    let mut node = Node::new(lab, "node")?;
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755))?;
    for folder in ["run", "etc/purlin", "lib"] {
        fs::create_dir_all(lab.dir().join(folder))?;
    }
    // The build directory may be closed to others. Not fs::copy: a process that
    // another test starts meanwhile would hold the file open for writing.
    let binary = lab.dir().join("purlin");
    ensure!(Command::new("cp").args([node.binary(), &binary]).status()?.success(), "cp");
    let owner = NOBODY.to_string();
    ensure!(
        Command::new("chown").args(["-R", &owner]).arg(node.dir()).status()?.success(),
        "chown"
    );
    let dir = lab.dir().to_string_lossy();
    node.run_with(&["unshare", "--mount", "sh", "-c", AGENT, &dir], &binary);
    Ok(node)
}

/// `purlin-helper.socket` and the services that it starts.
pub struct Service {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Listens where the agents of the lab ask.
    pub fn start(lab: &Lab, binary: &Path) -> Result<Self> {
        let socket = lab.dir().join("run/purlin-helper.sock");
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        chown(&socket, Some(NOBODY), Some(0))?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        let ended = Arc::new(AtomicBool::new(false));
        let (is_ended, dir, binary) = (ended.clone(), lab.dir().to_owned(), binary.to_owned());
        let thread = thread::spawn(move || {
            let mut helpers = Vec::new();
            while !is_ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((connection, _)) => {
                        helpers.push(helper(&dir, &binary, connection.into()).expect("a helper"));
                    }
                    Err(_) => sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        _ = self.thread.take().map(JoinHandle::join);
    }
}

fn helper(dir: &Path, binary: &Path, connection: OwnedFd) -> Result<Process> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", HELPER]).arg(dir).arg(binary).args(["helper", "write"]);
    command.stdin(Stdio::from(connection)).stdout(Stdio::null());
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(PathBuf::from(dir).join("helper.log"))?;
    command.stderr(log);
    Process::start(&mut command)
}
