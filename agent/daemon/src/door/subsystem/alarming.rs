//! The alarms' rules. Their owner watches what is sent here, and shows by which it judges.

use std::{sync::Arc, time::Duration};

use purlin_core::settings::Settings;
use tokio::{sync::watch, time};

use super::{Subsystem, Work};
use crate::alarm::Shown;

/// Rules hold from the next reading on.
const SETTLE: Duration = Duration::from_secs(5);

/// The alarms.
#[derive(Debug)]
pub struct Alarming {
    /// What their owner is told.
    pub settings: watch::Sender<Arc<Settings>>,
    /// What it judges by.
    pub shown: watch::Receiver<Arc<Shown>>,
}

impl Subsystem for Alarming {
    fn name(&self) -> &'static str {
        "alarms"
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        self.settings.send_replace(settings);
        Box::pin(async { Ok(()) })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let mut shown = self.shown.clone();
        Box::pin(async move {
            let wanted = &settings.alarm_rules.value;
            let judges = |shown: &Arc<Shown>| *shown.rules == *wanted;
            let waited = time::timeout(SETTLE, shown.wait_for(judges)).await;
            waited.map(drop).map_err(|_| "alarms are still judged by other rules".into())
        })
    }
}
