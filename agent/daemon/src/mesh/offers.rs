//! The task `mesh-offers`: tells the mesh which endpoints this node's containers have, by
//! their annotations. The mesh keeps them, and offers them on while the agent is dead.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper::Method;
use purlin_core::mesh::offer::MAX_OFFERS;
use purlin_proto::mesh as view;
use tokio::{sync::watch, time};

use super::ask::{Failed, ask};
use crate::placement::Served;

/// A mesh that came up meanwhile is told too. What changes is told at once.
const EVERY: Duration = Duration::from_secs(5);

/// What the task owns.
#[derive(Debug)]
pub struct Owner {
    /// The mesh's socket.
    pub socket: PathBuf,
    /// What the containers serve; `None` while that isn't known.
    pub served: watch::Receiver<Option<Arc<Served>>>,
}

impl Owner {
    /// Tells for ever.
    pub async fn run(&mut self) {
        let mut refused = None;
        loop {
            let served = self.served.borrow_and_update().clone();
            if let Some(served) = &served {
                let why = self.tell(served).await;
                // Once, and not every few seconds.
                if why != refused {
                    why.iter().for_each(|why| tracing::warn!(why, "the mesh takes no offers"));
                    refused = why;
                }
            }
            tokio::select! {
                changed = self.served.changed() => if changed.is_err() { return },
                () = time::sleep(EVERY), if served.is_some() => {}
            }
        }
    }

    /// Why the mesh doesn't take them; one that isn't there is told when it is.
    async fn tell(&self, served: &Served) -> Option<String> {
        let offer = |(service, address, container): &(String, std::net::SocketAddr, String)| {
            view::OfferAsked {
                service: service.clone(),
                address: address.to_string(),
                source: Some(format!("container {container}")),
                ..Default::default()
            }
        };
        let offers: Vec<_> = served.iter().take(MAX_OFFERS).map(offer).collect();
        let body = serde_json::to_vec(&offers).unwrap_or_default().into();
        let asked = ask::<view::Offers>(&self.socket, Method::PUT, "/v1/offers", body).await;
        match asked {
            Err(Failed::Refused(why)) => Some(why),
            _ if served.len() > MAX_OFFERS => {
                Some(format!("containers have {} endpoints; {MAX_OFFERS} are told", served.len()))
            }
            _ => None,
        }
    }
}
