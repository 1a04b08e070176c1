//! The MQTT session. A change is no good one if the node can't be reached any more
//! under it, so the session is made anew under *every* change, whether it names the
//! uplink or not; where there was none before, and the uplink isn't touched, none is
//! asked for.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use purlin_core::settings::{Endpoint, Settings};
use purlin_proto::api::LinkState;
use tokio::sync::watch;

use super::{Disturbs, Found, Subsystem, Work};
use crate::uplink::Link;

/// The session.
#[derive(Debug)]
pub struct Session {
    /// What the uplink's task is told; whatever is sent makes it connect anew.
    pub settings: watch::Sender<Arc<Settings>>,
    /// Where the link stands.
    pub link: watch::Receiver<Link>,
    /// Connections that must have been made for the session to be of these settings.
    wanted: AtomicU32,
    /// There was a session before: nobody may do without it now.
    was_up: AtomicBool,
}

impl Session {
    /// A session that nobody has asked for anew yet.
    pub fn new(settings: watch::Sender<Arc<Settings>>, link: watch::Receiver<Link>) -> Self {
        Self { settings, link, wanted: AtomicU32::new(0), was_up: AtomicBool::new(false) }
    }

    /// Whether the way to the broker is another one.
    fn is_touched_by(&self, settings: &Settings) -> bool {
        let now = self.settings.borrow();
        (&now.endpoint.value, &now.fallbacks.value, now.rate_kib_s.value)
            != (&settings.endpoint.value, &settings.fallbacks.value, settings.rate_kib_s.value)
    }
}

impl Subsystem for Session {
    fn name(&self) -> &'static str {
        "uplink"
    }

    fn disturbs<'a>(&'a self, _now: &'a Settings, then: &'a Settings) -> Found<'a> {
        let link = self.link.borrow().view();
        let up = link.state == LinkState::Up;
        let from = link.endpoint.filter(|_| up).map(|at| format!("the session with {at} ends"));
        let to = then.endpoint.value.as_ref();
        let to = to.map_or("no broker is asked for".into(), |at| format!("{at} is connected to"));
        let touched = self.is_touched_by(then);
        let what = from.into_iter().chain([to]).collect();
        Box::pin(async move { if touched { Disturbs::Reload(what) } else { Disturbs::Nothing } })
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        let link = self.link.borrow().view();
        let up = link.state == LinkState::Up;
        self.was_up.store(up, Ordering::Relaxed);
        let touched = self.is_touched_by(&settings);
        let asked = (touched || up) && settings.endpoint.value.is_some();
        self.wanted.store(if asked { link.connects + 1 } else { 0 }, Ordering::Relaxed);
        if touched || up {
            self.settings.send_replace(settings);
        }
        Box::pin(async { Ok(()) })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let link = self.link.borrow().view();
        let wanted = settings.endpoint.value.iter().chain(&settings.fallbacks.value);
        let wanted: Vec<_> = wanted.map(Endpoint::to_string).collect();
        let is_one = match &link.endpoint {
            Some(endpoint) => wanted.contains(endpoint),
            None => wanted.is_empty(),
        };
        let result = match is_one {
            true => Ok(()),
            false => Err(format!("it is at {}", link.endpoint.as_deref().unwrap_or("no broker"))),
        };
        Box::pin(async { result })
    }

    fn gate(&self, by_hand: bool) -> Result<(), String> {
        let link = self.link.borrow().view();
        let required = self.wanted.load(Ordering::Relaxed);
        let waived = by_hand && !self.was_up.load(Ordering::Relaxed);
        let made = link.connects >= required && link.state == LinkState::Up;
        if required == 0 || waived || made {
            return Ok(());
        }
        let endpoint = link.endpoint.as_deref().unwrap_or("any broker");
        let error = link.last_error.as_deref().unwrap_or("not connected");
        Err(format!("no session with {endpoint} under this configuration yet: {error}"))
    }
}
