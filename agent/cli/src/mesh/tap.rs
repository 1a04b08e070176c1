//! `purlin mesh tap`: HTTP requests as they go through, a line each.

use std::time::Duration;

use purlin_proto::mesh::{Tapped, Taps};
use tokio::time;

use crate::{
    client::Client,
    exit::{Ended, Exit},
    output::Output,
    units,
};

/// Between two looks; the mesh keeps what comes meanwhile.
const LOOK: Duration = Duration::from_millis(300);

/// Until so many were shown.
pub async fn run(count: Option<u64>, client: &Client, output: &Output) -> Ended {
    let mut left = count.unwrap_or(u64::MAX);
    let mut taps: Taps = client.get("/v1/tap").await?.document;
    loop {
        for request in &taps.requests {
            output.append(request, || {
                line(request)
                    + "
"
            })?;
            left -= 1;
            if left == 0 {
                return Ok(Exit::Ok);
            }
        }
        time::sleep(LOOK).await;
        taps = client.get(&format!("/v1/tap?after={}", taps.last)).await?.document;
    }
}

fn line(it: &Tapped) -> String {
    let by = it.endpoint.as_deref().unwrap_or("the mesh");
    let workload = it.workload.as_ref().map(|it| format!(" ({it})")).unwrap_or_default();
    let trace = it.trace.as_ref().map(|it| format!(" trace {it}")).unwrap_or_default();
    format!(
        "{} {}{workload} {} {}{} {} by {by} in {:.1} ms{trace}",
        units::time(it.unix_ms),
        it.client,
        it.method,
        it.host,
        it.path,
        it.status,
        it.ms
    )
}
