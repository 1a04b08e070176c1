//! Who publishes a document with a response topic (MQTT 5) is answered there once it is
//! clear what became of it: with what the node reports, and the correlation data.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use purlin_proto::{
    api,
    v1::{Outcome, Reported},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time,
};

use super::{Message, Reply};

/// Answers that are owed at once; whoever asks beyond that reads `reported`.
const MAX_OWED: usize = 8;
/// A trial is over by then; who waits for an override to end is told that it waits.
const WITHIN: Duration = Duration::from_secs(900);

/// The answers that are owed; they outlive a session.
#[derive(Debug, Default)]
pub(super) struct Asked(JoinSet<()>);

impl Asked {
    /// Answers once the verdict is there and no trial is open.
    pub(super) fn owe(
        &mut self,
        asked: Option<Reply>,
        verdict: oneshot::Receiver<api::Verdict>,
        mut reported: watch::Receiver<Arc<Reported>>,
        results: mpsc::Sender<Message>,
    ) {
        while self.0.try_join_next().is_some() {}
        let Some(Reply { topic: Some(topic), correlation }) = asked else { return };
        if self.0.len() >= MAX_OWED {
            tracing::warn!(topic, "{MAX_OWED} answers are owed: this one is left out");
            return;
        }
        self.0.spawn(async move {
            let Ok(verdict) = verdict.await else { return };
            let is_over = reported.wait_for(|reported| {
                reported.desired.as_ref().is_some_and(|desired| {
                    hex::encode(&desired.sha256) == verdict.sha256
                        && !matches!(desired.outcome(), Outcome::Trial | Outcome::Waiting)
                })
            });
            _ = time::timeout(WITHIN, is_over).await;
            let payload = reported.borrow().encode_to_vec().into();
            let reply = correlation.map(|it| Reply { topic: None, correlation: Some(it) });
            _ = results.try_send(Message { topic, payload, retain: false, reply });
        });
    }
}
