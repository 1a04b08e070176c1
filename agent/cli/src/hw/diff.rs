//! `purlin hw diff` and `purlin hw accept`: the hardware against what was accepted,
//! or two machines against each other. Only the agent writes what is accepted.

use std::{fs, path::Path};

use purlin_core::{drift, inventory::Inventory};
use purlin_daemon::{
    helper,
    inventory::{between, compare},
    offline,
};
use purlin_proto::api::{HardwareChange, HardwareDiff};
use serde_json::Value;

use crate::{
    args::{DiffArgs, Global},
    client::{Body, Client, DEADLINE},
    exit::{Ended, Exit, Failure},
    output::{Output, note},
    table::{self, Column::*, Width, plain},
};

/// The longest inventory that is read from a file, in bytes.
const MAX_FILE: u64 = 64 << 20;
const THIS_MACHINE: &str = "this machine";

/// `purlin hw diff`
pub async fn diff(args: &DiffArgs, global: &Global, output: &Output) -> Ended {
    let diff = match &args.before {
        None => against_accepted(global).await?,
        Some(before) => {
            let left = inventory(before)?;
            let (to, right) = match &args.after {
                Some(after) => (after.display().to_string(), inventory(after)?),
                None => (THIS_MACHINE.into(), helper::inventory(None)),
            };
            between(&before.display().to_string(), &to, &drift::diff(&left, &right))
        }
    };
    output.show(&diff, |width| page(&diff, width))?;
    Ok(if diff.changes.is_empty() { Exit::Ok } else { Exit::Faults })
}

/// `purlin hw accept`
pub async fn accept(global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    let accepted = client.post("/v1/hardware/baseline", Body::default(), DEADLINE).await;
    let diff: HardwareDiff = accepted.inspect_err(|failure| {
        if matches!(failure, Failure::Unreachable(_)) {
            note("only a running agent can accept the hardware: it alone writes what is accepted");
        }
    })?;
    output.show(&diff, |_| format!("{}\n", plain(&diff.from)))?;
    Ok(Exit::Ok)
}

/// As the agent sees it, or, when it is dead, what it accepted against this machine.
async fn against_accepted(global: &Global) -> Result<HardwareDiff, Failure> {
    let client = Client::find(global)?;
    let unreachable = match client.get::<HardwareDiff>("/v1/hardware/diff").await {
        Err(Failure::Unreachable(unreachable)) => unreachable,
        Err(failure) => return Err(failure),
        Ok(answer) if answer.document.from.is_empty() => {
            let what = "no hardware is accepted yet: `purlin hw accept` accepts what is there";
            return Err(Failure::Failed(what.into()));
        }
        Ok(answer) => return Ok(answer.document),
    };
    let Some(boot) = client.boot() else { return Err(Failure::Unreachable(unreachable)) };
    match offline::baseline(boot) {
        Ok(baseline) => {
            note("the agent can't be reached; this is what it accepted, against this machine now");
            Ok(compare(&baseline, &helper::inventory(None)))
        }
        Err(why) => {
            note(&format!("what was accepted can't be read either: {why}"));
            Err(Failure::Unreachable(unreachable))
        }
    }
}

/// The machine in a file of `purlin hw list -o json`, or in a dump.
fn inventory(path: &Path) -> Result<Inventory, Failure> {
    match json(path)? {
        Some(inventory) => Ok(inventory),
        None => super::read(Some(path)),
    }
}

/// `None` if it is no file of JSON.
fn json(path: &Path) -> Result<Option<Inventory>, Failure> {
    let failed = |what: String| Failure::Failed(format!("{}: {what}", path.display()));
    let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() || path.extension().is_none_or(|it| it != "json") {
        return Ok(None);
    }
    if metadata.len() > MAX_FILE {
        return Err(failed(format!("over {MAX_FILE} bytes")));
    }
    let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
    // By way of a value: whatever it was wrapped in may have a `schema` too. And then from
    // bytes again, which helpers' answers are read from: one reader of inventories is
    // enough for the executable.
    let inventory = serde_json::from_slice::<Value>(&bytes)
        .and_then(|value| serde_json::from_slice::<Inventory>(&serde_json::to_vec(&value)?));
    inventory.map(Some).map_err(|error| {
        failed(format!("no inventory: {error}; make one with `purlin hw list -o json`"))
    })
}

fn page(diff: &HardwareDiff, width: Width) -> String {
    let header = table::pair("compared", &format!("{} → {}", diff.from, diff.to), width);
    let unread = match diff.unread.is_empty() {
        true => String::new(),
        false => table::pair("not compared", &unread(&diff.unread), width),
    };
    let changes = match diff.changes.is_empty() {
        true => "no differences\n".into(),
        false => changes(&diff.changes, width),
    };
    table::sections([header + &unread, changes])
}

fn unread(kinds: &[String]) -> String {
    format!("{}: could not be read on one side", kinds.join(", "))
}

fn changes(changes: &[HardwareChange], width: Width) -> String {
    let columns = [Left("PART"), Left("WHAT"), Left("BEFORE"), Left("AFTER")];
    let row = |it: &HardwareChange| {
        let (what, before, after) = match it.name.as_str() {
            "hw.appeared" => (it.title.clone(), "-".into(), "there".into()),
            "hw.vanished" => (it.title.clone(), "there".into(), "-".into()),
            "hw.reader_fault" => (it.text.clone(), String::new(), String::new()),
            _ => (format!("{}: {}", it.title, it.field), it.before.clone(), it.after.clone()),
        };
        vec![it.part.clone(), what, before, after]
    };
    table::columns(&columns, changes.iter().map(row), width)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample;

    fn change(name: &str, title: &str, field: [&str; 3]) -> HardwareChange {
        let [field, before, after] = field.map(String::from);
        HardwareChange {
            name: name.into(),
            part: "nic".into(),
            title: title.into(),
            field,
            before,
            after,
            ..HardwareChange::default()
        }
    }

    #[test]
    fn differences_are_told_side_by_side() {
        let diff = HardwareDiff {
            from: "accepted by first seen".into(),
            to: THIS_MACHINE.into(),
            changes: vec![
                change("hw.changed", "NIC eth0 at 0000:01:00.0", ["firmware", "1.2", "1.3"]),
                change("hw.vanished", "NIC eth1 at 0000:02:00.0", [""; 3]),
            ],
            unread: vec!["GPU".into()],
            ..HardwareDiff::default()
        };
        expect![[r#"
            compared     accepted by first seen → this machine
            not          GPU: could not be read on one side
            compared

            PART  WHAT                                BEFORE  AFTER
            nic   NIC eth0 at 0000:01:00.0: firmware  1.2     1.3
            nic   NIC eth1 at 0000:02:00.0            there   -
        "#]]
        .assert_eq(&sample::strip(&page(&diff, Some(80))));
        let same = HardwareDiff { unread: Vec::new(), changes: Vec::new(), ..diff };
        expect![[r#"
            compared     accepted by first seen → this machine

            no differences
        "#]]
        .assert_eq(&sample::strip(&page(&same, Some(80))));
    }

    #[test]
    fn what_hw_list_prints_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let inventory = Inventory { gpus: Some(Vec::new()), ..Inventory::default() };
        let text = serde_json::to_string(&inventory).unwrap();
        fs::write(&path, text.replacen('{', r#"{"schema":1,"#, 1)).unwrap();
        assert_eq!(json(&path).unwrap(), Some(inventory));
        fs::write(&path, "{}").unwrap();
        assert!(json(&path).is_err());
        assert!(json(dir.path()).unwrap().is_none(), "a dump");
    }
}
