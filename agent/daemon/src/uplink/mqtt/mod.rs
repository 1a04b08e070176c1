//! MQTT 5 by rumqttc: one client for one connection.
//!
//! The client would reconnect and resend by itself; it is dropped at the first
//! error instead, since only the spool knows what has to be sent again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::bytes::Bytes;
use purlin_core::settings::Endpoint;
use purlin_proto::{api, topic::Topics};
use rumqttc::{
    AsyncClient, Event, MqttOptions, Proxy, ProxyAuth, ProxyType, PublishOptions, QoS,
    TlsConfiguration, Transport as Wire,
    mqttbytes::v5::{
        DisconnectReasonCode, LastWill, Packet, PublishProperties, SubscribeReasonCode,
    },
    tokio_rustls::rustls::sign::CertifiedKey,
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{self, Instant},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    boot,
    clock::Floor,
    enrol::{Store, key},
};

use super::{
    Answer, Closed, MAX_IN_FLIGHT, Message, PendingAnswer, Reply, Session, Transport, tls,
};

pub(super) mod answer;
mod tunnel;

/// Announced to the broker: over what a document may have, so that one too
/// large still arrives and is refused with a reason.
pub(super) const MAX_PACKET_BYTES: u32 = 1 << 20;
/// A broker that is silent for one and a half of it is taken for dead.
const KEEP_ALIVE_S: u16 = 30;
/// Messages that may wait to be taken in; TCP holds the rest back.
const INBOX: usize = 8;
/// Bytes of a response topic and of correlation data that are echoed, at most.
const MAX_REPLY_TOPIC: usize = 256;
const MAX_CORRELATION: usize = 256;
pub(super) const GOODBYE: Duration = Duration::from_millis(500);
const TEST_STEP_DEADLINE: Duration = Duration::from_secs(5);

/// Who we are to a broker, and whom we trust.
#[derive(Clone, Debug)]
pub struct Mqtt {
    /// Client id, the node's.
    pub client_id: String,
    /// User name.
    pub username: String,
    /// File that holds the password, read anew at each connection.
    pub password_file: Option<PathBuf>,
    /// PEM file of trusted certificate authorities.
    pub trust_anchors: Option<PathBuf>,
    /// PEM file of our own certificate, read anew at each connection.
    pub certificate: Option<PathBuf>,
    /// The same of one that the node was given, used where it is and there is no other.
    pub enrolled: Option<PathBuf>,
    /// The key of either.
    pub key: Store,
    /// HTTP proxy that is asked to connect us (CONNECT).
    pub proxy: Option<boot::Proxy>,
    /// What time it is at least.
    pub floor: Floor,
    /// The mesh's socket, on a node.
    pub mesh: Option<PathBuf>,
}

impl Mqtt {
    pub(super) fn options(
        &self,
        endpoint: &Endpoint,
        client_id: &str,
    ) -> Result<MqttOptions, String> {
        let mut options = MqttOptions::new(client_id, (endpoint.host.clone(), endpoint.port));
        options
            .set_keep_alive(KEEP_ALIVE_S)
            .set_clean_start(true)
            .set_max_packet_size(Some(MAX_PACKET_BYTES))
            .set_outgoing_inflight_upper_limit(MAX_IN_FLIGHT as u16)
            .set_request_channel_capacity(MAX_IN_FLIGHT);
        if let Some(path) = &self.password_file {
            options.set_credentials(&self.username, password(path)?);
        }
        if let Some(boot::Proxy { host, port, login }) = &self.proxy {
            let auth = match login {
                None => ProxyAuth::None,
                Some((username, path)) => {
                    ProxyAuth::Basic { username: username.clone(), password: password(path)? }
                }
            };
            options.set_proxy(Proxy { ty: ProxyType::Http, auth, addr: host.clone(), port: *port });
        }
        if endpoint.tls {
            options.set_transport(Wire::tls_with_config(self.tls()?));
        }
        Ok(options)
    }

    /// A connection beside the uplink's, under a client id of its own, with a will.
    pub async fn connect_with(
        &self,
        endpoint: &Endpoint,
        suffix: &str,
        will: Will,
    ) -> Result<Connection, String> {
        let mut options = self.options(endpoint, &format!("{}-{suffix}", self.client_id))?;
        let Will { topic, payload } = will;
        options.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, false, None));
        Connection::open(options).await
    }

    fn tls(&self) -> Result<TlsConfiguration, String> {
        let path = self
            .trust_anchors
            .as_ref()
            .ok_or("mqtts:// needs uplink.trust_anchors: a PEM file of the authorities to trust")?;
        let roots = tls::roots("uplink.trust_anchors", path)?;
        let enrolled = self.enrolled.as_ref().filter(|pair| pair.exists());
        let identity = self.certificate.as_ref().or(enrolled).map(|certificate| {
            let chain = tls::certificates("uplink.client_certificate", certificate)?;
            Ok::<_, String>(CertifiedKey::new(chain, key::for_tls(&self.key, certificate)?))
        });
        let config = tls::client(roots, identity.transpose()?, &self.floor)
            .map_err(|error| format!("uplink.client_certificate and uplink.client_key: {error}"))?;
        Ok(TlsConfiguration::Rustls(Arc::new(config)))
    }
}

fn password(path: &Path) -> Result<String, String> {
    let read = std::fs::read_to_string(path);
    let read =
        read.map_err(|error| format!("can't read the password file {}: {error}", path.display()))?;
    Ok(read.trim().to_owned())
}

/// What a broker says for a client that it lost.
#[derive(Clone, Debug)]
pub struct Will {
    /// Where.
    pub topic: String,
    /// What, at QoS 1 and not retained.
    pub payload: Vec<u8>,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    client: AsyncClient,
    incoming: mpsc::Receiver<Result<Message, Closed>>,
    max_message: Option<usize>,
    _driver: AbortOnDropHandle<()>,
}

impl Transport for Mqtt {
    type Session = Connection;

    async fn connect(&self, endpoint: &Endpoint) -> Result<Connection, String> {
        Connection::open(self.options(endpoint, &self.client_id)?).await
    }

    async fn connect_through_mesh(&self, endpoint: &Endpoint) -> Result<Connection, String> {
        // A proxy is in the way of this node, and not of the one that passes on.
        let direct = Self { proxy: None, ..self.clone() };
        let mut options = direct.options(endpoint, &self.client_id)?;
        let mesh = self.mesh.clone().ok_or("there is no mesh here")?;
        let to = endpoint.authority();
        options.set_socket_connector(move |_, _| {
            let (mesh, to) = (mesh.clone(), to.clone());
            async move { tunnel::open(&mesh, &to).await }
        });
        Connection::open(options).await
    }
}

impl Connection {
    async fn open(options: MqttOptions) -> Result<Self, String> {
        let (client, mut events) = AsyncClient::builder(options).capacity(MAX_IN_FLIGHT).build();
        let max_message = loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    break ack.properties.and_then(|it| it.max_packet_size);
                }
                Ok(_) => {}
                Err(error) => return Err(answer::explain(&error)),
            }
        };
        let (sender, incoming) = mpsc::channel(INBOX);
        let driver = tokio::spawn(async move {
            loop {
                let message = match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => Ok(Message {
                        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                        payload: publish.payload,
                        retain: publish.retain,
                        reply: publish.properties.and_then(reply),
                    }),
                    Ok(Event::Incoming(Packet::Disconnect(reason))) => {
                        let code = reason.reason_code;
                        Err(Closed {
                            why: format!("the broker closed the connection: {code:?}"),
                            too_large: code == DisconnectReasonCode::PacketTooLarge,
                            taken_over: code == DisconnectReasonCode::SessionTakenOver,
                        })
                    }
                    Ok(_) => continue,
                    Err(error) => Err(answer::closed(&error)),
                };
                let ended = message.is_err();
                if sender.send(message).await.is_err() || ended {
                    return;
                }
            }
        });
        let max_message = max_message.map(|bytes| bytes as usize);
        Ok(Self { client, incoming, max_message, _driver: AbortOnDropHandle::new(driver) })
    }
}

impl Connection {
    /// Publishes at QoS 0: nobody says whether it arrived.
    pub async fn publish_live(&self, topic: String, payload: Vec<u8>) -> Result<(), String> {
        let options = PublishOptions::new(QoS::AtMostOnce);
        let sent = self.client.publish(topic, payload, options).await;
        sent.map_err(|error| error.to_string())
    }
}

impl Session for Connection {
    async fn subscribe(&mut self, topic: &str) -> Result<(), String> {
        let notice = self.client.subscribe_tracked(topic, QoS::AtLeastOnce).await;
        let notice = notice.map_err(|error| error.to_string())?;
        let ack = notice.wait_async().await.map_err(|error| error.to_string())?;
        match ack.return_codes.first() {
            Some(SubscribeReasonCode::Success(_)) => Ok(()),
            refused => Err(format!(
                "the broker refused the subscription to {topic}: {refused:?}; check its access rules"
            )),
        }
    }

    async fn publish(&mut self, message: Message) -> Result<PendingAnswer, String> {
        let mut options = PublishOptions::new(QoS::AtLeastOnce).retain(message.retain);
        if let Some(Reply { topic, correlation }) = message.reply {
            options = options.properties(PublishProperties {
                response_topic: topic,
                correlation_data: correlation,
                ..PublishProperties::default()
            });
        }
        let notice = self.client.publish_tracked(message.topic, message.payload, options).await;
        let notice = notice.map_err(|error| error.to_string())?;
        Ok(Box::pin(answer::answer(notice)))
    }

    async fn incoming(&mut self) -> Result<Message, Closed> {
        let ended = || Closed { why: "the connection has ended".into(), ..Closed::default() };
        self.incoming.recv().await.unwrap_or_else(|| Err(ended()))
    }

    fn max_message(&self) -> Option<usize> {
        self.max_message
    }

    async fn disconnect(mut self) {
        if self.client.disconnect_now().await.is_ok() {
            // The driver ends once the packet is on its way.
            _ = time::timeout(GOODBYE, async { while self.incoming.recv().await.is_some() {} })
                .await;
        }
    }
}

/// Where the answer to a message goes. A topic that is none to publish on is nobody's.
fn reply(properties: PublishProperties) -> Option<Reply> {
    let is_topic = |topic: &String| {
        (1..=MAX_REPLY_TOPIC).contains(&topic.len()) && !topic.contains(['+', '#', '\0', '$'])
    };
    let topic = properties.response_topic.filter(is_topic);
    let correlation = properties.correlation_data.filter(|it| it.len() <= MAX_CORRELATION);
    (topic.is_some() || correlation.is_some()).then_some(Reply { topic, correlation })
}

/// One attempt, step by step, beside the connection that is in use.
pub async fn test(mqtt: &Mqtt, endpoint: &Endpoint, topics: &Topics) -> api::LinkTest {
    let mut test = Test { steps: Vec::new() };
    let ok = test.run(mqtt, endpoint, topics).await.is_some();
    api::LinkTest { endpoint: endpoint.to_string(), steps: test.steps, ok }
}

struct Test {
    steps: Vec<api::LinkTestStep>,
}

impl Test {
    async fn run(&mut self, mqtt: &Mqtt, endpoint: &Endpoint, topics: &Topics) -> Option<()> {
        let (who, host, port) = match &mqtt.proxy {
            None => ("broker", endpoint.host.as_str(), endpoint.port),
            Some(proxy) => ("proxy", proxy.host.as_str(), proxy.port),
        };
        let tcp = async {
            let stream = TcpStream::connect((host, port)).await.map_err(|error| {
                format!("{error}; is the {who} running there, and does a firewall let us through?")
            })?;
            Ok((format!("from {}", stream.local_addr().map_or("?".into(), |a| a.to_string())), ()))
        };
        self.step(format!("connect tcp {host}:{port}"), tcp).await?;
        let connect = async {
            let options = mqtt.options(endpoint, &format!("{}-test", mqtt.client_id))?;
            Ok((format!("as user {}", mqtt.username), Connection::open(options).await?))
        };
        let name = if endpoint.tls { "MQTT 5 connect over TLS" } else { "MQTT 5 connect" };
        let mut connection = self.step(name.into(), connect).await?;
        let topic = topics.desired();
        let subscribe =
            async { connection.subscribe(&topic).await.map(|()| ("granted".into(), ())) };
        self.step(format!("subscribe {topic}"), subscribe).await?;
        let topic = topics.link_test();
        let message =
            Message { topic: topic.clone(), payload: Bytes::new(), retain: false, reply: None };
        let publish = async {
            match connection.publish(message).await?.await {
                Answer::Taken { heard: true } => Ok(("acknowledged".into(), ())),
                Answer::Taken { heard: false } => {
                    Ok(("acknowledged; nobody subscribes to it, which is no fault".into(), ()))
                }
                Answer::RefusedForGood(why) | Answer::RefusedForNow(why) => Err(why),
                Answer::Lost => Err("the broker closed the connection instead of answering".into()),
            }
        };
        self.step(format!("publish {topic}"), publish).await?;
        connection.disconnect().await;
        Some(())
    }

    async fn step<T>(
        &mut self,
        step: String,
        action: impl Future<Output = Result<(String, T), String>>,
    ) -> Option<T> {
        let started = Instant::now();
        let result = time::timeout(TEST_STEP_DEADLINE, action)
            .await
            .map_err(|_| format!("no answer within {TEST_STEP_DEADLINE:?}"))
            .flatten();
        let (ok, detail, value) = match result {
            Ok((detail, value)) => (true, detail, Some(value)),
            Err(error) => (false, error, None),
        };
        let took_ms = started.elapsed().as_millis() as u64;
        self.steps.push(api::LinkTestStep { step, ok, took_ms, detail });
        value
    }
}
