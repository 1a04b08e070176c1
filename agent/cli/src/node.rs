//! `purlin node`: the node as such.

use std::{fs, path::Path};

use purlin_daemon::{boot::Boot, clock::Floor, enrol, reset};
use serde::Serialize;

use crate::{
    args::{EnrolCommand, Global, NodeCommand, ResetWhat},
    client::Client,
    confirm,
    exit::{Ended, Exit, Failure},
    output::{Output, Page},
    table::{Width, pair},
    units,
};

/// `purlin node …`
pub fn run(command: &NodeCommand, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    let boot = client.boot().ok_or_else(|| {
        let what = "whose state it is can't be told by --socket: use --config";
        Failure::Usage(what.into())
    })?;
    match command {
        NodeCommand::Enrol(EnrolCommand::Request { out }) => request(boot, out, output),
        NodeCommand::Enrol(EnrolCommand::Accept { certificate }) => {
            accept(boot, certificate, output)
        }
        NodeCommand::Reset { what, yes } => reset(boot, what, *yes, output),
    }
}

fn request(boot: &Boot, out: &Path, output: &Output) -> Ended {
    let node = id(boot)?;
    let request = enrol::request(&boot.state_dir, &node).map_err(Failure::Failed)?;
    fs::write(out, request).map_err(|error| failed(out, &error))?;
    output.text(&format!(
        "A request of node {node} is in {}. Next, where the authority is:\n\
         \x20 purlin fleet certify {0} {node}.pem --authority DIR --node {node}\n\
         and here again:\n\
         \x20 purlin node enrol accept {node}.pem\n",
        out.display()
    ))?;
    Ok(Exit::Ok)
}

fn accept(boot: &Boot, path: &Path, output: &Output) -> Ended {
    let pem = fs::read_to_string(path).map_err(|error| failed(path, &error))?;
    let now = Floor::default().now();
    let accepted = enrol::accept(&boot.state_dir, &id(boot)?, &pem, now);
    let taken = accepted.map_err(|why| Failure::Failed(format!("{}: {why}", path.display())))?;
    let until = units::time(taken.not_after_unix_s * 1000);
    output
        .text(&format!("The certificate for {} is taken; it holds until {until}.\n", taken.node))?;
    Ok(Exit::Ok)
}

/// The node's id, which a state directory may have to be asked for.
fn id(boot: &Boot) -> Result<String, Failure> {
    let made = || fs::read_to_string(boot.state_dir.join("node")).ok();
    let id = boot.node.clone().or_else(|| made().map(|id| id.trim().to_owned()));
    id.ok_or_else(|| Failure::Failed("it has no id yet: start its agent once".into()))
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("{}: {error}", path.display()))
}

fn reset(boot: &Boot, what: &ResetWhat, yes: bool, output: &Output) -> Ended {
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
