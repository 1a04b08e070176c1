//! One request for whoever looks: `purlin mesh tap`, and the access log.

use std::{rc::Rc, time::Instant};

use hyper::{Request, Response, body::Incoming, header};
use purlin_proto::mesh::Tapped;

use super::{Body, forward::By};
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
    pub fn new(connection: &Rc<Connection>, request: &Request<Incoming>) -> Self {
        let header = |name| request.headers().get(name).and_then(|it| it.to_str().ok());
        let authority = request.uri().authority().map(|it| it.as_str());
        let host = authority.or_else(|| header(header::HOST)).unwrap_or_default();
        // version-traceid-parentid-flags (W3C Trace Context, 3.2.2).
        let trace = request.headers().get("traceparent").and_then(|it| it.to_str().ok());
        let trace = trace.and_then(|it| it.split('-').nth(1)).filter(|it| it.len() == 32);
        let tapped = Tapped {
            client: match &connection.through {
                Some(through) => through.principal.clone(),
                None => connection.peer.to_string(),
            },
            method: request.method().to_string(),
            host: host.to_owned(),
            path: request.uri().path().chars().take(MAX_PATH).collect(),
            trace: trace.map(str::to_owned),
            ..Default::default()
        };
        Self { began: Instant::now(), tapped }
    }

    /// Its answer begins.
    pub fn over(mut self, worker: &Worker, answer: &Response<Body>) {
        let it = &mut self.tapped;
        it.status = answer.status().as_u16();
        it.ms = self.began.elapsed().as_secs_f32() * 1000.0;
        it.endpoint = answer.extensions().get::<By>().map(|it| it.0.shown());
        if worker.live().table.access_log {
            let Tapped { client, method, host, path, status, endpoint, ms, trace, .. } = &*it;
            let (endpoint, trace) = (endpoint.as_deref(), trace.as_deref());
            tracing::info!(client, method, host, path, status, endpoint, ms, trace, "request");
        }
        if worker.tap.is_on() {
            worker.tap.note(self.tapped);
        }
    }
}
