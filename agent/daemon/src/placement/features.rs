//! Tells Kubernetes' scheduler what fits on this node: a feature file of Node Feature
//! Discovery, whose worker makes labels of it. A pod that selects by them is not sent
//! where it would be refused again and again.
//!
//! The directory is root's, so the helper writes the file: one of a fixed name, with
//! numbers that stand for themselves. Whoever could write there what it likes could give
//! its node any label.
//!
//! Source: NFD's "local" feature source (`docs/usage/customization-guide.md`): one
//! `name=value` a line, in files of `/etc/kubernetes/node-feature-discovery/features.d`.

use std::{fmt::Write, fs, io, path::Path, time::Duration};

use purlin_core::place::book::Room;
use tokio::{sync::watch, time};

use crate::{
    helper::{self, Changed, What},
    state,
};

/// Where NFD's worker looks. It is written only where it is there.
pub const DIRECTORY: &str = "/etc/kubernetes/node-feature-discovery/features.d";
/// Where that can't be, nobody is asked.
const KUBERNETES: &str = "/etc/kubernetes";
const NAME: &str = "purlin";
/// Readable for the worker, whoever it runs as.
const MODE: u32 = 0o644;
/// What was not written, or was taken away, is written after this time.
const AGAIN: Duration = Duration::from_secs(60);
/// Kinds of device that are told of: a machine has a dozen.
const MAX_KINDS: usize = 64;

/// Keeps the file.
#[derive(Debug)]
pub struct Owner {
    /// What is left; `None`: nobody knows yet.
    pub room: watch::Receiver<Option<Room>>,
    /// Writes it.
    pub helper: helper::Client,
}

impl Owner {
    /// Works for ever.
    pub async fn run(&mut self) {
        let mut refused = None;
        loop {
            let room = self.room.borrow_and_update().clone();
            if let Some(room) = room.filter(|_| Path::new(KUBERNETES).exists()) {
                let changed = self.helper.ask(What::Features(room)).await.changed();
                let now = match changed {
                    Changed::Refused(why) => Some(why),
                    _ => None,
                };
                if let Some(why) = now.as_ref().filter(|now| Some(*now) != refused.as_ref()) {
                    tracing::warn!(why, "Kubernetes' scheduler is not told what fits");
                }
                refused = now;
            }
            // Nobody publishes any more when the agent is about to end.
            if let Ok(Err(_)) = time::timeout(AGAIN, self.room.changed()).await {
                time::sleep(AGAIN).await;
            }
        }
    }
}

/// Makes the file tell of what is left; writes only what changed. False where nobody reads
/// it.
pub fn write(dir: &Path, room: &Room) -> io::Result<bool> {
    let (path, wanted) = (dir.join(NAME), text(room));
    if !dir.is_dir() {
        return Ok(false);
    }
    if !fs::read(&path).is_ok_and(|is| is == wanted.as_bytes()) {
        state::replace(&path, MODE, wanted.as_bytes())?;
    }
    Ok(true)
}

fn text(room: &Room) -> String {
    let mut text = format!(
        "purlin.dev/exclusive-cpus={}\npurlin.dev/exclusive-cpus-one-node={}\n\
         purlin.dev/memory-mib-one-node={}\n",
        room.exclusive,
        room.exclusive_one_node,
        room.memory_one_node >> 20
    );
    // A label's name has one `/` at most.
    let names = room.devices.iter().map(|(kind, count)| (kind.replace('/', "."), count));
    let is_name = |(name, _): &(String, &u64)| {
        name.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it))
    };
    for (name, count) in names.filter(is_name).take(MAX_KINDS) {
        _ = writeln!(text, "purlin.dev/free.{name}={count}");
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_is_left_is_told_only_where_somebody_listens() {
        let room = Room {
            exclusive: 28,
            exclusive_one_node: 14,
            memory_one_node: 5 << 30,
            devices: [
                ("gpu".into(), 1),
                ("mig-1g.10gb".into(), 7),
                ("acme.com/npu".into(), 2),
                (
                    "x=1
feature.node.kubernetes.io/mine"
                        .into(),
                    1,
                ),
            ]
            .into(),
        };
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!write(&dir.path().join("none"), &room).expect("nobody listens"));
        assert!(!dir.path().join("none").exists());
        assert!(write(dir.path(), &room).expect("a write"));
        let told = fs::read_to_string(dir.path().join(NAME)).expect("the file");
        expect![[r#"
            purlin.dev/exclusive-cpus=28
            purlin.dev/exclusive-cpus-one-node=14
            purlin.dev/memory-mib-one-node=5120
            purlin.dev/free.acme.com.npu=2
            purlin.dev/free.gpu=1
            purlin.dev/free.mig-1g.10gb=7
        "#]]
        .assert_eq(&told);
    }
}
