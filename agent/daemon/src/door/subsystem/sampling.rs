//! How often each sampler samples. Its tasks watch what is sent here, and say at what
//! interval they really run.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use purlin_core::{metric::Sampler, settings::Settings};
use tokio::{sync::watch, time};

use super::{Subsystem, Work};

/// The interval at which each sampler runs.
pub type Ticking = BTreeMap<Sampler, Duration>;

/// A sampler may be in the middle of a read.
const SETTLE: Duration = Duration::from_secs(5);

/// The samplers.
#[derive(Debug)]
pub struct Sampling {
    /// What they are told.
    pub settings: watch::Sender<Arc<Settings>>,
    /// What they do.
    pub ticking: watch::Receiver<Ticking>,
    /// Set by this project's own tests: that one's interval is not the configured one.
    pub test: Option<Sampler>,
}

impl Subsystem for Sampling {
    fn name(&self) -> &'static str {
        "sampling"
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        self.settings.send_replace(settings);
        Box::pin(async { Ok(()) })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let late = |ticking: &Ticking| {
            let mut samplers = Sampler::ALL.into_iter().filter(|it| Some(*it) != self.test);
            samplers.find(|it| ticking.get(it) != Some(&settings.interval(*it)))
        };
        let mut ticking = self.ticking.clone();
        Box::pin(async move {
            let settled = ticking.wait_for(|ticking| late(ticking).is_none());
            if time::timeout(SETTLE, settled).await.is_ok() {
                return Ok(());
            }
            let Some(sampler) = late(&self.ticking.borrow()) else { return Ok(()) };
            let wanted = settings.interval(sampler);
            Err(format!("sampler {} does not run every {wanted:?}", sampler.name()))
        })
    }
}
