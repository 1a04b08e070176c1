//! Tells Kubernetes' scheduler what fits on this node: a feature file of Node Feature
//! Discovery, whose worker makes labels of it. A pod that selects by them is not sent
//! where it would be refused again and again.
//!
//! Source: NFD's "local" feature source (`docs/usage/customization-guide.md`): one
//! `name=value` a line, in files of `/etc/kubernetes/node-feature-discovery/features.d`.

use std::{fmt::Write, fs, io, path::Path};

use purlin_core::place::book::Room;

use crate::state;

/// Where NFD's worker looks. It is written only where it is there.
pub const DIRECTORY: &str = "/etc/kubernetes/node-feature-discovery/features.d";
const NAME: &str = "purlin";
/// Readable for the worker, whoever it runs as.
const MODE: u32 = 0o644;

/// Makes the file tell of what is left; writes only what changed.
pub fn write(dir: &Path, room: &Room) -> io::Result<()> {
    let (path, wanted) = (dir.join(NAME), text(room));
    if !dir.is_dir() || fs::read(&path).is_ok_and(|is| is == wanted.as_bytes()) {
        return Ok(());
    }
    state::replace(&path, MODE, wanted.as_bytes())
}

fn text(room: &Room) -> String {
    let mut text = format!(
        "purlin.dev/exclusive-cpus={}\npurlin.dev/exclusive-cpus-one-node={}\n\
         purlin.dev/memory-mib-one-node={}\n",
        room.exclusive,
        room.exclusive_one_node,
        room.memory_one_node >> 20
    );
    for (kind, count) in &room.devices {
        // A label's name has one `/` at most.
        _ = writeln!(text, "purlin.dev/free.{}={count}", kind.replace('/', "."));
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
            devices: [("gpu".into(), 1), ("mig-1g.10gb".into(), 7), ("acme.com/npu".into(), 2)]
                .into(),
        };
        let dir = tempfile::tempdir().expect("a directory");
        write(&dir.path().join("none"), &room).expect("nobody listens");
        assert!(!dir.path().join("none").exists());
        write(dir.path(), &room).expect("a write");
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
