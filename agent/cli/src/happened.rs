//! What happened to alarms and hardware in the last day, from the agent's local history.

use std::time::Duration;

use purlin_proto::api::{Happened, Happenings};

use crate::{
    client::Client,
    exit::{Ended, Exit},
    output::{Output, Page},
    table::{self, Column::*, Width},
    units,
};

/// Shows it, the newest last.
pub async fn show(client: &Client, kind: Happened, since: Duration, output: &Output) -> Ended {
    let name = match kind {
        Happened::Alarm => "alarm",
        Happened::Hardware => "hardware",
    };
    let since_ms = units::now_ms().saturating_sub(since.as_millis() as u64);
    let path = format!("/v1/happened?kind={name}&since_unix_ms={since_ms}");
    let happened: Happenings = client.get(&path).await?.document;
    output.show(&happened, |width| happened.page(width))?;
    Ok(Exit::Ok)
}

impl Page for Happenings {
    fn page(&self, width: Width) -> String {
        if self.happened.is_empty() {
            return "nothing happened in that time\n".into();
        }
        let header = [Whole("WHEN"), Left("WHAT"), Left("TO"), Left("TEXT")];
        let row = |it: &purlin_proto::api::Happening| {
            let by = if it.by.is_empty() { String::new() } else { format!(" ({})", it.by) };
            let text = format!("{}{by}", it.text);
            vec![units::time(it.unix_ms), it.what.clone(), it.id.clone(), text]
        };
        table::columns(&header, self.happened.iter().map(row), width)
    }
}
