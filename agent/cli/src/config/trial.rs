//! Documents on trial, from the technician's side.

use std::time::Duration;

use purlin_proto::api::{Config, ConfigTrial, Verdict};
use tokio::time::sleep;

use crate::{
    args::Manner,
    client::{Body, Client, DEADLINE},
    exit::Failure,
    output::note,
};

/// How long `apply` waits for all to be well: a session with a broker takes seconds.
const APPLY: Duration = Duration::from_secs(60);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);
/// The phase of a trial that is in force, and can be confirmed.
const PROVING: &str = "proving";
/// For undoing: each subsystem has ten seconds.
pub const REVERT_DEADLINE: Duration = Duration::from_secs(60);

/// Has a document tried.
pub async fn offer(
    client: &Client,
    body: Body,
    timeout: Duration,
    manner: &Manner,
) -> Result<Verdict, Failure> {
    let mut path = format!("/v1/config?for_s={}&force={}", timeout.as_secs(), manner.force);
    if let (Some(over), Some(reason)) = (manner.over, &manner.reason) {
        path += &format!("&override_s={}&reason={}", over.as_secs(), encoded(reason));
    }
    let offered = client.post::<Verdict>(&path, body, DEADLINE).await;
    // An agent that took a document and fell silent may have put it in force.
    if let Err(Failure::Unreachable(it)) = &offered
        && it.found.may_have_heard()
    {
        note("the document may be in force or not: purlin config history will tell");
    }
    offered
}

/// Has a document tried, and confirms it as soon as all is well.
pub async fn apply(client: &Client, body: Body, manner: &Manner) -> Result<Verdict, Failure> {
    let offered = offer(client, body, APPLY, manner).await?;
    if offered.outcome != "trial" || offered.repeated {
        return Ok(offered);
    }
    let mut told = String::new();
    loop {
        let config = client.get::<Config>("/v1/config").await?.document;
        let Some(trial) = config.trial.filter(|it| it.applied.generation == offered.generation)
        else {
            return verdict(client, &offered).await;
        };
        if trial.phase == PROVING
            && trial.problems.is_empty()
            && let Some(kept) = confirm(client, &trial).await?
        {
            return Ok(kept);
        }
        let problems = trial.problems.join("; ");
        if !problems.is_empty() && problems != told && trial.left_ms < 55_000 {
            note(&format!("not kept yet: {problems}"));
            told = problems;
        }
        sleep(LOOK).await;
    }
}

/// `None` if the agent found that not all is well after all.
async fn confirm(client: &Client, trial: &ConfigTrial) -> Result<Option<Verdict>, Failure> {
    let path = format!("/v1/config/confirm?generation={}", trial.applied.generation);
    match client.post::<Verdict>(&path, Body::default(), DEADLINE).await {
        Ok(verdict) => Ok(Some(verdict)),
        Err(Failure::Failed(_) | Failure::Refused(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// What became of it.
async fn verdict(client: &Client, offered: &Verdict) -> Result<Verdict, Failure> {
    let history = client.get::<purlin_proto::api::History>("/v1/config/history").await?.document;
    let found = history.verdicts.into_iter().find(|it| it.generation == offered.generation);
    found.ok_or_else(|| Failure::Failed("its verdict is gone: see purlin config show".into()))
}

/// Text as part of a query (RFC 3986, section 2).
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_query() {
        assert_eq!(encoded("a fan & «b»=1"), "a%20fan%20%26%20%C2%ABb%C2%BB%3D1");
    }
}
