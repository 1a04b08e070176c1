//! `purlin fleet enrol`: answers what nodes ask for over the broker, until it is told to end.
//!
//! Anybody whom the broker lets write there may ask, so that a refusal costs little: it is
//! told once a minute for each node, and so many nodes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use prost::Message as _;
use purlin_core::backoff::Backoff;
use purlin_daemon::{
    enrol::Certificate,
    mqtt::{Answer, Connection, Message, Mqtt, Session, Transport},
    trust,
};
use purlin_proto::{topic::Topics, v1::EnrolAnswer};
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use super::{Authority, FLEET, judge::judge, now, read};
use crate::{
    args::ServeArgs,
    exit::{Ended, Exit, Failure},
    output::{Output, note},
    units,
};

/// To connect, and to subscribe.
const CONNECT: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);
/// The same refusal of a node is told again after it.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// Nodes whose refusals are told apart.
const MAX_TOLD: usize = 4096;

/// What became of a request.
#[derive(Serialize)]
struct Served {
    unix_s: u64,
    node: String,
    /// `certified` or `refused`.
    result: &'static str,
    text: String,
    until_unix_s: Option<u64>,
}

impl Served {
    fn line(&self) -> String {
        let time = units::time(self.unix_s * 1000);
        let until = self.until_unix_s.map(|it| format!(", until {}", units::time(it * 1000)));
        let verb = if self.until_unix_s.is_none() { "refused: " } else { "" };
        format!("{time}  {}  {verb}{}{}\n", self.node, self.text, until.unwrap_or_default())
    }
}

struct Server<'a> {
    args: &'a ServeArgs,
    fleet: String,
    authority: Authority,
    told: BTreeMap<String, (String, Instant)>,
    output: &'a Output,
}

/// `purlin fleet enrol`
pub async fn run(args: &ServeArgs, output: &Output) -> Ended {
    let authority = Authority::open(&args.authority).map_err(Failure::Failed)?;
    let fleet = read(&args.authority.join(FLEET)).map_err(Failure::Failed)?.trim().to_owned();
    let mut server = Server { args, fleet, authority, told: BTreeMap::new(), output };
    let (mut end, mut broken) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        ended = server.serve() => ended,
        _ = end.recv() => Ok(Exit::Ok),
        _ = broken.recv() => Ok(Exit::Ok),
    }
}

impl Server<'_> {
    /// Over one connection after the other.
    async fn serve(&mut self) -> Ended {
        let broker = &self.args.login.broker;
        let mqtt = self.args.login.mqtt(format!("purlin-enrol-{}", std::process::id()));
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        loop {
            let why = match self.connect(&mqtt).await {
                Err(why) => why,
                Ok(mut session) => {
                    backoff.succeed();
                    note(&format!("serves requests of fleet {} at {broker}", self.fleet));
                    self.answer(&mut session).await?
                }
            };
            let random = trust::random().map(u64::from_ne_bytes).unwrap_or_default();
            let wait = backoff.fail(random);
            note(&format!("{broker}: {why}; again in {} ms", wait.as_millis()));
            sleep(wait).await;
        }
    }

    async fn connect(&self, mqtt: &Mqtt) -> Result<Connection, String> {
        let topic = format!("purlin/v1/{}/+/enrol", self.fleet);
        let connected = timeout(CONNECT, async {
            let mut session = mqtt.connect(&self.args.login.broker).await?;
            session.subscribe(&topic).await?;
            Ok(session)
        });
        connected.await.unwrap_or_else(|_| Err(format!("no answer within {CONNECT:?}")))
    }

    /// Answers until the connection ends; why it did.
    async fn answer(&mut self, session: &mut Connection) -> Result<String, Failure> {
        loop {
            let message = match session.incoming().await {
                Ok(message) => message,
                Err(closed) => return Ok(closed.why),
            };
            let Some(node) = message.topic.split('/').nth(3).map(str::to_owned) else { continue };
            let judged =
                judge(&self.authority, &self.fleet, &node, &message.payload, self.args.lasts);
            let request_sha256 = trust::sha256(&message.payload).into();
            let (answer, served) = match judged {
                Ok((chain, made)) => {
                    let until = Certificate::read(&chain[0]).map(|it| it.not_after_unix_s).ok();
                    let chain = chain.iter().map(|der| der.to_vec().into()).collect();
                    let answer = EnrolAnswer { request_sha256, chain, refused: String::new() };
                    (answer, self.served(&node, "certified", made.to_string(), until))
                }
                Err(why) => {
                    let answer =
                        EnrolAnswer { request_sha256, chain: Vec::new(), refused: why.clone() };
                    (answer, self.served(&node, "refused", why, None))
                }
            };
            let topic = Topics::new(&self.fleet, &node).certificate();
            let payload = answer.encode_to_vec().into();
            let message = Message { topic, payload, retain: false, reply: None };
            let sent = match session.publish(message).await {
                Ok(pending) => pending.await,
                Err(why) => return Ok(why),
            };
            if let Some(served) = served {
                self.output.append(&served, || served.line())?;
            }
            match sent {
                Answer::Taken { .. } => {}
                Answer::RefusedForNow(why) | Answer::RefusedForGood(why) => {
                    note(&format!("node {node} can't be answered: {why}"));
                }
                Answer::Lost => return Ok("the connection was lost".into()),
            }
        }
    }

    /// What is told of it; nothing of a refusal that was told a moment ago.
    fn served(
        &mut self,
        node: &str,
        result: &'static str,
        text: String,
        until_unix_s: Option<u64>,
    ) -> Option<Served> {
        if until_unix_s.is_none() {
            let last = self.told.get(node);
            if last.is_some_and(|(was, at)| *was == text && at.elapsed() < TOLD_AGAIN) {
                return None;
            }
            if self.told.len() >= MAX_TOLD {
                self.told.clear();
            }
            self.told.insert(node.into(), (text.clone(), Instant::now()));
        }
        Some(Served { unix_s: now(), node: node.into(), result, text, until_unix_s })
    }
}
