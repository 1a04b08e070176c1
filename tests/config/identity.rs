//! Who a node is: two with one identity both say so, and a node can be made to forget.

use std::fs;

use purlin_tests::{Broker, Lab, Node, Result, ensure, lab::Test, node::setting, test, wait};

use crate::{ROUND_TRIP, apply};

pub fn local() -> [Test; 1] {
    [test("a_node_that_was_reset_is_another_one_or_keeps_its_id", 60, reset)]
}

pub fn remote() -> [Test; 1] {
    [test("two_nodes_with_one_identity_both_say_so", 120, shared)]
}

fn reset(lab: &Lab) -> Result {
    let mut node = Node::new(lab, "node")?;
    node.start()?;
    let before = node.status()?;
    ensure!(apply(lab, &node, "version = 1\n[sampling]\ninterval_s = 7\n")?.code == 0, "applied");
    let held = node.cli(&["node", "reset", "--all", "--yes"])?;
    ensure!(held.code == 1 && held.stderr.contains("stop it first"), "{held:?}");
    node.stop()?;
    let asked = node.cli(&["node", "reset", "--keep-identity"])?;
    ensure!(asked.code == 64 && asked.stderr.contains("--yes"), "nobody to ask: {asked:?}");
    for keeps in ["--keep-identity", "--all"] {
        let done = node.cli(&["node", "reset", keeps, "--yes"])?;
        ensure!(done.code == 0, "{done:?}");
        let is_on_record = node.state_dir().join("audit").exists();
        ensure!(
            is_on_record == (keeps == "--keep-identity"),
            "{:?}",
            fs::read_dir(node.state_dir())?
        );
        node.start()?;
        let now = node.status()?;
        ensure!(now.incarnation != before.incarnation, "its records are others now");
        let config = node.config()?;
        ensure!(config.active.is_none(), "{:?}", config.active);
        ensure!(setting(&config, "sampling.interval_s")?.value == "10", "by default");
        ensure!(node.cli(&["audit", "verify"])?.code == 0, "the record is whole");
        node.stop()?;
    }
    Ok(())
}

fn shared(lab: &Lab) -> Result {
    let broker = Broker::start(lab)?;
    let mut nodes = ["node", "copy"]
        .map(|name| Node::new(lab, name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for node in &mut nodes {
        node.set("PURLIN_NODE", "node");
        node.set("PURLIN_UPLINK__ENDPOINT", broker.endpoint());
        node.start()?;
    }
    for node in &nodes {
        wait::until("it says that it is not alone", ROUND_TRIP * 3, || {
            let faults = node.status().map_err(|e| format!("{e:?}"))?.faults;
            let is_told = faults.iter().any(|fault| fault.id == "identity-shared");
            is_told.then_some(()).ok_or_else(|| format!("{faults:?}"))
        })?;
    }
    for node in &mut nodes {
        node.stop()?;
    }
    Ok(())
}
