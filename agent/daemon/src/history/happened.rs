//! What happened to alarms and hardware, as the history tells it: from the records that
//! the core gets too.

use std::collections::HashMap;

use purlin_proto::{
    api::{Happened, Happening},
    v1::{Alarm, Record, record::Body},
};

/// Whether the history keeps it.
pub fn is_kept(body: &Body) -> bool {
    match body {
        Body::Alarm(_) => true,
        Body::Event(event) => event.name.starts_with("hw."),
        _ => false,
    }
}

/// Tells records that are in order. Those before `since_unix_ms` are only what the
/// later ones are told apart from.
pub fn tell(records: Vec<Record>, since_unix_ms: u64) -> Vec<Happening> {
    let mut before: HashMap<String, Alarm> = HashMap::new();
    let mut told = Vec::new();
    for Record { unix_ms, body, .. } in records {
        let it = match body {
            Some(Body::Alarm(alarm)) => {
                let what = change(before.get(&alarm.id), &alarm);
                let (id, text) = (alarm.id.clone(), alarm.text.clone());
                let (kind, by) = (Happened::Alarm, said(&what, &alarm));
                before.insert(id.clone(), alarm);
                Happening { unix_ms, kind, what, id, text, by }
            }
            Some(Body::Event(event)) => Happening {
                unix_ms,
                kind: Happened::Hardware,
                what: event.name.trim_start_matches("hw.").to_owned(),
                id: event.attributes.get("hw.id").cloned().unwrap_or_default(),
                text: event.text,
                by: String::new(),
            },
            _ => continue,
        };
        if unix_ms >= since_unix_ms {
            told.push(it);
        }
    }
    told
}

/// What became of an alarm, by what was known of it.
fn change(before: Option<&Alarm>, now: &Alarm) -> String {
    let before = before.filter(|it| it.raised);
    let differs = |of: fn(&Alarm) -> String| before.is_some_and(|it| of(it) != of(now));
    let what = match () {
        () if !now.raised => "cleared",
        () if before.is_none() && now.acknowledged.is_empty() && now.returns == 0 => "raised",
        () if differs(|it| it.acknowledged.clone()) => "acknowledged",
        () if differs(|it| it.silenced_until_unix_ms.to_string()) => "silenced",
        () if differs(|it| it.returns.to_string()) => "came back",
        () if now.over && differs(|it| it.over.to_string()) => "over",
        () => "changed",
    };
    what.to_owned()
}

/// Who did it.
fn said(what: &str, alarm: &Alarm) -> String {
    if what == "acknowledged" { alarm.acknowledged.clone() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use purlin_proto::v1::Event;

    use super::*;

    #[test]
    fn an_alarms_records_are_told_as_what_changed() {
        let raised = Alarm { id: "hot".into(), raised: true, ..Alarm::default() };
        let known = Alarm { acknowledged: "uid 0: fan ordered".into(), ..raised.clone() };
        let silent = Alarm { silenced_until_unix_ms: 9, ..known.clone() };
        let back = Alarm { returns: 1, ..silent.clone() };
        let over = Alarm { over: true, ..back.clone() };
        let cleared = Alarm { raised: false, ..over.clone() };
        let gone = Event { name: "hw.vanished".into(), text: "a disk".into(), ..Event::default() };
        let alarms = [raised.clone(), known, silent, back, over, cleared, raised];
        let bodies = alarms.into_iter().map(Body::Alarm).chain([Body::Event(gone)]);
        let record = |(n, body)| Record { unix_ms: n, body: Some(body), ..Record::default() };
        let records: Vec<_> = (0..).zip(bodies).map(record).collect();
        let what = |since| {
            let told = tell(records.clone(), since).into_iter().map(|it| it.what);
            told.collect::<Vec<_>>().join(", ")
        };
        let all = "raised, acknowledged, silenced, came back, over, cleared, raised, vanished";
        assert_eq!(what(0), all);
        assert_eq!(what(4), "over, cleared, raised, vanished");
        assert_eq!(tell(records, 1)[0].by, "uid 0: fan ordered");
    }
}
