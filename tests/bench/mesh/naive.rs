//! The plainest proxy that hyper makes: hyper-util's client with its own pool behind
//! hyper's server, one thread.

use std::time::Duration;

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use purlin_tests::Result;
use tokio::net::TcpListener;

/// Longer than any benchmark.
const ENDS_AFTER: Duration = Duration::from_secs(3600);

pub fn run(listen: &str, upstream: &str) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let served = tokio::time::timeout(ENDS_AFTER, serve(listen, upstream));
        served.await.unwrap_or(Ok(()))
    })
}

async fn serve(listen: &str, upstream: &str) -> Result {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, upstream) = (client.clone(), upstream.to_owned());
        tokio::spawn(async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                let path = request.uri().path().to_owned();
                if let Ok(uri) = format!("http://{upstream}{path}").parse() {
                    *request.uri_mut() = uri;
                }
                client.request(request)
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new());
            _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
