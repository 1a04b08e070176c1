//! The task `rack-alarms`: tells the rack, through the mesh's gossip, which alarms are
//! raised on this node, and hears which are on others. The power policy judges by both.
//!
//! Without a mesh that gossips nothing is told and nothing heard. What was heard stays until
//! it is too old, whatever becomes of the mesh.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper::Method;
use purlin_core::{
    power::elsewhere::{Elsewhere, to_tell},
    settings::Settings,
};
use purlin_proto::mesh as view;
use tokio::{sync::watch, time};

use super::ask::ask;
use crate::{alarm::Shown, clock};

/// How often the mesh is asked. What was raised here is told at once.
const EVERY: Duration = Duration::from_secs(2);

/// What the task owns.
#[derive(Debug)]
pub struct Owner {
    /// The mesh's socket.
    pub socket: PathBuf,
    /// This node.
    pub node: String,
    /// The settings in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The alarms that are raised here.
    pub shown: watch::Receiver<Arc<Shown>>,
    /// What others say.
    pub heard: watch::Sender<Elsewhere>,
}

impl Owner {
    /// Tells and hears for ever.
    pub async fn run(&mut self) {
        loop {
            let settings = self.settings.borrow_and_update().clone();
            let shown = self.shown.borrow_and_update().clone();
            let gossips = settings.mesh.value.as_ref();
            let gossips = gossips.is_some_and(|it| !it.table.discovery_keys.is_empty());
            if gossips {
                self.exchange(&settings, &shown).await;
            }
            tokio::select! {
                changed = self.settings.changed() => if changed.is_err() { return },
                changed = self.shown.changed(), if gossips => if changed.is_err() { return },
                () = time::sleep(EVERY), if gossips => {}
            }
        }
    }

    async fn exchange(&self, settings: &Settings, shown: &Shown) {
        let (wanted, now_ms) = (settings.power.value.clone().unwrap_or_default(), clock::unix_ms());
        let alarm = |it: &purlin_core::alarm::Alarm| view::Alarm {
            id: it.id.clone(),
            severity: it.notice.severity.name().into(),
            age_s: (now_ms.saturating_sub(it.raised_unix_ms) / 1000).try_into().unwrap_or(u32::MAX),
        };
        let told = to_tell(&wanted, &self.node, shown.raised.iter());
        let body = view::Alarms { alarms: told.into_iter().map(alarm).collect() };
        let body = serde_json::to_vec(&body).unwrap_or_default().into();
        let asked = ask::<view::Heard>(&self.socket, Method::POST, "/v1/alarms", body).await;
        let Ok(heard) = asked.inspect_err(|why| tracing::debug!(?why, "the rack isn't told"))
        else {
            return;
        };
        let now = clock::since_boot();
        self.heard.send_if_modified(|elsewhere| {
            let mut is_new = false;
            for node in heard.nodes {
                let at = now.saturating_sub(Duration::from_millis(node.ago_ms));
                let ids = node.alarms.into_iter().map(|it| it.id).collect();
                is_new |= elsewhere.hear(&node.node, at, ids);
            }
            is_new
        });
    }
}
