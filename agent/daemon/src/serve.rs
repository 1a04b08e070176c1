//! HTTP/1 for whoever connects to this machine: so many at once, each for so long.

use std::time::Duration;

use axum::Router;
use hyper::{rt, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time,
};

/// For a request's head to arrive.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// Connections that are open.
#[derive(Debug)]
pub struct Connections {
    open: JoinSet<()>,
    most: usize,
    /// For everything on one connection; a client connects anew.
    deadline: Duration,
}

impl Connections {
    /// None yet.
    pub fn new(most: usize, deadline: Duration) -> Self {
        Self { open: JoinSet::new(), most, deadline }
    }

    /// Serves one more. Where there are as many as there may be it is closed at once, and
    /// whoever it was tries again.
    pub fn serve<S>(&mut self, stream: S, router: Router)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        TokioIo<S>: rt::Read + rt::Write,
    {
        while self.open.try_join_next().is_some() {}
        if self.open.len() >= self.most {
            return;
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let deadline = self.deadline;
        // How it ended is the client's affair.
        self.open.spawn(async move { _ = time::timeout(deadline, connection).await });
    }
}
