//! What listens on loopback at a port of the document's. Its owner watches what is sent
//! here, and shows what it has in force.

use std::{fmt, sync::Arc, time::Duration};

use purlin_core::settings::Settings;
use tokio::{net::TcpListener, sync::watch, time};

use super::{Subsystem, Work};
use crate::{export, intake};

/// For listeners to end and others to begin.
const SETTLE: Duration = Duration::from_secs(8);

/// What an owner shows of itself.
pub trait InForce: fmt::Debug + Send + Sync + 'static {
    /// The subsystem.
    const NAME: &'static str;
    /// The port's setting.
    const PORT: &'static str;
    /// The port that is wanted.
    fn wanted(settings: &Settings) -> Option<u16>;
    /// The port that it has.
    fn port(&self) -> Option<u16>;
    /// Whether it has what is wanted.
    fn is(&self, settings: &Settings) -> bool;
    /// Why some of that is not so.
    fn error(&self) -> Option<&str>;
}

impl InForce for intake::View {
    const NAME: &'static str = "intake";
    const PORT: &'static str = "intake.otlp_port";
    fn wanted(settings: &Settings) -> Option<u16> {
        settings.intake.value.port
    }
    fn port(&self) -> Option<u16> {
        self.settings.as_ref().and_then(|it| it.port)
    }
    fn is(&self, settings: &Settings) -> bool {
        self.settings.as_ref() == Some(&settings.intake.value)
    }
    fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

impl InForce for export::View {
    const NAME: &'static str = "export";
    const PORT: &'static str = "export.openmetrics_port";
    fn wanted(settings: &Settings) -> Option<u16> {
        settings.export.value.openmetrics_port
    }
    fn port(&self) -> Option<u16> {
        self.settings.as_ref().and_then(|it| it.openmetrics_port)
    }
    fn is(&self, settings: &Settings) -> bool {
        self.settings.as_ref() == Some(&settings.export.value)
    }
    fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

/// The subsystem of an owner that shows `V`.
#[derive(Debug)]
pub struct Listening<V> {
    /// What its owner is told.
    pub settings: watch::Sender<Arc<Settings>>,
    /// What it has in force.
    pub view: watch::Receiver<V>,
}

impl<V: InForce> Subsystem for Listening<V> {
    fn name(&self) -> &'static str {
        V::NAME
    }

    fn prepare<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let now = self.view.borrow().port();
        let wanted = V::wanted(settings).filter(|port| Some(*port) != now);
        Box::pin(async move {
            let Some(port) = wanted else { return Ok(()) };
            let bound = TcpListener::bind(("127.0.0.1", port)).await;
            bound.map(drop).map_err(|error| format!("{} {port}: {error}", V::PORT))
        })
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        self.settings.send_replace(settings);
        Box::pin(async { Ok(()) })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let mut view = self.view.clone();
        Box::pin(async move {
            let seen = time::timeout(SETTLE, view.wait_for(|view| view.is(settings))).await;
            let seen = seen.map_err(|_| format!("{} is still as before", V::NAME))?;
            match seen.map_err(|error| error.to_string())?.error() {
                Some(why) => Err(why.into()),
                None => Ok(()),
            }
        })
    }
}
