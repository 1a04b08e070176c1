//! The state directory: who may use it, and how files in it are replaced.
//!
//! ```text
//! lock           held by the one agent that uses the directory; its pid
//! incarnation    16 hexadecimal digits, random, made with the directory
//! machine.json   the machine that all of this was made on
//! node           node id, where the machine has no machine id to derive it from
//! boot           how many boots it has seen, and the id of the last
//! ledger.a .b    the configuration the node boots from
//! baseline.json  the accepted hardware
//! placement.a .b  who is placed where
//! audit/         what was done to this node, and the key that signs for it
//! spool/         telemetry on its way to the core
//! sent-today     bytes that the uplink sent, and on which day
//! history/       the last day's measurements; history.bad what was set aside of it
//! secrets/       what documents refer to by secret:NAME, put there by hand
//! mesh/          the mesh's last table and who the node is in its rack; standalone its log
//! broker.password  standalone only, mode 0600
//! ```

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use purlin_core::identity::Incarnation;
pub use purlin_mesh::keep::{contents as read, replace};
use purlin_proto::topic;
use ring::{hmac, rand::SecureRandom};

use crate::clock;

/// A state directory in use. The lock ends with the process, however it ends,
/// and no child inherits it.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

/// Why a state directory can't be used.
#[derive(Debug)]
pub enum OpenError {
    /// Another agent uses it.
    Held {
        /// The directory.
        path: PathBuf,
        /// The other agent's process id, if it could be read.
        pid: Option<u32>,
    },
    /// It can't be made or written.
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Held { path, pid } => {
                let pid = pid.map_or("of unknown pid".into(), |pid| format!("with pid {pid}"));
                write!(
                    f,
                    "another agent {pid} uses {}: stop it first, or give this one its own \
                     state_dir and socket",
                    path.display()
                )
            }
            OpenError::Io { path, error } => write!(
                f,
                "can't use {} as state directory: {error}. Set state_dir to a directory that \
                 this user can write",
                path.display()
            ),
        }
    }
}

impl StateDir {
    /// Makes the directory if it isn't there, and takes its lock.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |error| OpenError::Io { path: path.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                let pid = format!("{}\n", std::process::id());
                lock.set_len(0).and_then(|()| lock.write_all(pid.as_bytes())).map_err(io)?;
                Ok(Self { path: path.to_owned(), _lock: lock })
            }
            Err((mut file, nix::Error::EWOULDBLOCK)) => {
                let mut pid = String::new();
                _ = file.read_to_string(&mut pid);
                Err(OpenError::Held { path: path.to_owned(), pid: pid.trim().parse().ok() })
            }
            Err((_, error)) => Err(io(error.into())),
        }
    }

    /// Takes the lock of a directory whose agent is dead, only to read there: no agent
    /// starts on it meanwhile. `None` where there is no lock: no agent ran there, or
    /// who copied the directory left it out.
    pub fn hold(path: &Path) -> Result<Option<Flock<File>>, OpenError> {
        let file = match File::open(path.join("lock")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| OpenError::Io { path: path.to_owned(), error })?,
        };
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map(Some).map_err(|(mut file, error)| {
            let mut pid = String::new();
            _ = file.read_to_string(&mut pid);
            match error {
                nix::Error::EWOULDBLOCK => {
                    OpenError::Held { path: path.to_owned(), pid: pid.trim().parse().ok() }
                }
                error => OpenError::Io { path: path.to_owned(), error: error.into() },
            }
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// This directory's incarnation, made now if it has none. A damaged one is
    /// replaced, and told: a node that doesn't start is worse than one whose old
    /// records are set aside.
    pub fn incarnation(&self) -> io::Result<(Incarnation, Option<String>)> {
        let valid = |text: &str| text.parse::<Incarnation>().is_ok();
        let (text, damage) = self.read_or_make("incarnation", 0o644, valid)?;
        let incarnation = text.parse().map_err(io::Error::other)?;
        Ok((incarnation, damage))
    }

    /// A node id for a machine without a machine id, made now if there is none.
    pub fn random_node(&self) -> io::Result<(String, Option<String>)> {
        self.read_or_make("node", 0o644, topic::is_level)
    }

    /// Counts the boots of this machine that this directory has seen, from 1: each
    /// time the kernel has another boot id, one more. A damaged count starts again
    /// from the time, so that none is used twice.
    pub fn boot(&self) -> u32 {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let path = self.path.join("boot");
        let text = fs::read_to_string(&path).ok();
        let counted = match text.as_deref().map(|text| text.trim().split_once(' ')) {
            None => Some(0),
            Some(None) => None,
            Some(Some((count, last))) => match count.parse::<u32>() {
                Ok(count) if last == id.trim() => return count,
                count => count.ok(),
            },
        };
        let count =
            counted.map_or((clock::unix_ms() / 1000) as u32, |count| count.saturating_add(1));
        if let Err(error) = replace(&path, 0o644, format!("{count} {}\n", id.trim()).as_bytes()) {
            tracing::warn!(path = %path.display(), %error, "can't count this boot");
        }
        count
    }

    /// The random word that a file holds. It is made if the file isn't there, and
    /// made anew, which is told, if it holds nothing valid.
    pub fn read_or_make(
        &self,
        name: &str,
        mode: u32,
        valid: impl Fn(&str) -> bool,
    ) -> io::Result<(String, Option<String>)> {
        let path = self.path.join(name);
        let damage = match fs::read(&path).map(String::from_utf8) {
            Ok(Ok(text)) if valid(text.trim()) => return Ok((text.trim().into(), None)),
            Ok(_) => Some(format!("{} was damaged, and is made anew", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let text = random_hex()?;
        replace(&path, mode, format!("{text}\n").as_bytes())?;
        Ok((text, damage))
    }
}

/// The node id of this machine: an application-specific hash of its machine id,
/// as machine-id(5) asks for, so that the id itself stays private. `None` if the
/// machine has none.
pub fn node_of_machine() -> Option<String> {
    of_machine(Path::new("/"), b"purlin node id")
}

/// What an installed system is known by, hashed in the same way.
pub fn system_of_machine(root: &Path) -> Option<String> {
    of_machine(root, b"purlin machine")
}

fn of_machine(root: &Path, application: &[u8]) -> Option<String> {
    let machine_id = fs::read_to_string(root.join("etc/machine-id")).ok()?;
    let machine_id = machine_id.trim();
    if machine_id.len() != 32 || !machine_id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, machine_id.as_bytes());
    Some(hex::encode(&hmac::sign(&key, application).as_ref()[..8]))
}

/// Random bits from the kernel.
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    (ring::rand::SystemRandom::new().fill(&mut bytes))
        .map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// 16 random hexadecimal digits.
fn random_hex() -> io::Result<String> {
    random_u64().map(|random| format!("{random:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_a_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = StateDir::open(dir.path()).expect("a free directory");
        match StateDir::open(dir.path()) {
            Err(OpenError::Held { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        StateDir::open(dir.path()).expect("free again");
    }

    #[test]
    fn an_incarnation_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(dir.path()).expect("a free directory");
        let made = state.incarnation().expect("made");
        assert_eq!(state.incarnation().expect("read"), made);
        fs::write(dir.path().join("incarnation"), "nonsense").expect("a write");
        let (another, damage) = state.incarnation().expect("made anew");
        assert!(another != made.0 && damage.is_some(), "never silently another one");
        assert_eq!(state.incarnation().expect("read"), (another, None));
    }
}
