//! `purlin queue purge`: gives up what waits of one class. It asks first, and the core
//! is told which numbers are gone and that a person did it.

use purlin_proto::api::{Purged, Queue};

use crate::{
    args::Global,
    client::{Body, Client, DEADLINE},
    confirm,
    exit::{Ended, Exit, Failure},
    output::{Output, Page},
    table::{Width, pair},
    units,
};

/// Purges a class; with `yes` without asking.
pub async fn run(class: &str, yes: bool, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    let queue: Queue = client.get("/v1/queue").await?.document;
    let found = queue.classes.iter().find(|it| it.class == class);
    let found = found.ok_or_else(|| Failure::Failed(format!("the agent has no class {class}")))?;
    if found.pending == 0 {
        return Err(Failure::Failed(format!("nothing waits in class {class}")));
    }
    if !yes {
        let since = found
            .oldest_unix_ms
            .map_or(String::new(), |ms| format!(", the oldest of {}", units::time(ms)));
        let records = units::count(found.pending, "record", "records");
        let what = format!(
            "{records} of class {class} that the core does not have{since} would be gone for good. \
             `purlin queue export` keeps them in a file."
        );
        confirm::typed(class, &what)?;
    }
    let path = format!("/v1/queue/purge?class={class}");
    let purged: Purged = client.post(&path, Body::default(), DEADLINE).await?;
    output.show(&purged, |width| purged.page(width))?;
    Ok(Exit::Ok)
}

impl Page for Purged {
    fn page(&self, width: Width) -> String {
        let records = units::count(self.records, "record", "records");
        let text = format!("{records} of class {}, up to number {}", self.class, self.last_seq);
        pair("removed", &text, width)
    }
}
