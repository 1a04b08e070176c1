//! `purlin audit`: what was done to this node, and whether the record of it is whole.

use purlin_daemon::{audit::chain::Head, offline};
use purlin_proto::api::{Audit, AuditEntry, AuditHead};
use serde::Serialize;

use crate::{
    args::{AuditCommand, Global},
    client::{Answer, Client},
    exit::{Ended, Exit},
    output::{Output, Page},
    table::{self, Column::*, Width},
    units, watch,
};

/// `purlin audit …`
pub async fn run(command: &AuditCommand, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    match command {
        AuditCommand::List { count } => {
            let fetch = async || {
                let Answer { document: audit, note } = read(&client, &[]).await?;
                let more = audit.entries.len().saturating_sub(*count);
                let entries = audit.entries.into_iter().skip(more).collect();
                Ok(Answer { document: Listed { entries, broken: audit.broken }, note })
            };
            watch::show(output, None, fetch).await
        }
        AuditCommand::Verify { anchor } => {
            let fetch = async || {
                let Answer { document: audit, note } = read(&client, anchor).await?;
                let Audit { first, head, key, broken, .. } = audit;
                Ok(Answer { document: Verified { first, head, key, broken }, note })
            };
            watch::show(output, None, fetch).await
        }
    }
}

async fn read(
    client: &Client,
    anchors: &[AuditHead],
) -> Result<Answer<Audit>, crate::exit::Failure> {
    let text = anchors.iter().map(|it| format!("{}:{}", it.number, it.sha256));
    let path = format!("/v1/audit?anchors={}", text.collect::<Vec<_>>().join(","));
    let heads = || {
        let head = |it: &AuditHead| Head { number: it.number, sha256: it.sha256.clone() };
        anchors.iter().map(head).collect()
    };
    client.get_or_read(&path, |boot| offline::audit(boot, heads())).await
}

#[derive(Serialize)]
struct Listed {
    entries: Vec<AuditEntry>,
    broken: Option<String>,
}

impl Page for Listed {
    fn page(&self, width: Width) -> String {
        let broken = match &self.broken {
            Some(why) => format!("the record ends here, since it was changed: {why}\n"),
            None => String::new(),
        };
        if self.entries.is_empty() {
            return table::sections(["nothing is on record\n".into(), broken]);
        }
        let header = [Right("LINE"), Whole("WHEN"), Left("WHO"), Left("WHAT"), Left("TEXT")];
        let row = |it: &AuditEntry| {
            let (number, when) = (it.number.to_string(), units::time(it.unix_ms));
            vec![number, when, it.by.clone(), it.what.clone(), it.text.clone()]
        };
        table::sections([table::columns(&header, self.entries.iter().map(row), width), broken])
    }

    fn exit(&self) -> Exit {
        exit(&self.broken)
    }
}

#[derive(Serialize)]
struct Verified {
    first: u64,
    head: Option<AuditHead>,
    key: String,
    broken: Option<String>,
}

impl Page for Verified {
    fn page(&self, _: Width) -> String {
        match (&self.broken, &self.head) {
            (Some(why), _) => format!("not what was written: {why}\n"),
            (None, None) => "nothing is on record\n".into(),
            (None, Some(AuditHead { number, sha256 })) => format!(
                "whole from line {} to {number}, with checkpoints by key {}\n\
                 keep this, or compare it with what the core was told: {number}:{sha256}\n",
                self.first, self.key
            ),
        }
    }

    fn exit(&self) -> Exit {
        exit(&self.broken)
    }
}

fn exit(broken: &Option<String>) -> Exit {
    match broken {
        Some(_) => Exit::Faults,
        None => Exit::Ok,
    }
}
