//! The end of who reaches a broker: takes frames of nodes that don't, each proved to be
//! its own node's, and hands them to the uplink.

use std::sync::Arc;

use purlin_core::identity::Class;
use purlin_proto::{
    api::LinkState,
    topic,
    v1::{RelayAnswer, RelayBye, RelayFrame, RelayWelcome, relay_answer, relay_word::What},
};
use tokio::{
    io::split,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::{self, Duration},
};

use super::{Carry, Config, HELLO_DEADLINE, Words, read, tls, write};
use crate::{
    clock::Floor,
    door::Identity,
    uplink::{Answer, Link, MAX_IN_FLIGHT},
    wire,
};

/// Nodes that are sent on for at once: half a rack.
const MAX_ORIGINS: usize = 16;
/// A node that says nothing for so long is gone; one that isn't comes again.
const IDLE: Duration = Duration::from_secs(300);
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// What the task is made of.
#[derive(Clone, Debug)]
pub struct Server {
    /// What the agent's own file says.
    pub config: Arc<Config>,
    /// What time it is at least.
    pub floor: Floor,
    /// Who this node is.
    pub identity: Identity,
    /// Our own uplink's inbox.
    pub carried: mpsc::Sender<Carry>,
    /// How our own uplink stands.
    pub link: watch::Receiver<Link>,
}

impl Server {
    /// Serves for ever.
    pub async fn run(self) -> Result<(), String> {
        let Some(listen) = self.config.listen else { return Ok(()) };
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|error| format!("can't listen at {listen}: {error}"))?;
        let places = Arc::new(Semaphore::new(MAX_ORIGINS));
        let mut origins = JoinSet::new();
        loop {
            while origins.try_join_next().is_some() {}
            let place = places.clone().acquire_owned().await.map_err(|error| error.to_string())?;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "nobody can be sent on for now");
                    time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let server = self.clone();
            origins.spawn(async move {
                if let Err(why) = server.serve(stream).await {
                    tracing::info!(why, "a peer is not sent on for");
                }
                drop(place);
            });
        }
    }

    async fn serve(mut self, stream: TcpStream) -> Result<(), String> {
        let hello = async {
            let mut stream = tls::accept(&self.config, &self.floor, stream).await?;
            let What::Hello(hello) = read(&mut stream).await? else {
                return Err("it doesn't say hello".into());
            };
            Ok((stream, hello))
        };
        let hello = time::timeout(HELLO_DEADLINE, hello).await;
        let (stream, hello) = hello.map_err(|_| "no hello in time".to_owned()).flatten()?;
        let origin = hello.node.clone();
        let known =
            tls::is_node(&stream, &origin).and_then(|()| self.may_send_on(&hello.fleet, &origin));
        let (from, mut out) = split(stream);
        if let Err(why) = known {
            write(&mut out, What::Bye(RelayBye { why: why.clone() })).await?;
            return Err(format!("{origin}: {why}"));
        }
        let max_payload = self.link.borrow().max_message as u64;
        write(&mut out, What::Welcome(RelayWelcome { max_payload })).await?;
        tracing::info!(origin, "its records are sent on");
        let ended = self.send_on(&origin, Words::of(from), &mut out).await;
        if let Err(why) = &ended {
            write(&mut out, What::Bye(RelayBye { why: why.clone() })).await?;
        }
        ended.map_err(|why| format!("{origin}: {why}"))
    }

    fn may_send_on(&self, fleet: &str, origin: &str) -> Result<(), String> {
        let Identity { fleet: ours, node, .. } = &self.identity;
        if fleet != ours || origin == node || !topic::is_level(origin) {
            return Err(format!("node {node} sends on for other nodes of fleet {ours}"));
        }
        match self.link.borrow().view().state {
            LinkState::Up => Ok(()),
            state => Err(down(node, state)),
        }
    }

    /// Each arm keeps its state in a channel, a set of tasks or `next`.
    async fn send_on(
        &mut self,
        origin: &str,
        mut words: Words,
        out: &mut (impl tokio::io::AsyncWrite + Unpin),
    ) -> Result<(), String> {
        let mut answers: JoinSet<(u64, Result<Answer, oneshot::error::RecvError>)> = JoinSet::new();
        let mut next: Option<Carry> = None;
        let link = &mut self.link;
        let mut lost = std::pin::pin!(async {
            let changed = link.wait_for(|link| link.view.state != LinkState::Up).await;
            changed.map_or(LinkState::Down, |link| link.view.state)
        });
        loop {
            tokio::select! {
                state = &mut lost => return Err(down(&self.identity.node, state)),
                permit = self.carried.reserve(), if next.is_some() => {
                    let permit = permit.map_err(|_| "the uplink's task is gone")?;
                    if let Some(carry) = next.take() {
                        permit.send(carry);
                    }
                }
                word = time::timeout(IDLE, words.next()),
                    if next.is_none() && answers.len() < MAX_IN_FLIGHT => match word {
                    Ok(Ok(What::Frame(frame))) => {
                        check(&frame, origin)?;
                        let (reply, answer) = oneshot::channel();
                        let RelayFrame { id, topic, payload } = frame;
                        answers.spawn(async move { (id, answer.await) });
                        next = Some(Carry { origin: origin.into(), topic, payload, reply });
                    }
                    Ok(Ok(_)) => return Err("a word that no origin says".into()),
                    // It is gone, which is its affair.
                    Ok(Err(_)) => return Ok(()),
                    Err(_) if answers.is_empty() => return Err(format!("nothing came for {IDLE:?}")),
                    Err(_) => {}
                },
                Some(answered) = answers.join_next() => {
                    let (id, answer) = answered.map_err(|error| error.to_string())?;
                    use relay_answer::What::{RefusedForGood, RefusedForNow, Taken};
                    let what = Some(match answer {
                        Ok(Answer::Taken { heard }) => Taken(heard),
                        Ok(Answer::RefusedForGood(why)) => RefusedForGood(why),
                        Ok(Answer::RefusedForNow(why)) => RefusedForNow(why),
                        Ok(Answer::Lost) | Err(_) => {
                            return Err(down(&self.identity.node, LinkState::Down));
                        }
                    });
                    write(out, What::Answer(RelayAnswer { id, what })).await?;
                }
            }
        }
    }
}

fn down(node: &str, state: LinkState) -> String {
    let how = match state {
        LinkState::Relayed => "goes through a peer itself",
        _ => "is down too",
    };
    format!("the uplink of node {node} {how}")
}

/// Fails unless the frame is of the origin itself: nobody sends on what is another's.
fn check(frame: &RelayFrame, origin: &str) -> Result<(), String> {
    if let Some(hash) = frame.topic.strip_prefix("dict/") {
        let bytes = wire::unpack(&frame.payload).map_err(|error| error.to_string())?;
        let is_it = hash == format!("{:016x}", wire::hash_of(&bytes));
        return if is_it { Ok(()) } else { Err("a dictionary under another hash".into()) };
    }
    let batch = wire::decode(&frame.payload).map_err(|error| error.to_string())?;
    let class = Class::OWN.into_iter().find(|it| it.name() == frame.topic);
    let is_its = class.is_some_and(|it| wire::class_to_wire(it) == batch.class());
    match is_its && batch.node == origin {
        true => Ok(()),
        false => Err(format!("a frame that is none of node {origin}'s")),
    }
}
