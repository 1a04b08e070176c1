//! One question to whoever makes certificates, over a connection of its own.

use std::time::Duration;

use prost::Message as _;
use purlin_core::settings::Endpoint;
use purlin_proto::{topic::Topics, v1};
use tokio::time::timeout;

use super::Chain;
use crate::{
    trust::sha256,
    uplink::{Answer, Message, Session, Transport, mqtt::Mqtt},
};

/// To connect, and to subscribe.
const CONNECT: Duration = Duration::from_secs(10);
/// Whoever makes certificates has so long.
const ANSWER: Duration = Duration::from_secs(20);

/// Asks for a certificate; what comes is not judged yet.
pub async fn ask(
    mqtt: &Mqtt,
    at: &Endpoint,
    topics: &Topics,
    request: &v1::EnrolRequest,
) -> Result<Chain, String> {
    let payload = request.encode_to_vec();
    let asked = sha256(&payload);
    let connected = async {
        let mut session = mqtt.connect(at).await?;
        session.subscribe(&topics.certificate()).await?;
        Ok(session)
    };
    let connected = timeout(CONNECT, connected).await;
    let mut session = connected
        .unwrap_or_else(|_| Err(format!("no answer within {CONNECT:?}")))
        .map_err(|why: String| format!("{at}: {why}"))?;
    let topic = topics.enrol();
    let message = Message { topic, payload: payload.into(), retain: false, reply: None };
    let answered = async {
        match session.publish(message).await?.await {
            Answer::Taken { heard: true } => {}
            Answer::Taken { heard: false } => {
                return Err("nobody there makes certificates: `purlin fleet enrol` does".into());
            }
            Answer::RefusedForGood(why) | Answer::RefusedForNow(why) => return Err(why),
            Answer::Lost => return Err("the connection was lost".into()),
        }
        loop {
            let message = session.incoming().await.map_err(|closed| closed.why)?;
            let Ok(answer) = v1::EnrolAnswer::decode(message.payload) else { continue };
            if answer.request_sha256[..] != asked[..] {
                continue;
            }
            return match answer.chain.is_empty() {
                true => Err(format!("it was refused: {}", answer.refused)),
                false => Ok(answer.chain.into_iter().map(|der| der.to_vec().into()).collect()),
            };
        }
    };
    let answered = timeout(ANSWER, answered).await;
    let answered = answered.unwrap_or_else(|_| Err(format!("no certificate within {ANSWER:?}")));
    session.disconnect().await;
    answered.map_err(|why| format!("{at}: {why}"))
}
