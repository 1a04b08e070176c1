//! Keeps device interrupts off exclusive CPUs, and on the node of their device, for as long
//! as a container has CPUs for itself alone; then gives all of them back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use purlin_core::{
    idset::IdSet,
    irq::{Affinity, Held, Interrupt, Interrupts, Rule},
};
use serde::{Deserialize, Serialize};

use tokio::task;

use crate::{
    helper::{Changed, Client, What},
    two_files::{Kind, TwoFiles},
};

const KIND: Kind = Kind {
    name: "interrupts",
    magic: *b"PURLIRQ\x01",
    // Some hundred bytes each, of a few thousand at most.
    max_bytes: 4 << 20,
};
/// Interrupts have other numbers after each.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What was made of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Moved {
    /// The boot in which they had these numbers.
    boot: String,
    /// By number; under none, those that are new.
    by_irq: BTreeMap<u32, Held>,
    default: Option<Held>,
}

/// The interrupts.
#[derive(Debug)]
pub struct Keeper {
    files: TwoFiles,
    /// What was made of them, and what of that is on disk: a new agent can give them back.
    moved: Moved,
    stored: Moved,
    /// Those whose driver decides: they were asked once.
    managed: BTreeSet<(u32, String)>,
    /// Why one could not be put elsewhere.
    refused: Option<String>,
}

impl Keeper {
    /// Goes on with what was made of them since this boot.
    pub fn open(state_dir: &Path) -> Self {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        let decode = |payload: &[u8]| serde_json::from_slice(payload).ok();
        let (files, stored, problems) = TwoFiles::open(state_dir, KIND, decode);
        for problem in problems {
            tracing::warn!(problem, "where interrupts were is not known");
        }
        let stored: Moved = stored.unwrap_or_default();
        let same = stored.boot == boot;
        let moved = if same { stored.clone() } else { Moved { boot, ..Moved::default() } };
        Self { files, moved, stored, managed: BTreeSet::new(), refused: None }
    }

    /// How many are elsewhere than they were.
    pub fn count(&self) -> usize {
        self.moved.by_irq.len()
    }

    /// All of them are where they were.
    pub fn is_idle(&self) -> bool {
        self.moved.by_irq.is_empty() && self.moved.default.is_none()
    }

    /// Those that stay where their driver has them, by name.
    pub fn managed(&self) -> Vec<String> {
        self.managed.iter().map(|(irq, name)| format!("{irq} {name}")).collect()
    }

    /// Why one of them is not where it should be.
    pub fn refused(&self) -> Option<&String> {
        self.refused.as_ref()
    }

    /// Puts them where the rule has them.
    pub async fn keep(&mut self, writer: &Client, found: &Interrupts, rule: &Rule<'_>) {
        self.put_all(writer, found, rule).await;
        if self.moved == self.stored {
            return;
        }
        let (mut files, moved) = (self.files.clone(), self.moved.clone());
        let stored = task::spawn_blocking(move || {
            files.store(&serde_json::to_vec(&moved)?)?;
            Ok::<_, io::Error>((files, moved))
        });
        match stored.await.map_err(io::Error::other).flatten() {
            Ok((files, moved)) => (self.files, self.stored) = (files, moved),
            Err(error) => tracing::warn!(%error, "where interrupts were can't be kept"),
        }
    }

    async fn put_all(&mut self, writer: &Client, found: &Interrupts, rule: &Rule<'_>) {
        self.refused = None;
        self.forget(found);
        if rule.off.is_empty() {
            return self.give_back(writer, found).await;
        }
        if let Some(now) = &found.default
            && let Some(cpus) = rule.next_default(now, self.moved.default.as_ref())
            && self.put(writer, None, &cpus).await
        {
            let held = held("", now, cpus);
            self.moved.default = Some(with_original(self.moved.default.take(), held));
        }
        for it in &found.all {
            if self.managed.contains(&(it.irq, it.name.clone())) {
                continue;
            }
            let before = self.moved.by_irq.get(&it.irq);
            let Some(cpus) = rule.next(it, before) else { continue };
            if self.put(writer, Some(it), &cpus).await {
                let before = self.moved.by_irq.remove(&it.irq);
                let held = with_original(before, held(&it.name, &it.allowed, cpus));
                self.moved.by_irq.insert(it.irq, held);
            }
        }
    }

    /// A number that has gone to another device is no longer that interrupt.
    fn forget(&mut self, found: &Interrupts) {
        let is = |irq: u32, name: &str| found.all.iter().any(|it| it.irq == irq && it.name == name);
        self.moved.by_irq.retain(|irq, held| is(*irq, &held.name));
        self.managed.retain(|(irq, name)| is(*irq, name));
    }

    async fn give_back(&mut self, writer: &Client, found: &Interrupts) {
        if let Some(held) = self.moved.default.take()
            && found.default.as_ref() == Some(&held.put)
        {
            self.put(writer, None, &held.original).await;
        }
        for (irq, held) in std::mem::take(&mut self.moved.by_irq) {
            // Where someone else put it since, it stays.
            let now = found.all.iter().find(|it| it.irq == irq && it.allowed == held.put);
            if let Some(now) = now {
                self.put(writer, Some(now), &held.original).await;
            }
        }
    }

    async fn put(&mut self, writer: &Client, it: Option<&Interrupt>, cpus: &IdSet) -> bool {
        let affinity = Affinity { irq: it.map(|it| it.irq), cpus: cpus.clone() };
        match (writer.ask(What::Affinity(affinity)).await.changed(), it) {
            (Changed::Managed, Some(it)) => {
                tracing::info!(irq = it.irq, name = it.name, "its driver decides where it arrives");
                self.managed.insert((it.irq, it.name.clone()));
                false
            }
            (Changed::Refused(why), _) => {
                self.refused = Some(why);
                false
            }
            (Changed::Managed, None) => false,
            _ => true,
        }
    }
}

fn held(name: &str, original: &IdSet, put: IdSet) -> Held {
    Held { name: name.into(), original: original.clone(), put }
}

fn with_original(before: Option<Held>, now: Held) -> Held {
    match before {
        Some(before) => Held { original: before.original, ..now },
        None => now,
    }
}
