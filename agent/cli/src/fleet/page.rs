//! A fleet and a push, as people read them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    exit::Exit,
    output::Page,
    table::{self, Column::*, Width, pair},
    units,
};

/// Rows of nodes that are well, beside those that are not: beyond it they are counted.
const WELL: usize = 20;

/// `purlin fleet status`
#[derive(Debug, Serialize)]
pub struct FleetNodes {
    /// In order of their ids.
    pub nodes: Vec<FleetNode>,
}

/// A node, as it has reported.
#[derive(Debug, Default, Serialize)]
pub struct FleetNode {
    /// Id.
    pub node: String,
    /// Version of its agent; empty if it never reported.
    pub agent: String,
    /// Version of the document that it boots from.
    pub active_version: Option<u64>,
    /// Version of the core's last document.
    pub desired_version: Option<u64>,
    /// What became of that.
    pub outcome: String,
    /// Why.
    pub why: String,
    /// A document is on trial.
    pub on_trial: bool,
    /// Who put another than the core's in force.
    pub drift: Option<String>,
}

/// `purlin fleet push`
#[derive(Debug, Serialize)]
pub struct Pushed {
    /// The document's number.
    pub version: u64,
    /// From the first to the last.
    pub took_ms: u64,
    /// In order of their ids; those that were not sent to last.
    pub nodes: Vec<PushedNode>,
}

/// What became of it on a node.
#[derive(Debug, Serialize)]
pub struct PushedNode {
    /// Id.
    pub node: String,
    /// `confirmed`, `refused`, `reverted`, `superseded`, `silent` or `unsent`.
    pub result: String,
    /// Why.
    pub why: String,
}

impl Page for FleetNodes {
    fn page(&self, width: Width) -> String {
        let number = |it: Option<u64>| it.map_or("-".into(), |it| it.to_string());
        let row = |it: &FleetNode| {
            let mut notes = vec![it.why.clone()];
            notes.extend(it.drift.as_ref().map(|by| format!("drift by {by}")));
            notes.extend(it.agent.is_empty().then(|| "never reported".to_owned()));
            notes.retain(|note| !note.is_empty());
            let outcome = if it.on_trial { "trial".to_owned() } else { it.outcome.clone() };
            vec![
                it.node.clone(),
                it.agent.clone(),
                number(it.active_version),
                number(it.desired_version),
                outcome,
                notes.join("; "),
            ]
        };
        let header = [
            Whole("NODE"),
            Whole("AGENT"),
            Right("IN FORCE"),
            Right("DESIRED"),
            Whole("RESULT"),
            Left("NOTE"),
        ];
        match self.nodes.is_empty() {
            true => "no node has reported\n".to_owned(),
            false => table::columns(&header, self.nodes.iter().map(row), width),
        }
    }
}

impl Pushed {
    fn counts(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for node in &self.nodes {
            *counts.entry(&node.result).or_default() += 1;
        }
        let counts: Vec<_> = counts.iter().map(|(result, n)| format!("{n} {result}")).collect();
        counts.join(", ")
    }
}

impl Page for Pushed {
    fn page(&self, width: Width) -> String {
        let head = pair("version", &self.version.to_string(), width)
            + &pair(
                "nodes",
                &format!("{} in {}", self.counts(), units::duration(self.took_ms)),
                width,
            );
        let well = |it: &&PushedNode| it.result == "confirmed";
        let few = self.nodes.iter().filter(well).count() <= WELL;
        let shown = self.nodes.iter().filter(|it| few || !well(it));
        let row = |it: &PushedNode| vec![it.node.clone(), it.result.clone(), it.why.clone()];
        let header = [Whole("NODE"), Whole("RESULT"), Left("WHY")];
        table::sections([head, table::columns(&header, shown.map(row), width)])
    }

    fn exit(&self) -> Exit {
        match self.nodes.iter().all(|it| it.result == "confirmed") {
            true => Exit::Ok,
            false => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample;

    #[test]
    fn a_push_counts_the_well_and_names_the_others() {
        let node = |n: usize, result: &str, why: &str| PushedNode {
            node: format!("edge-{n:03}"),
            result: result.into(),
            why: why.into(),
        };
        let mut nodes: Vec<_> = (0..40).map(|n| node(n, "confirmed", "")).collect();
        nodes.push(node(
            40,
            "reverted",
            "its time was up, and not all was well: uplink: no session",
        ));
        nodes.push(node(41, "unsent", "not sent: too many have failed"));
        let pushed = Pushed { version: 8, took_ms: 61_000, nodes };
        expect![[r#"
            version      8
            nodes        40 confirmed, 1 reverted, 1 unsent in 1 m 1 s

            NODE      RESULT    WHY
            edge-040  reverted  its time was up, and not all was well: uplink: no session
            edge-041  unsent    not sent: too many have failed
        "#]]
        .assert_eq(&sample::page(&pushed));
        assert_eq!(pushed.exit(), Exit::Failed);
    }

    #[test]
    fn a_fleet_is_a_line_a_node() {
        let well = FleetNode {
            node: "edge-001".into(),
            agent: "0.1.0".into(),
            active_version: Some(7),
            desired_version: Some(7),
            outcome: "confirmed".into(),
            ..FleetNode::default()
        };
        let never = FleetNode { node: "edge-002".into(), ..FleetNode::default() };
        let drift = FleetNode {
            node: "edge-003".into(),
            drift: Some("uid 0 (local)".into()),
            outcome: "waiting".into(),
            why: "for the end of the override by uid 0 (local)".into(),
            agent: "0.1.0".into(),
            active_version: Some(6),
            desired_version: Some(7),
            ..FleetNode::default()
        };
        let nodes = FleetNodes { nodes: vec![well, never, drift] };
        expect![[r#"
            NODE      AGENT  IN FORCE  DESIRED  RESULT     NOTE
            edge-001  0.1.0         7        7  confirmed
            edge-002                -        -             never reported
            edge-003  0.1.0         6        7  waiting    for the end of the override by
                                                           uid 0 (local); drift by uid 0
                                                           (local)
        "#]]
        .assert_eq(&sample::page(&nodes));
    }
}
