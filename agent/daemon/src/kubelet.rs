//! The task `kubelet`: owns what kubelet's own managers gave out, as last read.
//!
//! Their files are root's alone, so the helper reads them: as often as kubelet itself sets
//! its containers right, and before a container is placed where kubelet gives CPUs out. What
//! can't be read is as it was, and a fault. It decides nothing: placement does.

use std::{path::Path, sync::Arc, time::Duration};

use purlin_core::place::kubelet::Kubelet;
use purlin_drivers::kubelet::DIR;
use purlin_proto::api;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

use crate::helper::{self, What};

/// Kubelet sets the cpusets of its containers right as often (`cpuManagerReconcilePeriod`).
const EVERY: Duration = Duration::from_secs(10);
/// What a container that is about to be created waits for it: its runtime waits 2 s for us.
const REFRESH: Duration = Duration::from_millis(250);
/// Of those that may wait; each is answered by the same read.
const INBOX: usize = 16;

/// What is known of kubelet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What it gave out; `None` where its CPU manager gives nothing out.
    pub gave: Option<Arc<Kubelet>>,
    /// Why that is not as of now.
    pub problem: Option<String>,
    /// It was looked for.
    pub is_known: bool,
}

/// Looks again when asked; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    asks: mpsc::Sender<oneshot::Sender<()>>,
    state: watch::Receiver<State>,
}

impl Client {
    /// Where kubelet gives CPUs out, waits until what it gave last is published.
    pub async fn refresh(&self) {
        if self.state.borrow().gave.is_none() {
            return;
        }
        let (reply, read) = oneshot::channel();
        // If nobody reads it, what was read last holds.
        if self.asks.try_send(reply).is_ok() {
            _ = time::timeout(REFRESH, read).await;
        }
    }
}

/// Owns it.
#[derive(Debug)]
pub struct Owner {
    helper: helper::Client,
    publish: watch::Sender<State>,
    asks: mpsc::Receiver<oneshot::Sender<()>>,
}

/// A client, what is known, and its owner, who reads by that helper.
pub fn new(helper: helper::Client) -> (Client, watch::Receiver<State>, Owner) {
    let (ask, asks) = mpsc::channel(INBOX);
    let (publish, state) = watch::channel(State::default());
    (Client { asks: ask, state: state.clone() }, state, Owner { helper, publish, asks })
}

impl Owner {
    /// Works for ever.
    pub async fn run(&mut self) {
        self.read().await;
        loop {
            let mut waiting = Vec::new();
            // Nothing is lost when one of them is dropped while it waits.
            if let Ok(Some(asks)) = time::timeout(EVERY, self.asks.recv()).await {
                waiting.push(asks);
            }
            while let Ok(asks) = self.asks.try_recv() {
                waiting.push(asks);
            }
            self.read().await;
            // Who waits no more has gone on with what was there.
            waiting.into_iter().for_each(|reply| _ = reply.send(()));
        }
    }

    async fn read(&mut self) {
        let (gave, problem) = match Path::new(DIR).exists() {
            false => (None, None),
            true => {
                let answer = self.helper.ask(What::Kubelet).await;
                let problem = answer.problems.first().map(|it| format!("{}: {}", it.at, it.what));
                (answer.kubelet, problem)
            }
        };
        self.publish.send_if_modified(|state| {
            let gave = match (gave, &problem) {
                // Unknown is not gone.
                (None, Some(_)) => state.gave.clone(),
                (gave, _) => gave.map(Arc::new),
            };
            let before = std::mem::replace(state, State { gave, problem, is_known: true });
            match (&state.problem, &state.gave) {
                _ if *state == before => return false,
                (Some(problem), _) => {
                    tracing::warn!(problem, "what kubelet gave out is as last read");
                }
                (None, Some(gave)) => {
                    let (shared, given) = (gave.shared.to_string(), gave.exclusive().to_string());
                    tracing::info!(shared, given, "kubelet gives CPUs out");
                }
                (None, None) if before.gave.is_some() => {
                    tracing::info!("kubelet gives no CPUs out any more");
                }
                (None, None) => {}
            }
            true
        });
    }
}

/// What is wrong, and what to do next.
pub fn faults(state: &watch::Receiver<State>) -> Option<api::Fault> {
    let state = state.borrow();
    let what = state.problem.as_ref()?;
    let next = "see that purlin-helper.socket is enabled and what kubelet's log says of the file; \
                until then kubelet's CPUs are those that were read last, and those it passes to \
                the runtime";
    Some(api::Fault { id: "kubelet-unread".into(), what: what.clone(), next: next.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_waits_where_kubelet_gives_nothing_out() {
        let (helper, _) = helper::writer();
        let (client, state, _owner) = new(helper);
        time::timeout(Duration::from_secs(10), client.refresh()).await.expect("at once");
        assert_eq!(faults(&state), None);
    }
}
