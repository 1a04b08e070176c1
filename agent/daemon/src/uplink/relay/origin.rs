//! The end of who can't reach a broker: a session whose answers a peer brings.

use std::collections::HashMap;

use purlin_proto::v1::{RelayFrame, RelayHello, relay_answer, relay_word::What};
use tokio::{
    io::{AsyncRead, AsyncWrite, split},
    sync::{mpsc, oneshot},
    time,
};
use tokio_util::task::AbortOnDropHandle;

use super::{Config, HELLO_DEADLINE, Peer, Words, tls, write};
use crate::{
    clock::Floor,
    door::Identity,
    uplink::{Answer, Closed, MAX_IN_FLIGHT, Message, PendingAnswer, Session},
};

/// A connection to a peer that sends on for us.
#[derive(Debug)]
pub struct Relayed {
    frames: mpsc::Sender<(RelayFrame, oneshot::Sender<Answer>)>,
    ended: mpsc::Receiver<String>,
    max_payload: usize,
    _driver: AbortOnDropHandle<()>,
}

impl Relayed {
    /// Connects; the error is the peer's own where it has one.
    pub async fn connect(
        config: &Config,
        floor: &Floor,
        peer: &Peer,
        identity: &Identity,
    ) -> Result<Self, String> {
        let connected = async {
            let stream = tls::connect(config, floor, peer).await?;
            Self::begin(stream, identity).await
        };
        let connected = time::timeout(HELLO_DEADLINE, connected).await;
        let connected = connected.map_err(|_| format!("no answer within {HELLO_DEADLINE:?}"));
        connected.flatten().map_err(|why| format!("{peer}: {why}"))
    }

    async fn begin(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        identity: &Identity,
    ) -> Result<Self, String> {
        let (from, mut out) = split(stream);
        let hello = RelayHello { fleet: identity.fleet.clone(), node: identity.node.clone() };
        write(&mut out, What::Hello(hello)).await?;
        let mut words = Words::of(from);
        let max_payload = match words.next().await? {
            What::Welcome(welcome) => welcome.max_payload as usize,
            What::Bye(bye) => return Err(bye.why),
            _ => return Err("it doesn't answer as a peer does".into()),
        };
        let (frames, asked) = mpsc::channel(MAX_IN_FLIGHT);
        let (tell, ended) = mpsc::channel(1);
        let driver = tokio::spawn(async move {
            if let Err(why) = drive(out, words, asked).await {
                _ = tell.send(why).await;
            }
        });
        Ok(Self { frames, ended, max_payload, _driver: AbortOnDropHandle::new(driver) })
    }
}

/// Carries frames there and answers back until either end is gone. Both arms keep their
/// state in a channel.
async fn drive(
    mut out: impl AsyncWrite + Unpin,
    mut words: Words,
    mut asked: mpsc::Receiver<(RelayFrame, oneshot::Sender<Answer>)>,
) -> Result<(), String> {
    let mut waiting: HashMap<u64, oneshot::Sender<Answer>> = HashMap::new();
    let mut last_id = 0;
    loop {
        tokio::select! {
            ask = asked.recv() => {
                let Some((frame, reply)) = ask else { return Ok(()) };
                last_id += 1;
                waiting.insert(last_id, reply);
                write(&mut out, What::Frame(RelayFrame { id: last_id, ..frame })).await?;
            }
            word = words.next() => match word? {
                What::Answer(answer) => {
                    use relay_answer::What::{RefusedForGood, RefusedForNow, Taken};
                    let reply = waiting.remove(&answer.id).ok_or("an answer to no frame")?;
                    _ = reply.send(match answer.what {
                        Some(Taken(heard)) => Answer::Taken { heard },
                        Some(RefusedForGood(why)) => Answer::RefusedForGood(why),
                        Some(RefusedForNow(why)) => Answer::RefusedForNow(why),
                        None => Answer::Lost,
                    });
                }
                What::Bye(bye) => return Err(bye.why),
                _ => return Err("a word that no peer says".into()),
            }
        }
    }
}

impl Session for Relayed {
    /// A peer brings nothing: what the core wants comes when the node's own link does.
    async fn subscribe(&mut self, _topic: &str) -> Result<(), String> {
        Ok(())
    }

    async fn publish(&mut self, message: Message) -> Result<PendingAnswer, String> {
        // After purlin/v1/<fleet>/<node>/.
        let topic = message.topic.splitn(5, '/').last().unwrap_or_default().to_owned();
        let (reply, answer) = oneshot::channel();
        let frame = RelayFrame { id: 0, topic, payload: message.payload };
        _ = self.frames.send((frame, reply)).await;
        Ok(Box::pin(async { answer.await.unwrap_or(Answer::Lost) }))
    }

    async fn incoming(&mut self) -> Result<Message, Closed> {
        let why = self.ended.recv().await;
        let why = why.unwrap_or_else(|| "the peer is gone".into());
        Err(Closed { why, ..Closed::default() })
    }

    fn max_message(&self) -> Option<usize> {
        Some(self.max_payload)
    }

    fn is_broker(&self) -> bool {
        false
    }

    async fn disconnect(self) {}
}
