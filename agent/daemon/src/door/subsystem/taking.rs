//! What workloads may hand in. Its owner watches what is sent here, and shows what it
//! has in force.

use std::{sync::Arc, time::Duration};

use purlin_core::settings::Settings;
use tokio::{net::TcpListener, sync::watch, time};

use super::{Subsystem, Work};
use crate::intake::View;

/// For listeners to end and others to begin.
const SETTLE: Duration = Duration::from_secs(8);

/// The intake.
#[derive(Debug)]
pub struct Taking {
    /// What its owner is told.
    pub settings: watch::Sender<Arc<Settings>>,
    /// What it has in force.
    pub view: watch::Receiver<View>,
}

impl Subsystem for Taking {
    fn name(&self) -> &'static str {
        "intake"
    }

    fn prepare<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let now = self.view.borrow().settings.as_ref().and_then(|it| it.port);
        let wanted = settings.intake.value.port.filter(|port| Some(*port) != now);
        Box::pin(async move {
            let Some(port) = wanted else { return Ok(()) };
            let bound = TcpListener::bind(("127.0.0.1", port)).await;
            bound.map(drop).map_err(|error| format!("intake.otlp_port {port}: {error}"))
        })
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        self.settings.send_replace(settings);
        Box::pin(async { Ok(()) })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let mut view = self.view.clone();
        Box::pin(async move {
            let wanted = &settings.intake.value;
            let is_it = |view: &View| view.settings.as_ref() == Some(wanted);
            let seen = time::timeout(SETTLE, view.wait_for(is_it)).await;
            let seen = seen.map_err(|_| "workloads are still taken from as before")?;
            match &seen.map_err(|error| error.to_string())?.error {
                Some(why) => Err(why.clone()),
                None => Ok(()),
            }
        })
    }
}
