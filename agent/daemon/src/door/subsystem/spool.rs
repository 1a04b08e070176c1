//! The limits of the store that telemetry waits in.

use std::{path::PathBuf, sync::Arc};

use nix::sys::statvfs::statvfs;
use purlin_core::{
    identity::Class,
    inventory::Inventory,
    settings::{Refusal, Settings},
};

use super::{Disturbs, Found, Subsystem, Work};
use crate::spool::{self, Spool};

/// The spool.
#[derive(Debug)]
pub struct Storage {
    /// The store.
    pub spool: Spool,
    /// Where it is.
    pub dir: PathBuf,
}

impl Subsystem for Storage {
    fn name(&self) -> &'static str {
        "spool"
    }

    /// A log that has more than it may is cut at its old end.
    fn disturbs<'a>(&'a self, _now: &'a Settings, then: &'a Settings) -> Found<'a> {
        Box::pin(async {
            let figures = self.spool.figures().await.unwrap_or_default();
            let over = figures.iter().filter_map(|log| {
                let class = Class::ALL.into_iter().find(|it| it.name() == log.class)?;
                let over = log.bytes.checked_sub(spool::limits(class, then).cap)?;
                (over > 0).then(|| {
                    format!("the oldest {} MiB of the {} log go", over.div_ceil(1 << 20), log.class)
                })
            });
            let lost: Vec<_> = over.collect();
            if lost.is_empty() { Disturbs::Nothing } else { Disturbs::Loss(lost) }
        })
    }

    fn check(&self, settings: &Settings, _machine: &Inventory) -> Vec<Refusal> {
        let cap = &settings.spool_cap_mib;
        // A file system that can't be asked is no reason to refuse.
        let Ok(disk) = statvfs(&self.dir) else { return Vec::new() };
        let mib = disk.blocks().saturating_mul(disk.fragment_size()) >> 20;
        // The defaults are what it is: they are not refused.
        if !cap.origin.is_desired() || u64::from(cap.value) <= mib {
            return Vec::new();
        }
        vec![Refusal {
            path: "spool.cap_mib".into(),
            value: cap.value.to_string(),
            limit: format!("at most {mib}, the size of the file system under the spool"),
            hint: format!("choose less than what `df {}` shows", self.dir.display()),
        }]
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        let taken = self.spool.limit(settings);
        Box::pin(async move { if taken { Ok(()) } else { Err("its thread is behind".into()) } })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        Box::pin(async move {
            let figures = self.spool.figures().await.ok_or("its thread does not answer")?;
            for class in Class::ALL {
                let limits = spool::limits(class, settings);
                let found = figures.iter().find(|it| it.class == class.name());
                let found = found.map(|it| (it.cap_bytes, u128::from(it.commit_window_ms)));
                if found != Some((limits.cap, limits.window.as_millis())) {
                    return Err(format!("the {} log has other limits: {found:?}", class.name()));
                }
            }
            Ok(())
        })
    }
}
