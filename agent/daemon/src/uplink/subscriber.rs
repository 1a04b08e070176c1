//! A session that reads: it lasts in the broker over connections, and the broker is told
//! that a message is taken only when whoever reads says so.
//!
//! The broker sends no more than so many messages ahead of that (MQTT 5, 3.3.4, Receive
//! Maximum), which is all the flow control there is: the connection is read on while
//! nothing is taken, so that it stays alive.

use std::time::Duration;

use prost::bytes::Bytes;
use purlin_core::settings::Endpoint;
use rumqttc::{
    AckMode, AsyncClient, BrokerSessionResumePolicy, Event, ManualAck, QoS, RetainForwardRule,
    SubscribeFilter,
    mqttbytes::v5::{DisconnectReasonCode, Packet, SubscribeReasonCode},
};
use tokio::{sync::mpsc, time};
use tokio_util::task::AbortOnDropHandle;

use super::mqtt::{GOODBYE, Mqtt, answer::explain};

/// How the broker keeps a session.
#[derive(Clone, Copy, Debug)]
pub struct Durable {
    /// How long it queues for us while we are away.
    pub expiry: Duration,
    /// Messages that it sends ahead of our acknowledgements.
    pub ahead: u16,
    /// What it may have kept of us is thrown away.
    pub anew: bool,
}

/// What is subscribed to.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The topic filter.
    pub topic: String,
    /// Retained messages come at each connection, and not only when it is new.
    pub retained_again: bool,
}

/// A message that is not acknowledged.
#[derive(Debug)]
pub struct Arrived {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Bytes,
    /// What tells the broker that it is taken, once and in this connection alone.
    pub receipt: Receipt,
}

impl Arrived {
    /// As if nobody waited for an acknowledgement.
    pub fn without_receipt(self) -> Self {
        Self { receipt: Receipt(None), ..self }
    }
}

/// What tells the broker that a message is taken.
#[derive(Debug)]
pub struct Receipt(Option<ManualAck>);

/// One connection.
#[derive(Debug)]
pub struct Subscriber {
    client: AsyncClient,
    incoming: mpsc::Receiver<Result<Arrived, String>>,
    /// The broker knew our session. The client library then lets nothing be subscribed to.
    pub resumed: bool,
    _driver: AbortOnDropHandle<()>,
}

impl Subscriber {
    /// Connects.
    pub async fn connect(mqtt: &Mqtt, at: &Endpoint, keep: Durable) -> Result<Self, String> {
        let mut options = mqtt.options(at, &mqtt.client_id)?;
        options
            .set_clean_start(keep.anew)
            .set_session_expiry_interval(Some(keep.expiry.as_secs().min(u32::MAX.into()) as u32))
            .set_receive_maximum(Some(keep.ahead))
            // What the broker knows of our session is all that there is of it.
            .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
            .set_request_channel_capacity(usize::from(keep.ahead) + 16)
            .set_ack_mode(AckMode::Manual);
        let capacity = usize::from(keep.ahead) + 16;
        let (client, mut events) = AsyncClient::builder(options).capacity(capacity).build();
        let resumed = loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => break ack.session_present,
                Ok(_) => {}
                Err(error) => return Err(explain(&error)),
            }
        };
        // One for the reason of the end.
        let (sender, incoming) = mpsc::channel(usize::from(keep.ahead) + 1);
        let acks = client.clone();
        let driver = tokio::spawn(async move {
            loop {
                let message = match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => Ok(Arrived {
                        receipt: Receipt(acks.prepare_ack(&publish)),
                        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                        payload: publish.payload,
                    }),
                    Ok(Event::Incoming(Packet::Disconnect(reason))) => {
                        Err(match reason.reason_code {
                            DisconnectReasonCode::SessionTakenOver => {
                                "another client took our session over".into()
                            }
                            code => format!("the broker closed the connection: {code:?}"),
                        })
                    }
                    Ok(_) => continue,
                    Err(error) => Err(explain(&error)),
                };
                let ended = message.is_err();
                // It never waits: that would end the connection. A broker that sends more
                // than we let it has forgotten what we said.
                if sender.try_send(message).is_err() || ended {
                    return;
                }
            }
        });
        let driver = AbortOnDropHandle::new(driver);
        Ok(Self { client, incoming, resumed, _driver: driver })
    }

    /// Subscribes at QoS 1.
    pub async fn subscribe(&self, filter: &Filter) -> Result<(), String> {
        let mut wanted = SubscribeFilter::new(filter.topic.clone(), QoS::AtLeastOnce);
        if !filter.retained_again {
            wanted.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
        }
        let notice = self.client.subscribe_many_tracked([wanted]).await;
        let notice = notice.map_err(|error| error.to_string())?;
        let ack = notice.wait_async().await.map_err(|error| error.to_string())?;
        match ack.return_codes.first() {
            Some(SubscribeReasonCode::Success(_)) => Ok(()),
            refused => Err(format!(
                "the broker refused the subscription to {}: {refused:?}; check its access rules",
                filter.topic
            )),
        }
    }

    /// The next message; the error says why there are no more.
    pub async fn next(&mut self) -> Result<Arrived, String> {
        let ended = || Err("the connection has ended".into());
        self.incoming.recv().await.unwrap_or_else(ended)
    }

    /// Tells the broker that a message is taken. After the connection's end it tells
    /// nobody, and the message comes again.
    pub async fn acknowledge(&self, receipt: Receipt) {
        if let Some(ack) = receipt.0 {
            _ = self.client.manual_ack(ack).await;
        }
    }

    /// Leaves; the broker keeps the session.
    pub async fn leave(mut self) {
        if self.client.disconnect().await.is_ok() {
            _ = time::timeout(GOODBYE, async { while self.incoming.recv().await.is_some() {} })
                .await;
        }
    }
}
