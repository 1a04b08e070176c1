//! Placement's owner: it alone knows who is where and decides where others go.
//!
//! Whoever sees containers (the NRI plugin, the OCI runtime wrapper, the scan of cgroups)
//! tells it through a [`Client`]; what every cpuset should be comes out of a `watch`
//! channel. It writes no cgroup itself.

use std::net::SocketAddr;

use purlin_core::place::{
    book::{Grant, Overview, Rules},
    container::{Container, Identity, Via},
    decide::{Answer, Refusal},
    repack::Plan,
    request::Request,
    targets::Update,
};
use tokio::sync::{mpsc, oneshot};

pub mod features;
mod last;
mod owner;
mod store;
mod tell;

pub use last::LastPlan;
pub use owner::{Owner, Sources};
pub use store::Store;
pub use tell::Teller;

/// Questions that may wait for the owner: each takes it about a millisecond.
pub const INBOX: usize = 64;

/// What the mesh is told of containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// What they serve, by their annotations: a service, where, and which container.
    pub services: Vec<(String, SocketAddr, String)>,
    /// Who they are, for its rules.
    pub identities: Vec<Identity>,
}

/// What the owner is asked.
#[derive(Debug)]
pub enum Ask {
    /// A container is about to be created: where does it go?
    Create(Container, oneshot::Sender<Result<Grant, Box<Refusal>>>),
    /// A container's resources are about to be changed.
    Update(Container, oneshot::Sender<Result<Grant, Box<Refusal>>>),
    /// A container is gone.
    Remove(String, oneshot::Sender<Vec<Update>>),
    /// These are all the containers that were seen in one way.
    Adopt(Via, Vec<Container>, oneshot::Sender<Vec<Update>>),
    /// Give every cpuset back, or take it again.
    Pause(bool, oneshot::Sender<Vec<Update>>),
    /// Who is where.
    Overview(oneshot::Sender<Overview>),
    /// Where would it go now?
    WhatIf(Request, oneshot::Sender<Answer>),
    /// Which containers matter less than this?
    Below(u32, oneshot::Sender<Vec<String>>),
    /// Who would move under other rules of the settings, from where to where?
    Preview(Rules, oneshot::Sender<Vec<String>>),
    /// Who would have to move so that it fits, with so many bytes of memory; and move them.
    Repack(Request, u64, bool, oneshot::Sender<Result<Plan, String>>),
}

/// Asks the owner; cheap to clone. Every answer is `None` if the owner is about to restart
/// or to end.
#[derive(Clone, Debug)]
pub struct Client(pub mpsc::Sender<Ask>);

impl Client {
    /// A container is about to be created: what it gets, or why it can't be placed.
    pub async fn create(&self, container: Container) -> Option<Result<Grant, Box<Refusal>>> {
        self.ask(|reply| Ask::Create(container, reply)).await
    }

    /// A container's resources are about to be changed: what it gets then.
    pub async fn update(&self, container: Container) -> Option<Result<Grant, Box<Refusal>>> {
        self.ask(|reply| Ask::Update(container, reply)).await
    }

    /// A container is gone: what others may have now.
    pub async fn remove(&self, id: &str) -> Option<Vec<Update>> {
        self.ask(|reply| Ask::Remove(id.to_owned(), reply)).await
    }

    /// These are all the containers there are, as seen in one way: what has to change.
    pub async fn adopt(&self, via: Via, all: Vec<Container>) -> Option<Vec<Update>> {
        self.ask(|reply| Ask::Adopt(via, all, reply)).await
    }

    /// Gives every cpuset back, or takes it again: what has to change.
    pub async fn pause(&self, paused: bool) -> Option<Vec<Update>> {
        self.ask(|reply| Ask::Pause(paused, reply)).await
    }

    /// Who is where.
    pub async fn overview(&self) -> Option<Overview> {
        self.ask(Ask::Overview).await
    }

    /// Where a workload would go now.
    pub async fn what_if(&self, request: Request) -> Option<Answer> {
        self.ask(|reply| Ask::WhatIf(request, reply)).await
    }

    /// Ids of containers that matter less than this.
    pub async fn below(&self, priority: u32) -> Option<Vec<String>> {
        self.ask(|reply| Ask::Below(priority, reply)).await
    }

    /// Who would move under other rules of the settings, a line each.
    pub async fn preview(&self, rules: Rules) -> Option<Vec<String>> {
        self.ask(|reply| Ask::Preview(rules, reply)).await
    }

    /// Who would have to move so that a workload fits, with no more than `budget` bytes of
    /// memory to follow; `apply` moves them.
    pub async fn repack(
        &self,
        request: Request,
        budget: u64,
        apply: bool,
    ) -> Option<Result<Plan, String>> {
        self.ask(|reply| Ask::Repack(request, budget, apply, reply)).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(ask(reply)).await.ok()?;
        answer.await.ok()
    }
}
