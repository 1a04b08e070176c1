//! `purlin node`: the node as such.

use purlin_daemon::reset;
use serde::Serialize;

use crate::{
    args::{Global, NodeCommand},
    client::Client,
    confirm,
    exit::{Ended, Exit, Failure},
    output::{Output, Page},
    table::{Width, pair},
};

/// `purlin node …`
pub fn run(command: &NodeCommand, global: &Global, output: &Output) -> Ended {
    let NodeCommand::Reset { what, yes } = command;
    let client = Client::find(global)?;
    let boot = client.boot().ok_or_else(|| {
        let what = "whose state it is can't be told by --socket: use --config";
        Failure::Usage(what.into())
    })?;
    let dir = boot.state_dir.display();
    let consequence = match what.all {
        true => format!(
            "everything in {dir} would be gone for good, and this node would start as a new one"
        ),
        false => format!(
            "everything in {dir} but the node's id, the keys that it believes and its audit log \
             would be gone for good"
        ),
    };
    if !yes {
        let what = format!(
            "{consequence}. What waits for the core is part of it: `purlin queue export` keeps it."
        );
        confirm::typed("reset", &what)?;
    }
    let removed = reset::reset(&boot.state_dir, !what.all).map_err(Failure::Failed)?;
    let done = Done { removed };
    output.show(&done, |width| done.page(width))?;
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Done {
    removed: Vec<String>,
}

impl Page for Done {
    fn page(&self, width: Width) -> String {
        match self.removed.is_empty() {
            true => "there was nothing\n".into(),
            false => pair("removed", &self.removed.join(", "), width),
        }
    }
}
