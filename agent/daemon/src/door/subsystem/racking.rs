//! The rack's buses. Their task watches what is sent here, and shows the buses it runs.
//! Whether a port is there is not asked: an adapter may be plugged in later.

use std::{sync::Arc, time::Duration};

use purlin_core::settings::Settings;
use tokio::{sync::watch, time};

use super::{Disturbs, Found, Subsystem, Work};
use crate::rack::run::View;

/// Buses are ended and begun at once; a turn that is under way is dropped.
const SETTLE: Duration = Duration::from_secs(5);

/// The rack.
#[derive(Debug)]
pub struct Racking {
    /// What its task is told.
    pub settings: watch::Sender<Arc<Settings>>,
    /// The buses that it runs.
    pub view: watch::Receiver<View>,
}

impl Subsystem for Racking {
    fn name(&self) -> &'static str {
        "rack"
    }

    /// All buses begin anew where any differs.
    fn disturbs<'a>(&'a self, now: &'a Settings, then: &'a Settings) -> Found<'a> {
        let [before, after] = [now, then].map(|it| &it.rack.value);
        let gone = before.iter().filter(|bus| !after.iter().any(|it| it.name == bus.name));
        let gone = gone.map(|bus| format!("bus {} is not read any more", bus.name));
        let read = after.iter().map(|bus| match before.iter().any(|it| it.name == bus.name) {
            true => format!("bus {} begins anew", bus.name),
            false => format!("bus {} is read", bus.name),
        });
        let what = gone.chain(read).collect();
        Box::pin(
            async move { if before == after { Disturbs::Nothing } else { Disturbs::Reload(what) } },
        )
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        self.settings.send_replace(settings);
        Box::pin(async { Ok(()) })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let mut view = self.view.clone();
        Box::pin(async move {
            let runs = |view: &View| {
                let wanted = settings.rack.value.iter();
                let wanted = wanted.map(|bus| (bus.name.clone(), bus.port.to_string()));
                let shown = view.iter().map(|bus| {
                    let bus = bus.borrow();
                    (bus.name.clone(), bus.port.clone())
                });
                wanted.eq(shown)
            };
            let waited = time::timeout(SETTLE, view.wait_for(runs)).await;
            waited.map(drop).map_err(|_| "other buses are still run".into())
        })
    }
}
