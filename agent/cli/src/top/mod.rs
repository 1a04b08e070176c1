//! `purlin top`: what the node does, on one screen that stays, for the technician at a
//! serial console.
//!
//! The agent is asked anew for each page; nothing is kept between two of them.

use std::{collections::BTreeMap, time::Duration};

use purlin_proto::api::{Metrics, Status};
use tokio::time::sleep;

use crate::{
    args::{Global, TopArgs},
    client::{Answer, Client},
    exit::{Ended, Exit, Failure},
    output::Output,
    units, watch,
};

mod keys;
mod page;
mod rows;

use keys::Keys;
use page::Top;

/// What is asked for.
const SERIES: [&str; 6] = [
    "system.cpu.time",
    "system.cpu.load_average.1m",
    "system.memory",
    "system.disk.io",
    "system.network.io",
    "hw.temperature",
];

/// `purlin top`
pub async fn run(args: &TopArgs, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    let fetch = async || fetch(&client, args.since).await;
    if args.once || !output.is_screen() {
        return watch::show(output, None, fetch).await;
    }
    // Without a keyboard it goes on until Ctrl-C.
    let mut keys = Keys::open();
    let every = Duration::from_secs(args.every);
    loop {
        output.replace(&fetch().await?.document)?;
        tokio::select! {
            () = quit(keys.as_mut()) => return Ok(Exit::Ok),
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
            () = sleep(every) => {}
        }
    }
}

async fn quit(keys: Option<&mut Keys>) {
    match keys {
        Some(keys) => keys.until(b"qQ").await,
        None => std::future::pending().await,
    }
}

async fn fetch(client: &Client, since: Duration) -> Result<Answer<Top>, Failure> {
    let status: Status = client.get("/v1/status").await?.document;
    let until_unix_ms = units::now_ms();
    let since_unix_ms = until_unix_ms.saturating_sub(since.as_millis() as u64);
    let (mut series, mut history) = (BTreeMap::new(), None);
    for name in SERIES {
        let path = format!("/v1/metrics?name={name}&since_unix_ms={since_unix_ms}");
        match client.get::<Metrics>(&path).await {
            Ok(answer) => _ = series.insert(name, answer.document.series),
            // A node without history is still worth a look.
            Err(Failure::Failed(why)) => history = Some(why),
            Err(failure) => return Err(failure),
        }
    }
    let rows = rows::rows(&series);
    let top = Top::new(status, since_unix_ms..until_unix_ms, rows, history);
    Ok(Answer { document: top, note: None })
}
