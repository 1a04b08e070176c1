//! `purlin alarm`: what a person must know of, and what they do about it.

use std::time::Duration;

use anstyle::AnsiColor;
use purlin_daemon::offline;
use purlin_proto::api::{Act, Alarm, AlarmAct, Alarms, Happened, Note};
use serde::Serialize;

use crate::{
    args::{AlarmCommand, Global},
    client::{Answer, Body, Client},
    exit::{Ended, Exit, Failure},
    happened,
    output::{Output, Page},
    table::{self, Column::*, Width, paint},
    units, watch,
};

/// For an act to be on disk.
const DEADLINE: Duration = Duration::from_secs(10);
const ALARMS: &str = "/v1/alarms";

/// `purlin alarm …`
pub async fn run(command: &AlarmCommand, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    match command {
        AlarmCommand::List(watch) => {
            let fetch = async || {
                let Answer { document: alarms, note } =
                    client.get_or_read(ALARMS, offline::alarms).await?;
                let Alarms { raised, elsewhere, .. } = alarms;
                Ok(Answer { document: Raised { raised, elsewhere }, note })
            };
            watch::show(output, watch.every(), fetch).await
        }
        AlarmCommand::History { since: Some(since) } => {
            happened::show(&client, Happened::Alarm, *since, output).await
        }
        AlarmCommand::History { since: None } => {
            let fetch = async || {
                let Answer { document: alarms, note } =
                    client.get_or_read(ALARMS, offline::alarms).await?;
                let history = alarms.history.into_iter().rev().collect();
                Ok(Answer { document: History { history }, note })
            };
            watch::show(output, None, fetch).await
        }
        AlarmCommand::Ack { id, reason } => act(&client, id, Act::Acknowledge, reason, None).await,
        AlarmCommand::Silence { id, time, reason } => {
            act(&client, id, Act::Silence, reason, Some(time.as_secs())).await
        }
        AlarmCommand::Clear { id, reason } => act(&client, id, Act::Clear, reason, None).await,
    }
}

async fn act(client: &Client, id: &str, act: Act, reason: &str, for_s: Option<u64>) -> Ended {
    // An id is a level of a topic; what is none is no path either.
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        let what = format!("{id:?} is no id: `purlin alarm list` has those of the alarms raised");
        return Err(Failure::Failed(what));
    }
    let body = serde_json::to_vec(&AlarmAct { act, reason: reason.into(), for_s })
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let body = Body { content_type: Some("application/json"), bytes: body };
    let after: Alarms = client.post(&format!("{ALARMS}/{id}"), body, DEADLINE).await?;
    let left = after.raised.iter().find(|alarm| alarm.id == id);
    match (act, left) {
        (Act::Acknowledge, Some(alarm)) if !alarm.over => {
            eprintln!("acknowledged; it is cleared when its cause is gone");
        }
        (Act::Silence, Some(Alarm { silenced: Some(note), .. })) => {
            eprintln!("silent until {}", units::time(note.unix_ms));
        }
        (_, None) => eprintln!("cleared"),
        _ => {}
    }
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Raised {
    raised: Vec<Alarm>,
    elsewhere: Vec<String>,
}

#[derive(Serialize)]
struct History {
    history: Vec<Alarm>,
}

impl Page for Raised {
    fn page(&self, width: Width) -> String {
        let own = match self.raised.is_empty() {
            true => "no alarm is raised\n".into(),
            false => raised(&self.raised, width),
        };
        table::sections([own, heard(&self.elsewhere, width)])
    }

    /// One that nobody silenced is a fault.
    fn exit(&self) -> Exit {
        exit(&self.raised)
    }
}

/// Whether any of them needs somebody.
pub fn exit(raised: &[Alarm]) -> Exit {
    match raised.iter().all(|alarm| alarm.silenced.is_some()) {
        true => Exit::Ok,
        false => Exit::Faults,
    }
}

impl Page for History {
    fn page(&self, width: Width) -> String {
        if self.history.is_empty() {
            return "no alarm was cleared yet\n".into();
        }
        let header = [Left("CLEARED"), Left("LASTED"), Right("CAME BACK"), Left("ALARM")];
        let row = |alarm: &Alarm| {
            let cleared = alarm.cleared_unix_ms.unwrap_or(alarm.raised_unix_ms);
            vec![
                units::time(cleared),
                units::duration(cleared.saturating_sub(alarm.raised_unix_ms)),
                alarm.returns.to_string(),
                format!("{}: {}", alarm.id, alarm.text),
            ]
        };
        table::columns(&header, self.history.iter().map(row), width)
    }
}

/// What other nodes say of theirs, a line a node.
fn heard(elsewhere: &[String], width: Width) -> String {
    let nodes = elsewhere.chunk_by(|one, other| of(one).0 == of(other).0);
    let line = |alarms: &[String]| {
        let ids: Vec<_> = alarms.iter().map(|it| of(it).1).collect();
        table::pair("heard from", &format!("{}: {}", of(&alarms[0]).0, ids.join(", ")), width)
    };
    nodes.map(line).collect()
}

/// Its node and its id there.
fn of(alarm: &str) -> (&str, &str) {
    alarm.split_once('/').unwrap_or(("", alarm))
}

/// Those that are raised, each with what to do.
pub fn raised(alarms: &[Alarm], width: Width) -> String {
    table::sections(alarms.iter().map(|alarm| section(alarm, width)))
}

fn section(alarm: &Alarm, width: Width) -> String {
    let color = if alarm.severity == "critical" { AnsiColor::Red } else { AnsiColor::Yellow };
    let pair = |name: &str, value: &str| match value {
        "" => String::new(),
        value => table::pair(name, value, width),
    };
    let note = |name: &str, note: &Option<Note>, word: &str| match note {
        None => String::new(),
        Some(Note { by, reason, unix_ms }) => {
            pair(name, &format!("{word} {} by {by}: {reason}", units::time(*unix_ms)))
        }
    };
    let since = match (alarm.returns, alarm.over) {
        (0, false) => units::time(alarm.raised_unix_ms),
        (0, true) => format!("{}, and over", units::time(alarm.raised_unix_ms)),
        (n, over) => {
            let end = if over { ", and over" } else { "" };
            format!("{}, came back {n} times{end}", units::time(alarm.raised_unix_ms))
        }
    };
    let now = match (alarm.value, &alarm.unit) {
        (Some(value), Some(unit)) => format!("{value} {unit}"),
        _ => String::new(),
    };
    [
        paint(color.on_default(), &pair(&alarm.severity, &alarm.id)),
        pair("what", &alarm.text),
        pair("now", &now),
        pair("since", &since),
        pair("next", &alarm.remedy),
        pair("page", &alarm.page),
        note("known", &alarm.acknowledged, ""),
        note("silent", &alarm.silenced, "until"),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample::{THEN, page};

    fn hot() -> Alarm {
        Alarm {
            id: "high.shelf.psu1.inlet_temperature".into(),
            severity: "critical".into(),
            text: "hw.temperature of shelf/psu1/inlet_temperature is 61 Cel, above 60 Cel".into(),
            remedy: "look at the fans".into(),
            page: "hw-docs/orv3-psu.md".into(),
            metric: Some("hw.temperature".into()),
            value: Some(63.5),
            unit: Some("Cel".into()),
            raised_unix_ms: THEN,
            returns: 2,
            ..Alarm::default()
        }
    }

    #[test]
    fn an_alarm_says_what_since_when_and_what_to_do() {
        let note = Note { by: "uid 0 (local)".into(), reason: "fan ordered".into(), unix_ms: THEN };
        let elsewhere = ["node1/on-battery.hall", "node1/low.hall", "node2/leak"];
        let raised = Raised {
            raised: vec![Alarm { silenced: Some(note), ..hot() }, hot()],
            elsewhere: elsewhere.map(str::to_owned).into(),
        };
        expect![[r#"
            critical     high.shelf.psu1.inlet_temperature
            what         hw.temperature of shelf/psu1/inlet_temperature is 61 Cel, above 60
                         Cel
            now          63.5 Cel
            since        2026-01-02T03:04:05Z, came back 2 times
            next         look at the fans
            page         hw-docs/orv3-psu.md
            silent       until 2026-01-02T03:04:05Z by uid 0 (local): fan ordered

            critical     high.shelf.psu1.inlet_temperature
            what         hw.temperature of shelf/psu1/inlet_temperature is 61 Cel, above 60
                         Cel
            now          63.5 Cel
            since        2026-01-02T03:04:05Z, came back 2 times
            next         look at the fans
            page         hw-docs/orv3-psu.md

            heard from   node1: on-battery.hall, low.hall
            heard from   node2: leak
        "#]]
        .assert_eq(&page(&raised));
        assert_eq!(raised.exit(), Exit::Faults);
        assert_eq!(exit(&raised.raised[..1]), Exit::Ok);
    }

    #[test]
    fn what_was_cleared_says_how_long_it_was_and_how_often_it_came_back() {
        let cleared = Alarm { cleared_unix_ms: Some(THEN + 65_000), ..hot() };
        expect![[r#"
            CLEARED               LASTED   CAME BACK  ALARM
            2026-01-02T03:05:10Z  1 m 5 s          2  high.shelf.psu1.inlet_temperature:
                                                      hw.temperature of
                                                      shelf/psu1/inlet_temperature is 61
                                                      Cel, above 60 Cel
        "#]]
        .assert_eq(&page(&History { history: vec![cleared] }));
    }
}
