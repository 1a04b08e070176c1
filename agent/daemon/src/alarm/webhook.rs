//! Posts the alarms to a receiver on site, as Alertmanager posts to its webhooks.
//!
//! Source: Alertmanager's documentation, "Configuration", `webhook_config` (payload
//! version 4). What is posted is what is raised now and what was cleared since the
//! receiver last took something, so that nothing has to wait in a queue: a receiver that
//! was away gets the present and what ended meanwhile. A silenced alarm is not posted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::bytes::Bytes;
use purlin_core::{
    alarm::Alarm,
    backoff::Backoff,
    settings::{Settings, Webhook},
};
use serde::Serialize;
use tokio::{sync::watch, time};

use super::Shown;
use crate::{
    door::Identity,
    http::{Poster, Refused},
    state,
};

/// For one post, connecting included.
const DEADLINE: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);
/// Changes within it are posted together.
const GATHER: Duration = Duration::from_millis(500);

/// What Alertmanager calls a message.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    version: &'static str,
    group_key: String,
    truncated_alerts: u32,
    status: &'static str,
    receiver: &'static str,
    group_labels: BTreeMap<&'a str, &'a str>,
    common_labels: BTreeMap<&'a str, &'a str>,
    common_annotations: BTreeMap<&'a str, &'a str>,
    #[serde(rename = "externalURL")]
    external_url: &'static str,
    alerts: Vec<Alert<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert<'a> {
    status: &'static str,
    labels: BTreeMap<&'a str, &'a str>,
    annotations: BTreeMap<&'a str, &'a str>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'static str,
    fingerprint: &'a str,
}

/// Posts for ever, where a webhook is configured.
pub async fn run(
    identity: Identity,
    mut settings: watch::Receiver<Arc<Settings>>,
    mut shown: watch::Receiver<Arc<Shown>>,
) -> Result<(), String> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    // What the receiver knows as raised.
    let mut told: BTreeSet<String> =
        shown.borrow().raised.iter().map(|alarm| alarm.id.clone()).collect();
    let mut last = Bytes::new();
    loop {
        let webhook = settings.borrow_and_update().alarm_webhook.value.clone();
        let now = shown.borrow_and_update().clone();
        let mut wait = None;
        if let Some(webhook) = webhook {
            let alarms = to_tell(&now, &told);
            let body = payload(&identity, &alarms);
            if !alarms.is_empty() && body != last {
                match time::timeout(DEADLINE, post(&webhook, body.clone())).await {
                    Ok(Ok(())) => {
                        backoff.succeed();
                        told = known(&now, &told);
                        last = body;
                    }
                    failed => {
                        let why = failed.map_or_else(
                            |_| format!("no answer within {DEADLINE:?}"),
                            |posted| posted.err().unwrap_or_default(),
                        );
                        let retry = backoff.fail(state::random_u64().unwrap_or_default());
                        tracing::warn!(%webhook, why, retry_in = ?retry, "alarms are not taken");
                        wait = Some(retry);
                    }
                }
            }
        }
        tokio::select! {
            changed = settings.changed() => changed.map_err(|_| "the configuration's task is gone")?,
            changed = shown.changed() => {
                changed.map_err(|_| "the alarms' task is gone")?;
                time::sleep(GATHER).await;
            }
            () = time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
        }
    }
}

fn is_firing(alarm: &Alarm) -> bool {
    alarm.cleared_unix_ms.is_none()
}

/// What is raised, and of what the receiver takes for raised the ends.
fn to_tell<'a>(shown: &'a Shown, told: &BTreeSet<String>) -> Vec<&'a Alarm> {
    let raised = shown.raised.iter().filter(|it| it.silenced.is_none());
    let mut ended: BTreeMap<&str, &Alarm> = BTreeMap::new();
    for alarm in shown.history.iter().filter(|it| told.contains(&it.id)) {
        ended.insert(&alarm.id, alarm);
    }
    let ended = ended.into_values().filter(|it| shown.raised.iter().all(|up| up.id != it.id));
    raised.chain(ended).collect()
}

/// What the receiver takes for raised once it has that: also one that was silenced since,
/// whose end it is still to be told of.
fn known(shown: &Shown, told: &BTreeSet<String>) -> BTreeSet<String> {
    let raised = shown.raised.iter();
    let known = raised.filter(|it| it.silenced.is_none() || told.contains(&it.id));
    known.map(|it| it.id.clone()).collect()
}

fn payload(identity: &Identity, alarms: &[&Alarm]) -> Bytes {
    let group = BTreeMap::from([("node", &*identity.node), ("fleet", &*identity.fleet)]);
    let alerts = alarms.iter().map(|alarm| alert(alarm, &group)).collect();
    let firing = alarms.iter().any(|it| is_firing(it));
    let payload = Payload {
        version: "4",
        group_key: format!("{{}}:{{node=\"{}\"}}", identity.node),
        truncated_alerts: 0,
        status: if firing { "firing" } else { "resolved" },
        receiver: "purlin",
        group_labels: group.clone(),
        common_labels: group.clone(),
        common_annotations: BTreeMap::new(),
        external_url: "",
        alerts,
    };
    serde_json::to_vec(&payload).unwrap_or_default().into()
}

fn alert<'a>(alarm: &'a Alarm, group: &BTreeMap<&'a str, &'a str>) -> Alert<'a> {
    let name = alarm.id.split('.').next().unwrap_or(&alarm.id);
    let mut labels = group.clone();
    labels.insert("alertname", name);
    labels.insert("instance", &alarm.id);
    labels.insert("severity", alarm.notice.severity.name());
    let mut annotations = BTreeMap::from([("summary", &*alarm.text)]);
    annotations.insert("remedy", &alarm.notice.remedy);
    annotations.insert("page", &alarm.notice.page);
    annotations.retain(|_, text| !text.is_empty());
    Alert {
        status: if is_firing(alarm) { "firing" } else { "resolved" },
        labels,
        annotations,
        starts_at: time_of(alarm.raised_unix_ms),
        // Alertmanager's own zero, for what is not over.
        ends_at: alarm.cleared_unix_ms.map_or("0001-01-01T00:00:00Z".into(), time_of),
        generator_url: "",
        fingerprint: &alarm.id,
    }
}

fn time_of(unix_ms: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms);
    humantime::format_rfc3339_millis(time).to_string()
}

/// The error is for a person.
async fn post(webhook: &Webhook, body: Bytes) -> Result<(), String> {
    let mut poster = Poster::new(webhook.clone());
    match poster.put(&webhook.path, &[], "application/json", body).await {
        Ok(_) => Ok(()),
        Err(Refused::Now(why, _) | Refused::Never(why)) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use purlin_core::alarm::Note;

    use super::*;

    #[test]
    fn the_end_of_one_that_was_silenced_is_told() {
        let hot = Alarm { id: "hot".into(), ..Alarm::default() };
        let ids = |alarms: Vec<&Alarm>| -> Vec<String> {
            alarms.iter().map(|it| it.id.clone()).collect()
        };
        let mut shown = Shown { raised: vec![hot.clone()], ..Shown::default() };
        assert_eq!(ids(to_tell(&shown, &BTreeSet::new())), ["hot"]);
        let told = known(&shown, &BTreeSet::new());
        shown.raised[0].silenced = Some(Note::default());
        assert_eq!(ids(to_tell(&shown, &told)), Vec::<String>::new());
        let told = known(&shown, &told);
        let over = Alarm { cleared_unix_ms: Some(1), ..hot };
        let shown = Shown { history: vec![over], ..Shown::default() };
        assert_eq!(ids(to_tell(&shown, &told)), ["hot"]);
        assert!(known(&shown, &told).is_empty());
    }
}
