//! The support bundle: what a support engineer asks for first, as one archive in the
//! spool, whose records take it to the core as all else is taken.
//!
//! It is a gzipped tar, in records of class log one after the other: lines of source
//! [`SOURCE`] whose text is base64 of a part, with its number, how many there are and the
//! command's id. Secrets are files that settings only name, so that it has none.

use std::{fs, io};

use base64::{Engine, prelude::BASE64_STANDARD};
use purlin_core::identity::Class;
use purlin_drivers::Archive;
use purlin_proto::{
    api,
    v1::{Line, record::Body},
};
use serde::Serialize;
use tokio::{sync::oneshot, task};

use super::{
    Came, Owner,
    carry_out::{done, failed},
};
use crate::{alarm, audit, door::Ask, trust};

/// Whose lines its parts are.
pub const SOURCE: &str = "support-bundle";
/// A part's bytes: as base64 well below a record's limit.
const PART_BYTES: usize = 32 << 10;
/// The largest bundle, packed: a machine of 256 PUs has some 100 KiB.
pub const MAX_BYTES: usize = 4 << 20;
/// Of what the machine says of itself beside its inventory, and the most of each.
const FILES: [&str; 7] = [
    "/etc/os-release",
    "/proc/cmdline",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/mounts",
    "/proc/uptime",
    "/proc/version",
];
const MAX_FILE_BYTES: usize = 64 << 10;

impl Owner {
    /// Puts it into the spool, where it is durable before this is answered.
    pub(super) async fn support_bundle(&self, id: &[u8]) -> Came {
        match self.bundle(id).await {
            Ok(text) => done(text),
            Err(why) => failed(why),
        }
    }

    async fn bundle(&self, id: &[u8]) -> Result<String, String> {
        let archive = self.collect().await?;
        let node = &self.wiring.sources.identity.node;
        let top = format!("purlin-{node}");
        let packed = task::spawn_blocking(move || archive.pack_gzip(&top)).await;
        let packed = packed.map_err(|error| error.to_string())?.map_err(text)?;
        if packed.len() > MAX_BYTES {
            return Err(format!("{} bytes, packed: at most {MAX_BYTES}", packed.len()));
        }
        let sha256 = hex::encode(trust::sha256(&packed));
        let parts: Vec<&[u8]> = packed.chunks(PART_BYTES).collect();
        let records = parts.iter().enumerate().map(|(n, part)| {
            let attributes = [
                ("command", hex::encode(id)),
                ("part", (n + 1).to_string()),
                ("parts", parts.len().to_string()),
                ("sha256", sha256.clone()),
            ];
            let attributes = attributes.map(|(key, value)| (key.to_owned(), value)).into();
            let text = BASE64_STANDARD.encode(part);
            let line = Line { source: SOURCE.into(), severity: "info".into(), text, attributes };
            self.wiring.clock.stamp(Body::Line(line))
        });
        let records: Vec<_> = records.collect();
        let busy = "the spool is busy: try again";
        let last = self.wiring.spool.take(Class::Log, records).await.ok_or(busy)?;
        self.wiring.spool.commit().await.ok_or(busy)?;
        Ok(format!(
            "{} bytes, SHA-256 {sha256}, are in the spool: {} records of class log up to {last}",
            packed.len(),
            parts.len()
        ))
    }

    async fn collect(&self) -> Result<Archive, String> {
        let mut archive = Archive::default();
        let sources = &self.wiring.sources;
        let (config, asked) = oneshot::channel();
        let (history, told) = oneshot::channel();
        let away = |_| "the configuration's task is away: try again";
        self.wiring.door.send(Ask::Config(config)).await.map_err(|_| away(()))?;
        self.wiring.door.send(Ask::History(history)).await.map_err(|_| away(()))?;
        let config = asked.await.map_err(|_| away(()))?;
        let queue = api::Queue {
            incarnation: sources.identity.incarnation.to_string(),
            classes: self.wiring.spool.figures().await.unwrap_or_default(),
            sources: Vec::new(),
        };
        put(&mut archive, "status", &sources.status(queue, config.active.clone()))?;
        put(&mut archive, "config", &config)?;
        put(&mut archive, "history", &told.await.map_err(|_| away(()))?)?;
        put(&mut archive, "inventory", &**self.wiring.inventory.borrow())?;
        put(&mut archive, "alarms", &alarm::views(&sources.alarms.borrow()))?;
        put(&mut archive, "placement", &**sources.enforced.borrow())?;
        if let Some(log) = self.wiring.lines.after(0).await {
            put(&mut archive, "log", &log)?;
        }
        let dir = sources.state_dir.join(audit::store::DIR);
        let read = task::spawn_blocking(move || audit::store::read(&dir, Vec::new())).await;
        // A log that can't be read is one of its faults, and no reason to send nothing.
        if let Ok(Ok(read)) = read {
            put(&mut archive, "audit", &audit::view(read))?;
        }
        for path in FILES {
            if let Ok(mut content) = fs::read(path) {
                content.truncate(MAX_FILE_BYTES);
                archive.put_file(path, content).map_err(text)?;
            }
        }
        Ok(archive)
    }
}

fn put(archive: &mut Archive, name: &str, content: &impl Serialize) -> Result<(), String> {
    let content = serde_json::to_vec_pretty(content).map_err(|error| error.to_string())?;
    archive.put_file(&format!("/{name}.json"), content).map_err(text)
}

fn text(error: io::Error) -> String {
    error.to_string()
}
