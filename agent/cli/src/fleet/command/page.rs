//! What came of a command, as people read it.

use serde::Serialize;

use crate::{
    exit::Exit,
    output::Page,
    table::{self, Column::*, Width},
};

/// `purlin fleet command`
#[derive(Debug, Serialize)]
pub struct Commanded {
    /// In order of their ids.
    pub nodes: Vec<CommandedNode>,
}

/// What came of it on a node.
#[derive(Debug, Default, Serialize)]
pub struct CommandedNode {
    /// Id.
    pub node: String,
    /// `done`, `failed`, `refused`, `unsupported` or `silent`.
    pub result: String,
    /// What was done, or why not.
    pub text: String,
    /// doctor: what is wrong, a line each.
    pub faults: Vec<String>,
    /// support-bundle: where it was written to.
    pub saved: Option<String>,
}

impl Page for Commanded {
    fn page(&self, width: Width) -> String {
        let rows = self.nodes.iter().flat_map(|it| {
            let saved = it.saved.iter().map(|path| format!("written to {path}"));
            let more = it.faults.iter().cloned().chain(saved);
            let more = more.map(|text| vec![String::new(), String::new(), text]);
            let first = vec![it.node.clone(), it.result.clone(), it.text.clone()];
            std::iter::once(first).chain(more)
        });
        table::columns(&[Whole("NODE"), Whole("RESULT"), Left("WHAT")], rows, width)
    }

    fn exit(&self) -> Exit {
        match self.nodes.iter().all(|it| it.result == "done") {
            false => Exit::Failed,
            true if self.nodes.iter().any(|it| !it.faults.is_empty()) => Exit::Faults,
            true => Exit::Ok,
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample;

    #[test]
    fn each_node_says_what_came_of_it_and_a_fault_is_no_failure() {
        let node = |node: &str, result: &str, text: &str, faults: &[&str]| CommandedNode {
            node: node.into(),
            result: result.into(),
            text: text.into(),
            faults: faults.iter().map(|it| (*it).to_owned()).collect(),
            saved: None,
        };
        let mut page = Commanded {
            nodes: vec![
                node("edge-001", "done", "no faults", &[]),
                node(
                    "edge-002",
                    "done",
                    "1 fault",
                    &["spool-disk: the metric log can't be written"],
                ),
            ],
        };
        assert_eq!(page.exit(), Exit::Faults);
        page.nodes.push(node("edge-003", "silent", "the node did not say anything", &[]));
        expect![[r#"
            NODE      RESULT  WHAT
            edge-001  done    no faults
            edge-002  done    1 fault
                              spool-disk: the metric log can't be written
            edge-003  silent  the node did not say anything
        "#]]
        .assert_eq(&sample::page(&page));
        assert_eq!(page.exit(), Exit::Failed);
    }
}
