//! The task `identity`: asks for the node's first certificate where a one-time token is there,
//! and for the next long before the one in use ends.
//!
//! Nothing waits for it. What it can't get it asks for again, ever less often; the node runs
//! on what it has, and a certificate that ends soon is told as a fault. A certificate that
//! follows another is tried at the broker first, so that one that no broker takes replaces
//! none that works.

use std::{mem, path::PathBuf, sync::Arc, time::Duration};

use purlin_core::{
    backoff::Backoff,
    renewal,
    settings::{Endpoint, Settings},
};
use purlin_proto::{api, topic::Topics, v1};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant, timeout},
};

use super::{Chain, Held, Node, ask, certificate, token};
use crate::{
    audit,
    clock::Floor,
    spool::Spool,
    state,
    uplink::{Session as _, Transport as _, mqtt::Mqtt},
};

/// A token or a certificate that somebody puts there is seen after it at the latest.
const LOOK: Duration = Duration::from_secs(60);
/// How often a first certificate is asked for.
const FIRST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// How often the next one is, at most and at least; never so seldom that what is left of the
/// one in use would not be enough for some more attempts.
const NEXT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(6 * 3600));
/// A session that a new certificate is tried with.
const TRY: Duration = Duration::from_secs(10);

/// How a node without a certificate asks.
#[derive(Clone, Debug)]
pub struct First {
    /// File of the token; it may be missing.
    pub token_file: PathBuf,
    /// Where; `None`: where the uplink is.
    pub endpoint: Option<Endpoint>,
    /// Who the node is there.
    pub mqtt: Mqtt,
}

/// What the task is connected to.
#[derive(Clone, Debug)]
pub struct Task {
    /// Whose certificate it is.
    pub node: Node,
    /// By which token the first one is asked for, if by any.
    pub first: Option<First>,
    /// The uplink's connections.
    pub mqtt: Mqtt,
    /// The endpoint in force.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The record.
    pub audit: audit::Client,
    /// Told of what came.
    pub spool: Spool,
    /// Why there is none, or no next one.
    pub view: watch::Sender<Option<api::Fault>>,
    /// Told of what was taken, so that the uplink does not wait out its last refusal.
    pub anew: Arc<Notify>,
}

/// What is to be done now.
enum Due {
    First(Box<First>, v1::EnrolToken),
    Next(Held),
    Nothing(Duration),
}

impl Task {
    /// Runs for ever.
    pub async fn run(self) -> Result<(), String> {
        let (mut backoff, mut again): (Option<(_, Backoff)>, _) = (None, Instant::now());
        let mut known = None;
        if let Ok(Some(held)) = self.node.held() {
            self.learn(&held);
            known = Some(held.chain);
        }
        loop {
            let held = self.node.held();
            let now = held.as_ref().ok().and_then(|it| Some(it.as_ref()?.chain.clone()));
            if let Some(placed) = now.as_ref().filter(|_| now != known) {
                // By files, or by hand with a token: on record like any other.
                self.told("identity.placed", placed);
            }
            known = now;
            let wait = match held.map(|held| self.due(held)) {
                Ok(Due::Nothing(wait)) => {
                    (backoff, again) = (None, Instant::now());
                    self.view.send_replace(None);
                    wait
                }
                // What is due may have come by a file meanwhile.
                Ok(_) if again > Instant::now() => LOOK.min(again - Instant::now()),
                Ok(due) => {
                    // One that could not be renewed in time is asked for anew, as seldom as
                    // a first one is.
                    let kind = mem::discriminant(&due);
                    let (_, backoff) = match &mut backoff {
                        Some(it) if it.0 == kind => it,
                        other => other.insert((kind, due.backoff(self.now()))),
                    };
                    match self.get(&due).await {
                        Ok(()) => {
                            known = self.node.held().ok().flatten().map(|it| it.chain);
                            Duration::ZERO
                        }
                        Err(why) => {
                            let wait = backoff.fail(state::random_u64().unwrap_or_default());
                            tracing::warn!(why, again_in = ?wait, "no certificate came");
                            self.view.send_replace(Some(due.fault(why)));
                            again = Instant::now() + wait;
                            Duration::ZERO
                        }
                    }
                }
                // It is told by the node's faults.
                Err(_) => LOOK,
            };
            time::sleep(wait).await;
        }
    }

    fn now(&self) -> u64 {
        self.mqtt.floor.now()
    }

    /// By the certificate that is there.
    fn due(&self, held: Option<Held>) -> Due {
        let now = self.now();
        if self.mqtt.certificate.is_some() {
            return Due::Nothing(LOOK);
        }
        match held {
            // A clock that is behind begins nothing; one that is ahead asks, and not in a loop.
            Some(held) if held.certificate.not_after_unix_s > now => {
                let at = held.renew_at();
                match held.authority() {
                    Some(_) if at <= now => Due::Next(held),
                    _ => Due::Nothing(LOOK.min(Duration::from_secs(at.saturating_sub(now).max(1)))),
                }
            }
            _ => match &self.first {
                None => Due::Nothing(LOOK),
                Some(first) => match token::read(&first.token_file) {
                    Ok(Some(token)) => Due::First(first.clone().into(), token),
                    Ok(None) => Due::Nothing(LOOK),
                    Err(why) => {
                        tracing::warn!(why, "no certificate can be asked for");
                        Due::Nothing(LOOK)
                    }
                },
            },
        }
    }

    async fn get(&self, due: &Due) -> Result<(), String> {
        let topics = Topics::new(&self.node.fleet, &self.node.id);
        let uplink = self.settings.borrow().endpoint.value.clone();
        let nowhere = "there is no broker to ask at: uplink.endpoint or enrol.endpoint names one";
        let (what, chain) = match due {
            Due::First(first, token) => {
                let at = first.endpoint.clone().or(uplink).ok_or(nowhere)?;
                let request = self.node.ask_by_token(token)?;
                let chain = ask(&first.mqtt, &at, &topics, &request).await?;
                self.mqtt.floor.learn(self.node.judge_first(&chain, token, self.now())?);
                self.node.try_out(&certificate::pem(&chain), self.now())?;
                ("identity.enrolled", chain)
            }
            Due::Next(held) => {
                let at = uplink.ok_or(nowhere)?;
                let request = self.node.ask_by_certificate(held)?;
                let mqtt = beside(&self.mqtt, "renew");
                let chain = ask(&mqtt, &at, &topics, &request).await?;
                let since = self.node.judge_next(&chain, held, self.now())?;
                self.node.try_out(&certificate::pem(&chain), self.now())?;
                let tried = Mqtt { enrolled: Some(self.node.next_pair()), ..mqtt };
                works(&tried, &at).await.map_err(|why| {
                    format!("the broker does not take the new certificate, so the old stays: {why}")
                })?;
                // Not before: an authority whose clock is ahead makes none that a broker takes.
                self.mqtt.floor.learn(since);
                ("identity.renewed", chain)
            }
            Due::Nothing(_) => return Ok(()),
        };
        self.node.take()?;
        self.told(what, &chain);
        self.anew.notify_waiters();
        Ok(())
    }

    fn told(&self, what: &'static str, chain: &Chain) {
        let until = certificate::Certificate::read(&chain[0]).map(|it| it.not_after_unix_s);
        let until = humantime::format_rfc3339_seconds(
            std::time::UNIX_EPOCH + Duration::from_secs(until.unwrap_or_default()),
        );
        let text = format!("a certificate until {until}");
        tracing::info!(what, text, "a certificate was taken");
        self.spool.event(what, &text);
        self.audit.tell(crate::agent::AGENT, what, &text);
    }

    /// One of an authority that came with it tells how late it is at least.
    fn learn(&self, held: &Held) {
        let floor: &Floor = &self.mqtt.floor;
        if let Some(authority) = held.authority()
            && let Ok(since) = super::judge(&held.chain, authority, 0)
        {
            floor.learn(since);
        }
    }
}

impl Due {
    fn backoff(&self, now: u64) -> Backoff {
        let (first, most) = match self {
            Due::Next(held) => {
                let left = held.certificate.not_after_unix_s.saturating_sub(now);
                let part = Duration::from_secs(left / 20).max(Duration::from_secs(1));
                (NEXT.0.min(part), NEXT.1.min(part))
            }
            _ => FIRST,
        };
        Backoff::new(first, most)
    }

    fn fault(&self, why: String) -> api::Fault {
        let (id, next) = match self {
            Due::Next(_) => (
                "certificate-not-renewed",
                "it is asked for again, and the one in use goes on; `purlin node enrol request` \
                 asks for one by files",
            ),
            _ => (
                "not-enrolled",
                "it is asked for again; a new token is made by `purlin fleet token make`",
            ),
        };
        api::Fault { id: id.into(), what: format!("no certificate: {why}"), next: next.into() }
    }
}

impl Held {
    /// When the next one is asked for: between half and two thirds of its life, at a moment
    /// that is its own, so that nodes which were installed together don't ask together.
    pub(super) fn renew_at(&self) -> u64 {
        let own = crate::trust::sha256(&self.chain[0]);
        let own = own.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let it = &self.certificate;
        renewal::due(it.not_before_unix_s, it.not_after_unix_s, own)
    }
}

/// The same under another client id: nothing of it throws the uplink out.
fn beside(mqtt: &Mqtt, what: &str) -> Mqtt {
    Mqtt { client_id: format!("{}-{what}", mqtt.client_id), ..mqtt.clone() }
}

async fn works(mqtt: &Mqtt, at: &Endpoint) -> Result<(), String> {
    let connected = timeout(TRY, mqtt.connect(at)).await;
    connected.unwrap_or_else(|_| Err(format!("no answer within {TRY:?}")))?.disconnect().await;
    Ok(())
}
