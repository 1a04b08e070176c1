//! `purlin node`: the node as such.

use std::{fs, io, path::Path};

use purlin_daemon::{
    boot::Boot,
    clock::Floor,
    enrol::{self, Certificate, certificate, token},
    machine, reset,
};
use purlin_proto::topic::Topics;
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
pub async fn run(command: &NodeCommand, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    let boot = client.boot().ok_or_else(|| {
        let what = "whose state it is can't be told by --socket: use --config";
        Failure::Usage(what.into())
    })?;
    match command {
        NodeCommand::Enrol { command: Some(EnrolCommand::Request { out }), .. } => {
            request(boot, out, output)
        }
        NodeCommand::Enrol { command: Some(EnrolCommand::Accept { certificate }), .. } => {
            accept(boot, certificate, output)
        }
        NodeCommand::Enrol { command: None, token_file: Some(file) } => {
            by_token(boot, file, output).await
        }
        NodeCommand::Enrol { command: None, token_file: None } => Err(Failure::Usage(
            "say --token-file FILE, or request or accept to do it by files".into(),
        )),
        NodeCommand::Accept => {
            machine::accept(&boot.state_dir).map_err(Failure::Failed)?;
            output.text(
                "The node is this machine from now on; its agent takes that up in seconds.\n",
            )?;
            Ok(Exit::Ok)
        }
        NodeCommand::Reset { what, yes } => reset(boot, what, *yes, output),
    }
}

async fn by_token(boot: &Boot, file: &Path, output: &Output) -> Ended {
    let node = own(boot)?;
    let token = match file == Path::new("-") {
        true => token::parse(&io::read_to_string(io::stdin())?).map(Some),
        false => token::read(file),
    };
    let token = token.map_err(Failure::Failed)?;
    let token = token.ok_or_else(|| failed(file, &io::ErrorKind::NotFound.into()))?;
    let mqtt = boot.asker(&node.id);
    let at = boot.enrol.endpoint.clone();
    let at = at.or_else(|| boot.start.endpoint.as_ref().map(|(endpoint, _)| endpoint.clone()));
    let at = at.ok_or_else(|| {
        let what = "there is no broker to ask at: name it in enrol.endpoint or uplink.endpoint of \
                    the agent's file";
        Failure::Failed(what.into())
    })?;
    let taken = async {
        let request = node.ask_by_token(&token)?;
        let topics = Topics::new(&node.fleet, &node.id);
        let chain = enrol::ask(&mqtt, &at, &topics, &request).await?;
        mqtt.floor.learn(node.judge_first(&chain, &token, mqtt.floor.now())?);
        node.accept(&certificate::pem(&chain), mqtt.floor.now())
    };
    taken_up(&taken.await.map_err(Failure::Failed)?, output)
}

fn request(boot: &Boot, out: &Path, output: &Output) -> Ended {
    let node = own(boot)?;
    let request = node.request().map_err(Failure::Failed)?;
    let request = request.pem().map_err(|error| Failure::Failed(error.to_string()))?;
    fs::write(out, request).map_err(|error| failed(out, &error))?;
    output.text(&format!(
        "A request of node {id} is in {0}. Next, where the authority is:\n\
         \x20 purlin fleet certify {0} {id}.pem --authority DIR --node {id}\n\
         and here again:\n\
         \x20 purlin node enrol accept {id}.pem\n",
        out.display(),
        id = node.id,
    ))?;
    Ok(Exit::Ok)
}

fn accept(boot: &Boot, path: &Path, output: &Output) -> Ended {
    let pem = fs::read_to_string(path).map_err(|error| failed(path, &error))?;
    let accepted = own(boot)?.accept(&pem, Floor::default().now());
    let taken = accepted.map_err(|why| Failure::Failed(format!("{}: {why}", path.display())))?;
    taken_up(&taken, output)
}

fn taken_up(taken: &Certificate, output: &Output) -> Ended {
    let until = units::time(taken.not_after_unix_s * 1000);
    output
        .text(&format!("The certificate for {} is taken; it holds until {until}.\n", taken.node))?;
    Ok(Exit::Ok)
}

/// Whose certificate it is.
fn own(boot: &Boot) -> Result<enrol::Node, Failure> {
    if !boot.state_dir.is_dir() {
        let dir = boot.state_dir.display();
        return Err(Failure::Failed(format!("there is no {dir} yet: start the agent once")));
    }
    Ok(enrol::Node {
        state: boot.state_dir.clone(),
        fleet: boot.fleet.clone(),
        id: id(boot)?,
        key: boot.key.clone(),
    })
}

/// The node's id, which a state directory may have to be asked for.
fn id(boot: &Boot) -> Result<String, Failure> {
    let made = || fs::read_to_string(boot.state_dir.join("node")).ok();
    let id = boot.node.clone().or_else(|| made().map(|id| id.trim().to_owned()));
    id.ok_or_else(|| Failure::Failed("it has no id yet: start its agent once".into()))
}

fn failed(path: &Path, error: &io::Error) -> Failure {
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
