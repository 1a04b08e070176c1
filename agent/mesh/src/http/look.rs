//! One request for whoever looks: `purlin mesh tap`, and the access log.

use std::{net::SocketAddr, rc::Rc, time::Instant};

use hyper::{Request, header};
use purlin_core::mesh::{authorize::Principal, trace::Trace, workload::Workload};
use purlin_proto::mesh::Tapped;

use super::Inbound;
use crate::{connection::Connection, worker::Worker};

/// The longest path that is shown, in bytes.
const MAX_PATH: usize = 256;

/// A request that is looked at.
#[derive(Debug)]
pub struct At {
    began: Instant,
    tapped: Tapped,
}

impl At {
    /// It begins.
    pub fn new(connection: &Rc<Connection>, request: &Request<Inbound>, trace: Trace) -> Self {
        let header = |name| request.headers().get(name).and_then(|it| it.to_str().ok());
        let authority = request.uri().authority().map(|it| it.as_str());
        let host = authority.or_else(|| header(header::HOST)).unwrap_or_default();
        let tapped = Tapped {
            client: match &connection.through {
                Some(through) => through.principal.to_string(),
                None => connection.peer.to_string(),
            },
            method: request.method().to_string(),
            host: host.to_owned(),
            path: request.uri().path().chars().take(MAX_PATH).collect(),
            trace: Some(trace.id()),
            ..Default::default()
        };
        Self { began: Instant::now(), tapped }
    }

    /// A way through a tunnel that another node asks for.
    pub fn of_tunnel(principal: &Principal, to: SocketAddr, trace: Trace) -> Self {
        let tapped = Tapped {
            client: principal.to_string(),
            method: "CONNECT".into(),
            host: to.to_string(),
            trace: Some(trace.id()),
            ..Default::default()
        };
        Self { began: Instant::now(), tapped }
    }

    /// Its answer begins.
    pub fn over(
        mut self,
        worker: &Worker,
        status: u16,
        endpoint: Option<String>,
        workload: Option<Rc<Workload>>,
    ) {
        let it = &mut self.tapped;
        it.workload = workload.map(|it| it.to_string());
        it.status = status;
        it.ms = self.began.elapsed().as_secs_f32() * 1000.0;
        it.endpoint = endpoint;
        if worker.live().table.access_log {
            let Tapped { client, method, host, path, status, ms, .. } = &*it;
            let (endpoint, trace) = (it.endpoint.as_deref(), it.trace.as_deref());
            let workload = it.workload.as_deref();
            tracing::info!(
                client, workload, method, host, path, status, endpoint, ms, trace, "request"
            );
        }
        if worker.tap.is_on() {
            worker.tap.note(self.tapped);
        }
    }
}
