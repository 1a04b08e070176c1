//! The power policy. Its task watches what is sent here, and shows by which stages it judges.

use std::{sync::Arc, time::Duration};

use purlin_core::{
    power::{Policy, Wanted},
    settings::Settings,
};
use tokio::{sync::watch, time};

use super::{Disturbs, Found, Subsystem, Work};
use crate::{clock, power::Raised};

/// A stage that is under way is done first, and tells the rack for up to ten seconds.
const SETTLE: Duration = Duration::from_secs(5);

/// The power policy.
#[derive(Debug)]
pub struct Powering {
    /// What its task is told.
    pub settings: watch::Sender<Arc<Settings>>,
    /// What it judges by; `None` until it runs.
    pub judges: watch::Receiver<Option<Wanted>>,
    /// The alarms that it would judge.
    pub raised: Raised,
}

impl Subsystem for Powering {
    fn name(&self) -> &'static str {
        "power"
    }

    /// What alarms that are raised now would have it do at once.
    fn disturbs<'a>(&'a self, now: &'a Settings, then: &'a Settings) -> Found<'a> {
        Box::pin(async move {
            let raised = self.raised.now();
            let does = |settings: &Settings| {
                let wanted = settings.power.value.clone().unwrap_or_default();
                let raised = raised.iter().map(String::as_str);
                let stage = Policy::default().judge(&wanted, raised, clock::since_boot()).stage;
                let begun = if wanted.rehearse { &[] } else { &wanted.stages[..stage] };
                let begun = begun.iter().map(|it| (it.name.clone(), it.does()));
                begun.collect::<Vec<_>>()
            };
            let before = does(now);
            let mut begin = does(then);
            begin.retain(|stage| !before.contains(stage));
            let told = |(name, does): (String, Vec<String>)| {
                format!("stage {name} begins at once: {}", does.join(", "))
            };
            match begin.is_empty() {
                true => Disturbs::Nothing,
                false => Disturbs::Stages(begin.into_iter().map(told).collect()),
            }
        })
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        self.settings.send_replace(settings);
        Box::pin(async { Ok(()) })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let mut judges = self.judges.clone();
        Box::pin(async move {
            let wanted = settings.power.value.clone().unwrap_or_default();
            let is_it = |judges: &Option<Wanted>| judges.as_ref() == Some(&wanted);
            let waited = time::timeout(SETTLE, judges.wait_for(is_it)).await;
            match waited {
                // Of another machine's dump nobody judges anything.
                Ok(_) => Ok(()),
                Err(_) => Err("power is still judged by other stages".into()),
            }
        })
    }
}
