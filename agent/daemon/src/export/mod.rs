//! What is handed to others on site: samples that are read ([`scrape`]), and records that
//! are posted as they come ([`push`]).
//!
//! Both hear what goes to the spool, and neither is ever waited for: whoever is late
//! misses what came meanwhile, and it is counted. The core gets everything all the same.

use std::{collections::HashMap, fs, sync::Arc, time::Duration};

use prost::Message;
use purlin_core::settings::{Export, Settings};
use purlin_proto::v1::Dictionary;
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time};

pub use self::push::Counts;
use crate::{door::Identity, otlp::Whose, spool::Spool};

mod push;
mod scrape;

/// A part that ended, or that could not begin, is started again after this time.
const RESTART_AFTER: Duration = Duration::from_secs(5);
/// Dictionaries that are remembered: each source has one.
const MAX_DICTIONARIES: usize = 256;

/// What there is to see of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// What is in force.
    pub settings: Option<Export>,
    /// Why some of that is not so.
    pub error: Option<String>,
}

/// What it needs.
#[derive(Clone, Debug)]
pub struct Source {
    /// Whose records these are.
    pub identity: Identity,
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// What is heard.
    pub spool: Spool,
    /// What became of what was posted.
    pub counts: Arc<Counts>,
    /// What it shows.
    pub view: watch::Sender<View>,
}

/// Runs for ever.
pub async fn run(mut source: Source) -> Result<(), String> {
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let whose = Whose {
        fleet: source.identity.fleet.clone(),
        node: source.identity.node.clone(),
        incarnation: source.identity.incarnation.0,
        relay: None,
        host_name: host_name.map(|name| name.trim().to_owned()),
    };
    loop {
        let wanted = source.settings.borrow_and_update().export.value.clone();
        let (mut parts, mut error) = (JoinSet::new(), None);
        if let Some(port) = wanted.openmetrics_port {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => {
                    _ = parts.spawn(scrape::serve(listener, whose.clone(), source.spool.clone()));
                }
                Err(why) => error = Some(format!("127.0.0.1:{port}: {why}")),
            }
        }
        if let Some(to) = &wanted.otlp {
            let (spool, counts) = (source.spool.clone(), source.counts.clone());
            parts.spawn(push::run(to.clone(), whose.clone(), spool, counts));
        }
        if let Some(why) = &error {
            tracing::warn!(why, again_in = ?RESTART_AFTER, "samples can't be read on site");
        }
        let failed = error.is_some();
        source.view.send_replace(View { settings: Some(wanted.clone()), error });
        tokio::select! {
            () = other(&mut source.settings, &wanted) => {}
            Some(ended) = parts.join_next() => {
                let why = ended.unwrap_or_else(|error| error.to_string());
                tracing::warn!(why, again_in = ?RESTART_AFTER, "a part of the export ended");
                source.view.send_modify(|view| view.error = Some(why));
                time::sleep(RESTART_AFTER).await;
            }
            () = time::sleep(RESTART_AFTER), if failed => {}
        }
        // Its port is free when the next one wants it.
        parts.shutdown().await;
    }
}

/// Until something else is wanted. The configuration's task goes with the agent.
async fn other(settings: &mut watch::Receiver<Arc<Settings>>, now: &Export) {
    if settings.wait_for(|it| it.export.value != *now).await.is_err() {
        std::future::pending().await
    }
}

/// What the values of samples are.
#[derive(Debug, Default)]
struct Names(HashMap<u64, Arc<Dictionary>>);

impl Names {
    async fn of(&mut self, hash: u64, spool: &Spool) -> Option<Arc<Dictionary>> {
        if let Some(known) = self.0.get(&hash) {
            return Some(known.clone());
        }
        let dictionary = Arc::new(Dictionary::decode(spool.dictionary(hash).await?).ok()?);
        if self.0.len() >= MAX_DICTIONARIES {
            self.0.clear();
        }
        self.0.insert(hash, dictionary.clone());
        Some(dictionary)
    }
}
