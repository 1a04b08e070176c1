//! The configuration and what became of documents, as people read them. What is said
//! is what the agent said.

use purlin_proto::api::{
    Applied, Change, Config, ConfigDrift, ConfigTrial, Diff, History, Plan, PlanPart, Refusal,
    Setting, Verdict,
};

use crate::{
    exit::Exit,
    output::Page,
    table::{self, Column::*, Width, pair},
    units,
};

/// What is in force, on one line.
pub fn applied(applied: &Applied) -> String {
    format!(
        "version {} (generation {}) from {}, {}",
        applied.version,
        applied.generation,
        applied.origin,
        units::time(applied.unix_ms)
    )
}

impl Page for Config {
    fn page(&self, width: Width) -> String {
        let header = [Left("SETTING"), Left("VALUE"), Left("FROM")];
        let row = |it: &Setting| vec![it.path.clone(), it.value.clone(), it.origin.clone()];
        let settings = table::columns(&header, self.settings.iter().map(row), width);
        let active = match &self.active {
            Some(it) => applied(it),
            None => "defaults: no document was applied yet".into(),
        };
        let mut page = match &self.trial {
            None => pair("in force", &active, width),
            Some(trial) => {
                pair("on trial", &on_trial(trial), width) + &pair("boots from", &active, width)
            }
        };
        if let Some(it) = &self.drift {
            page += &pair("drift", &drift(it), width);
        }
        let unwell = self.subsystems.iter().filter(|it| !it.problem.is_empty());
        for it in unwell.filter(|_| self.trial.is_none()) {
            page += &pair("not well", &format!("{}: {}", it.name, it.problem), width);
        }
        if let Some(last) = self.last.as_ref().filter(|last| !last.accepted) {
            let refused = format!("{}, refused: see purlin config history", offered(last));
            page += &pair("last offer", &refused, width);
        }
        table::sections([page, settings])
    }
}

/// A trial, on a line.
fn on_trial(trial: &ConfigTrial) -> String {
    let left = units::duration(trial.left_ms);
    let next = match (trial.by_hand, trial.well_for_ms, trial.confirmed_in_ms) {
        _ if !trial.problems.is_empty() => format!("not well: {}", trial.problems.join("; ")),
        (true, ..) => "all well: purlin config confirm keeps it".into(),
        (_, Some(_), Some(ms)) => format!("all well, kept in {}", units::duration(ms)),
        _ => trial.phase.clone(),
    };
    format!("{}; {next}; else undone in {left}", applied(&trial.applied))
}

fn drift(drift: &ConfigDrift) -> String {
    let wanted = match drift.desired_version {
        0 => "none".into(),
        version => format!("version {version}"),
    };
    let reason = match drift.reason.is_empty() {
        true => String::new(),
        false => format!(" ({})", drift.reason),
    };
    let ends =
        drift.left_ms.map_or(String::new(), |ms| format!(", for {} more", units::duration(ms)));
    format!("by {}{reason}{ends}; the core wants {wanted}", drift.by)
}

impl Page for Plan {
    fn page(&self, width: Width) -> String {
        let sides = pair("from", &self.from, width) + &pair("to", &self.to, width);
        let header = [Left("PART"), Left("DISTURBS"), Left("SETTING"), Left("FROM"), Left("TO")];
        let row = |part: &PlanPart, first: bool, it: &Change| {
            let once = |text: &str| if first { text.to_owned() } else { String::new() };
            let (name, disturbs) = (once(&part.name), once(&part.disturbs));
            vec![name, disturbs, it.path.clone(), it.from.clone(), it.to.clone()]
        };
        let rows = self.parts.iter().flat_map(|part| {
            part.changes.iter().enumerate().map(move |(n, it)| row(part, n == 0, it))
        });
        let changes = match self.parts.is_empty() {
            true => "no setting differs\n".to_owned(),
            false => table::columns(&header, rows, width),
        };
        let what = self
            .parts
            .iter()
            .flat_map(|part| part.what.iter().map(|what| vec![part.name.clone(), what.clone()]));
        table::sections([
            sides,
            changes,
            table::columns(&[Left("PART"), Left("WHAT HAPPENS")], what, width),
        ])
    }
}

impl Page for Diff {
    fn page(&self, width: Width) -> String {
        let header = [Left("SETTING"), Left("FROM"), Left("TO")];
        let row = |it: &Change| vec![it.path.clone(), it.from.clone(), it.to.clone()];
        let sides = pair("from", &self.from, width) + &pair("to", &self.to, width);
        let changes = match self.changes.is_empty() {
            true => "no setting differs\n".to_owned(),
            false => table::columns(&header, self.changes.iter().map(row), width),
        };
        table::sections([sides, changes])
    }
}

impl Page for History {
    fn page(&self, width: Width) -> String {
        if self.verdicts.is_empty() {
            return "no document was offered yet\n".to_owned();
        }
        let header = [
            Whole("WHEN"),
            Right("VERSION"),
            Whole("RESULT"),
            Left("FROM"),
            Left("BY"),
            Whole("DOCUMENT"),
        ];
        let table = table::columns(&header, self.verdicts.iter().map(verdict), width);
        let refused = self.verdicts.iter().filter(|it| !it.accepted);
        let undone = |it: &&Verdict| matches!(it.outcome.as_str(), "reverted" | "interrupted");
        let undone = self.verdicts.iter().filter(undone);
        let why = |it: &Verdict| {
            format!("\nVersion {} of {}: {}\n", it.version, units::time(it.unix_ms), it.why)
        };
        table
            + &refused.map(|it| reasons(it, width)).collect::<String>()
            + &undone.map(why).collect::<String>()
    }
}

fn verdict(it: &Verdict) -> Vec<String> {
    vec![
        units::time(it.unix_ms),
        it.version.to_string(),
        result(it),
        it.origin.clone(),
        it.by.clone(),
        it.sha256.chars().take(SHORT_SHA256).collect(),
    ]
}

/// Why a document was refused; nothing for one that was not.
fn reasons(it: &Verdict, width: Width) -> String {
    let when = units::time(it.unix_ms);
    let heading = format!("Version {} was refused at {when}:", it.version);
    let reason =
        |it: &Refusal| [&it.path, &it.value, &it.limit, &it.hint].map(Clone::clone).to_vec();
    let header = [Left("SETTING"), Left("IS"), Left("MAY BE"), Left("NEXT")];
    let table = table::columns(&header, it.refusals.iter().map(reason), width);
    match it.accepted {
        true => String::new(),
        false => format!("\n{heading}\n{table}"),
    }
}

/// As many digits as tell documents of one node apart.
const SHORT_SHA256: usize = 8;

fn result(it: &Verdict) -> String {
    match (it.outcome.as_str(), it.accepted) {
        // An agent from before there were trials.
        ("", true) => "confirmed".into(),
        ("", false) => "refused".into(),
        (outcome, _) => outcome.into(),
    }
}

fn offered(it: &Verdict) -> String {
    format!("version {} from {} at {}", it.version, it.origin, units::time(it.unix_ms))
}

impl Page for Verdict {
    fn page(&self, width: Width) -> String {
        let repeated = if self.repeated { ", as before: nothing was written" } else { "" };
        pair("version", &self.version.to_string(), width)
            + &pair("sha256", &self.sha256, width)
            + &pair("result", &format!("{}{repeated}", result(self)), width)
            + &if self.why.is_empty() { String::new() } else { pair("why", &self.why, width) }
            + &reasons(self, width)
    }

    fn exit(&self) -> Exit {
        match (self.accepted, self.outcome.as_str()) {
            (false, _) => Exit::Refused,
            (true, "reverted" | "interrupted" | "superseded") => Exit::Failed,
            (true, _) => Exit::Ok,
        }
    }
}

#[cfg(test)]
mod tests {

    use expect_test::expect;

    use super::*;
    use crate::sample;

    fn config() -> Config {
        let setting = |path: &str, value: &str, origin: &str| Setting {
            path: path.into(),
            value: value.into(),
            origin: origin.into(),
        };
        Config {
            active: Some(sample::applied()),
            settings: vec![
                setting("sampling.interval_s", "10", "default"),
                setting("log.level", "info", "desired version 7"),
                setting("uplink.endpoint", "mqtt://127.0.0.1:18830", "PURLIN_UPLINK__ENDPOINT"),
            ],
            last: Some(sample::refused()),
            trial: None,
            drift: None,
            subsystems: Vec::new(),
        }
    }

    #[test]
    fn settings_show_where_they_come_from() {
        expect![[r#"
            in force     version 7 (generation 3) from uplink, 2026-01-02T03:04:05Z
            last offer   version 8 from local at 2026-01-02T03:04:05Z, refused: see purlin
                         config history

            SETTING              VALUE                   FROM
            sampling.interval_s  10                      default
            log.level            info                    desired version 7
            uplink.endpoint      mqtt://127.0.0.1:18830  PURLIN_UPLINK__ENDPOINT
        "#]]
        .assert_eq(&sample::page(&config()));
    }

    #[test]
    fn a_diff_shows_both_sides() {
        let change = Change { path: "log.level".into(), from: "info".into(), to: "debug".into() };
        let mut diff = Diff {
            from: "previous (generation 2)".into(),
            to: "in force (generation 3)".into(),
            changes: vec![change],
        };
        expect![[r#"
            from         previous (generation 2)
            to           in force (generation 3)

            SETTING    FROM  TO
            log.level  info  debug
        "#]]
        .assert_eq(&sample::page(&diff));
        diff.changes.clear();
        expect![[r#"
            from         previous (generation 2)
            to           in force (generation 3)

            no setting differs
        "#]]
        .assert_eq(&sample::page(&diff));
    }

    #[test]
    fn history_gives_every_reason() {
        let history = History { verdicts: vec![sample::refused(), sample::verdict()] };
        expect![[r#"
            WHEN                  VERSION  RESULT     FROM    BY                  DOCUMENT
            2026-01-02T03:04:05Z        8  refused    local   uid 1000 (someone)  9f86d081
            2026-01-02T03:04:05Z        7  confirmed  uplink  core                9f86d081

            Version 8 was refused at 2026-01-02T03:04:05Z:
            SETTING              IS   MAY BE     NEXT
            sampling.interval_s  0    1 to 3600  10 is usual
            samplng              {…}             unknown field: did you mean sampling?
        "#]]
        .assert_eq(&sample::page(&history));
    }

    #[test]
    fn a_trial_tells_what_keeps_it_and_what_ends_it() {
        let mut config = config();
        config.last = None;
        config.settings.clear();
        let mut trial = ConfigTrial {
            applied: Applied { generation: 4, version: 8, ..sample::applied() },
            phase: "proving".into(),
            left_ms: 240_000,
            by_hand: false,
            well_for_ms: Some(20_000),
            confirmed_in_ms: Some(40_000),
            problems: Vec::new(),
        };
        config.trial = Some(trial.clone());
        config.drift = Some(ConfigDrift {
            by: "uid 0 (local)".into(),
            reason: "a fan is being replaced".into(),
            left_ms: Some(7_200_000),
            desired_version: 7,
        });
        expect![[r#"
            on trial     version 8 (generation 4) from uplink, 2026-01-02T03:04:05Z; all
                         well, kept in 40 s; else undone in 4 m 0 s
            boots from   version 7 (generation 3) from uplink, 2026-01-02T03:04:05Z
            drift        by uid 0 (local) (a fan is being replaced), for 2 h 0 m more; the
                         core wants version 7
        "#]]
        .assert_eq(&sample::page(&config));
        trial.by_hand = true;
        let all_well = on_trial(&trial);
        assert!(all_well.contains("purlin config confirm keeps it"), "{all_well}");
        trial.problems = vec!["uplink: no session yet".into()];
        assert!(on_trial(&trial).contains("not well: uplink: no session yet"));
    }

    #[test]
    fn a_plan_tells_what_each_part_disturbs() {
        let change = |path: &str| Change { path: path.into(), from: "10".into(), to: "5".into() };
        let part = |name: &str, disturbs: &str, changes| PlanPart {
            name: name.into(),
            disturbs: disturbs.into(),
            what: match name {
                "uplink" => vec!["the session with mqtt://a:1883 ends".into()],
                _ => Vec::new(),
            },
            changes,
        };
        let plan = Plan {
            from: "generation 3 (version 7)".into(),
            to: "the offered document (version 8)".into(),
            parts: vec![
                part("sampling", "nothing", vec![change("sampling.a"), change("sampling.b")]),
                part("uplink", "reload", vec![change("uplink.endpoint")]),
            ],
        };
        expect![[r#"
            from         generation 3 (version 7)
            to           the offered document (version 8)

            PART      DISTURBS  SETTING          FROM  TO
            sampling  nothing   sampling.a       10    5
                                sampling.b       10    5
            uplink    reload    uplink.endpoint  10    5

            PART    WHAT HAPPENS
            uplink  the session with mqtt://a:1883 ends
        "#]]
        .assert_eq(&sample::page(&plan));
    }

    #[test]
    fn what_was_undone_exits_1() {
        let undone = Verdict { outcome: "reverted".into(), ..sample::verdict() };
        assert_eq!(undone.exit(), Exit::Failed);
    }

    #[test]
    fn a_refused_verdict_exits_3() {
        assert_eq!(sample::verdict().exit(), Exit::Ok);
        assert_eq!(sample::refused().exit(), Exit::Refused);
        expect![[r#"
            version      8
            sha256       9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
            result       refused

            Version 8 was refused at 2026-01-02T03:04:05Z:
            SETTING              IS   MAY BE     NEXT
            sampling.interval_s  0    1 to 3600  10 is usual
            samplng              {…}             unknown field: did you mean sampling?
        "#]]
        .assert_eq(&sample::page(&sample::refused()));
    }
}
