//! Where what waits is read: from the agent, which alone knows what it is removing
//! meanwhile, or with it dead from the state directory, under its lock.

use prost::{Message, bytes::Bytes};
use purlin_core::identity::Class;
use purlin_daemon::{boot::Boot, offline::Spooled};
use purlin_proto::{
    api::{Queue, Status},
    v1,
};

use crate::{
    args::Global,
    client::Client,
    exit::{Failure, Unreachable},
    output::note,
};

/// A spool to be read.
pub enum Source {
    /// Of an agent that answers.
    Agent(Box<Client>),
    /// Of one that is dead.
    Disk(Box<Spooled>, Box<Queue>),
}

/// Whose spool it is.
pub struct Owner {
    pub fleet: String,
    pub node: String,
    pub incarnation: u64,
}

impl Source {
    /// Asks the agent, and looks at the disk if nobody answers.
    pub async fn open(global: &Global) -> Result<(Self, Owner), Failure> {
        let client = Client::find(global)?;
        match (client.get::<Status>("/v1/status").await, client.boot()) {
            (Ok(answer), _) => {
                let Status { fleet, node, incarnation, .. } = answer.document;
                let incarnation = u64::from_str_radix(&incarnation, 16)
                    .map_err(|_| Failure::Failed("the agent tells no incarnation".into()))?;
                Ok((Source::Agent(Box::new(client)), Owner { fleet, node, incarnation }))
            }
            (Err(Failure::Unreachable(unreachable)), Some(boot)) => from_disk(boot, unreachable),
            (Err(failure), _) => Err(failure),
        }
    }

    /// What waits of a class from a number on; from the first with 0.
    pub async fn batch(&mut self, class: Class, from: u64) -> Result<Option<v1::Batch>, Failure> {
        match self {
            Source::Disk(spooled, _) => spooled.batch(class, from).map_err(Failure::Failed),
            Source::Agent(client) => {
                let path = format!("/v1/queue/batch?class={}&from={from}", class.name());
                let bytes = client.get_bytes(&path).await?;
                if bytes.is_empty() {
                    return Ok(None);
                }
                let batch = v1::Batch::decode(bytes);
                batch.map(Some).map_err(|error| Failure::Failed(format!("{path}: {error}")))
            }
        }
    }

    /// A dictionary by its hash, encoded; `None` if it is lost.
    pub async fn dictionary(&self, hash: u64) -> Result<Option<Bytes>, Failure> {
        match self {
            Source::Disk(spooled, _) => Ok(spooled.dictionary(hash)),
            Source::Agent(client) => {
                let path = format!("/v1/queue/dictionary/{hash:016x}");
                match client.get_bytes(&path).await {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(Failure::Failed(_)) => Ok(None),
                    Err(failure) => Err(failure),
                }
            }
        }
    }

    /// How each class stands.
    pub async fn figures(&self) -> Result<Queue, Failure> {
        match self {
            Source::Disk(_, queue) => Ok((**queue).clone()),
            Source::Agent(client) => Ok(client.get("/v1/queue").await?.document),
        }
    }
}

fn from_disk(boot: &Boot, unreachable: Unreachable) -> Result<(Source, Owner), Failure> {
    let found = unreachable.found.to_string();
    let read = || Ok((Spooled::open(boot)?, purlin_daemon::offline::queue(boot)?));
    let (spooled, queue) = read().map_err(|why: String| {
        note(&format!("{} can't be read either: {why}", boot.state_dir.display()));
        Failure::Unreachable(unreachable)
    })?;
    note(&format!("the agent can't be reached ({found}); reading {}", boot.state_dir.display()));
    let it = spooled.identity();
    let owner =
        Owner { fleet: it.fleet.clone(), node: it.node.clone(), incarnation: it.incarnation.0 };
    Ok((Source::Disk(Box::new(spooled), Box::new(queue)), owner))
}
