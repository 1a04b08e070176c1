//! `purlin node`: the node as such.

use std::io::{self, IsTerminal, Write};

use purlin_daemon::reset;
use serde::Serialize;

use crate::{
    args::{Global, NodeCommand},
    client::Client,
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
        confirm(&consequence)?;
    }
    let removed = reset::reset(&boot.state_dir, !what.all).map_err(Failure::Failed)?;
    let done = Done { removed };
    output.show(&done, |width| done.page(width))?;
    Ok(Exit::Ok)
}

/// Goes on only if it is typed.
fn confirm(consequence: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        let what = format!("{consequence}. Say --yes to do it without being asked.");
        return Err(Failure::Usage(what));
    }
    anstream::eprint!(
        "{consequence}.\nWhat waits for the core is part of it: `purlin queue export` keeps it.\n\
         Type reset to go on: "
    );
    _ = io::stderr().flush();
    let mut typed = String::new();
    io::stdin().read_line(&mut typed)?;
    match typed.trim() == "reset" {
        true => Ok(()),
        false => Err(Failure::Failed("nothing was removed".into())),
    }
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
