//! The ways to the core, and the transport that knows them all: brokers over MQTT, and
//! peers of the rack that send on.

use std::{fmt, sync::Arc};

use purlin_core::settings::Endpoint;

use super::{
    Closed, Message, PendingAnswer, Session, Transport,
    mqtt::{Connection, Mqtt},
    relay::{Config, Peer, origin::Relayed},
};
use crate::door::Identity;

/// One way to the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A broker.
    Broker(Endpoint),
    /// The same, through the mesh of a node that reaches it.
    Tunnel(Endpoint),
    /// A peer that reaches one.
    Peer(Peer),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Broker(endpoint) => endpoint.fmt(f),
            Way::Tunnel(endpoint) => write!(f, "{endpoint} through the mesh"),
            Way::Peer(peer) => peer.fmt(f),
        }
    }
}

/// All ways of a node.
#[derive(Clone, Debug)]
pub struct Rack {
    /// To brokers.
    pub mqtt: Mqtt,
    /// To peers, if there are any, and who we are to them.
    pub relay: Option<(Arc<Config>, Identity)>,
}

/// A connection over either.
#[derive(Debug)]
pub enum Either {
    /// To a broker.
    Broker(Connection),
    /// To a peer.
    Peer(Relayed),
}

impl Transport for Rack {
    type Session = Either;

    async fn connect(&self, endpoint: &Endpoint) -> Result<Either, String> {
        self.mqtt.connect(endpoint).await.map(Either::Broker)
    }

    async fn connect_through_mesh(&self, endpoint: &Endpoint) -> Result<Either, String> {
        self.mqtt.connect_through_mesh(endpoint).await.map(Either::Broker)
    }

    async fn connect_peer(&self, peer: &Peer) -> Result<Either, String> {
        let (config, identity) = self.relay.as_ref().ok_or("no peer is configured")?;
        Relayed::connect(config, &self.mqtt.floor, peer, identity).await.map(Either::Peer)
    }
}

impl Session for Either {
    async fn subscribe(&mut self, topic: &str) -> Result<(), String> {
        match self {
            Either::Broker(session) => session.subscribe(topic).await,
            Either::Peer(session) => session.subscribe(topic).await,
        }
    }

    async fn publish(&mut self, message: Message) -> Result<PendingAnswer, String> {
        match self {
            Either::Broker(session) => session.publish(message).await,
            Either::Peer(session) => session.publish(message).await,
        }
    }

    async fn incoming(&mut self) -> Result<Message, Closed> {
        match self {
            Either::Broker(session) => session.incoming().await,
            Either::Peer(session) => session.incoming().await,
        }
    }

    fn max_message(&self) -> Option<usize> {
        match self {
            Either::Broker(session) => session.max_message(),
            Either::Peer(session) => session.max_message(),
        }
    }

    fn is_broker(&self) -> bool {
        matches!(self, Either::Broker(_))
    }

    async fn disconnect(self) {
        match self {
            Either::Broker(session) => session.disconnect().await,
            Either::Peer(session) => session.disconnect().await,
        }
    }
}
