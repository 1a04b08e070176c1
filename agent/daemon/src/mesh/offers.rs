//! The task `mesh-offers`: tells the mesh who this node's containers are, and which endpoints
//! they have by their annotations. The mesh keeps both, and goes by them while the agent is
//! dead.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper::Method;
use purlin_core::{mesh::offer::MAX_OFFERS, place::container::Identity};
use purlin_proto::mesh as view;
use tokio::{sync::watch, time};

use super::{
    LOOK, Seen,
    ask::{Failed, ask},
};
use crate::placement::Served;

/// They are told again, should the mesh have lost them. What changes, and another mesh, is
/// told at once.
const AGAIN: Duration = Duration::from_secs(300);

/// What the task owns.
#[derive(Debug)]
pub struct Owner {
    /// The mesh's socket.
    pub socket: PathBuf,
    /// Who the containers are, and what they serve; `None` while that isn't known.
    pub served: watch::Receiver<Option<Arc<Served>>>,
    /// Which mesh is there.
    pub mesh: watch::Receiver<Seen>,
}

impl Owner {
    /// Tells for ever.
    pub async fn run(&mut self) {
        let mut refused = None;
        loop {
            let served = self.served.borrow_and_update().clone();
            let pid = self.mesh.borrow_and_update().view.pid;
            let mut again = AGAIN;
            if let Some(served) = &served {
                let why = match self.tell(served).await {
                    Ok(()) => None,
                    Err(Failed::Refused(why)) => Some(why),
                    Err(Failed::Unreachable(_)) => {
                        again = LOOK;
                        None
                    }
                };
                // Once, and not every few minutes.
                if why != refused {
                    let told = why.iter();
                    told.for_each(|why| {
                        tracing::warn!(why, "the mesh does not take what it is told")
                    });
                    refused = why;
                }
            }
            tokio::select! {
                changed = self.served.changed() => if changed.is_err() { return },
                seen = self.mesh.wait_for(|it| it.view.pid != pid) => if seen.is_err() { return },
                () = time::sleep(again) => {}
            }
        }
    }

    async fn tell(&self, served: &Served) -> Result<(), Failed> {
        let offer = |(service, address, container): &(String, std::net::SocketAddr, String)| {
            view::OfferAsked {
                service: service.clone(),
                address: address.to_string(),
                source: Some(format!("container {container}")),
                ..Default::default()
            }
        };
        let workload = |it: &Identity| view::WorkloadTold {
            name: it.workload.to_string(),
            cgroup: it.cgroup.clone(),
            addresses: it.addresses.clone(),
        };
        let workloads: Vec<_> = served.identities.iter().map(workload).collect();
        let body = serde_json::to_vec(&workloads).unwrap_or_default().into();
        ask::<()>(&self.socket, Method::PUT, "/v1/workloads", body).await?;
        let offers: Vec<_> = served.services.iter().take(MAX_OFFERS).map(offer).collect();
        let body = serde_json::to_vec(&offers).unwrap_or_default().into();
        ask::<view::Offers>(&self.socket, Method::PUT, "/v1/offers", body).await?;
        match served.services.len() {
            count if count > MAX_OFFERS => Err(Failed::Refused(format!(
                "containers have {count} endpoints; {MAX_OFFERS} are told"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, body::Bytes, routing::put};
    use purlin_core::mesh::workload::Workload;
    use purlin_proto::api;
    use tokio::{net::UnixListener, sync::mpsc};

    use super::*;
    use crate::serve::Connections;

    /// A mesh that passes on the services and the workloads it is told of.
    async fn stand_in(socket: PathBuf, told: mpsc::UnboundedSender<Vec<String>>) {
        let listener = UnixListener::bind(socket).expect("a socket");
        let mut connections = Connections::new(4, Duration::from_secs(10));
        loop {
            let (named, told) = (told.clone(), told.clone());
            let name = async move |body: Bytes| {
                let all: Vec<view::WorkloadTold> = serde_json::from_slice(&body).expect("them");
                _ = named.send(all.into_iter().map(|it| it.name).collect());
                Json(())
            };
            let take = async move |body: Bytes| {
                let all: Vec<view::OfferAsked> = serde_json::from_slice(&body).expect("offers");
                _ = told.send(all.into_iter().map(|it| it.service).collect());
                Json(view::Offers::default())
            };
            let (stream, _) = listener.accept().await.expect("a connection");
            let router = Router::new().route("/v1/offers", put(take));
            connections.serve(stream, router.route("/v1/workloads", put(name)));
        }
    }

    #[tokio::test]
    async fn what_changes_and_another_mesh_is_told_at_once_and_the_same_mesh_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("mesh.sock");
        let serves = |name: &str| {
            let at = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
            let services = vec![(name.to_owned(), at, "default/web".to_owned())];
            let identity = Identity {
                workload: Workload::container(Some("shop"), name).expect("a name"),
                cgroup: "/1".into(),
                addresses: Vec::new(),
            };
            Some(Arc::new(Served { services, identities: vec![identity] }))
        };
        let is_pid = |pid| Seen {
            view: api::Mesh { pid: Some(pid), ..api::Mesh::default() },
            ..Seen::default()
        };
        let (told, mut hears) = mpsc::unbounded_channel();
        tokio::spawn(stand_in(socket.clone(), told));
        let (served, serving) = watch::channel(None);
        let (mesh, seen) = watch::channel(is_pid(1));
        let mut owner = Owner { socket, served: serving, mesh: seen };
        tokio::spawn(async move { owner.run().await });
        let mut hear = async |what: &str| {
            for what in [format!("workload/shop/{what}"), what.to_owned()] {
                let heard = time::timeout(LOOK, hears.recv()).await;
                assert_eq!(heard, Ok(Some(vec![what])));
            }
            // It is looked at every few seconds, and is the same.
            for _ in 0..10 {
                mesh.send_modify(|_| {});
                time::sleep(Duration::from_millis(10)).await;
            }
            assert!(hears.is_empty(), "told for nothing");
        };

        served.send_replace(serves("a"));
        hear("a").await;
        served.send_replace(serves("b"));
        hear("b").await;
        mesh.send_replace(is_pid(2));
        hear("b").await;
    }
}
