//! `purlin config`: the settings in force, and the documents they come from.
//!
//! A document goes to the agent as it was written; nothing here reads it. What is
//! said of it is what the agent said.

use purlin_daemon::{boot, offline};
use purlin_proto::api::{Applied, Change, Config, Diff, History, Refusal, Setting, Verdict};

use crate::{
    args::{ConfigCommand, Global},
    client::{Client, DEADLINE},
    document,
    exit::{Ended, Exit, Failure},
    output::{Output, Page, note},
    table::{self, Column::*, Width, pair},
    units, watch,
};

/// `purlin config …`
pub async fn run(command: &ConfigCommand, global: &Global, output: &Output) -> Ended {
    match command {
        ConfigCommand::Default => print_default(output),
        ConfigCommand::Show => {
            let client = Client::find(global)?;
            let fetch = async || client.get_or_read("/v1/config", offline::config).await;
            watch::show(output, None, fetch).await
        }
        ConfigCommand::History => {
            let client = Client::find(global)?;
            let fetch = async || client.get_or_read("/v1/config/history", offline::history).await;
            watch::show(output, None, fetch).await
        }
        ConfigCommand::Diff { file: None, .. } => {
            let client = Client::find(global)?;
            let fetch = async || client.get::<Diff>("/v1/config/diff").await;
            watch::show(output, None, fetch).await
        }
        ConfigCommand::Diff { file: Some(file), written } => {
            let body = document::read(file, written.format)?;
            let offered =
                Client::find(global)?.post::<Diff>("/v1/config/diff", body, DEADLINE).await;
            show(output, offered)
        }
        ConfigCommand::Apply { file, written } => {
            let body = document::read(file, written.format)?;
            let offered = Client::find(global)?.post::<Verdict>("/v1/config", body, DEADLINE).await;
            say_if_in_doubt(&offered);
            show(output, offered)
        }
    }
}

fn print_default(output: &Output) -> Ended {
    output.text(&boot::default_file())?;
    Ok(Exit::Ok)
}

/// Shows what became of an offer; a program gets the reasons for a refusal as a
/// document too.
fn show<T: Page>(output: &Output, offered: Result<T, Failure>) -> Ended {
    match offered {
        Ok(document) => {
            output.show(&document, |width| document.page(width))?;
            Ok(document.exit())
        }
        Err(Failure::Refused(error)) if !output.is_table() => {
            output.show(&error, |_| String::new())?;
            Ok(Exit::Refused)
        }
        Err(failure) => Err(failure),
    }
}

/// An agent that took a document and fell silent may have put it in force.
fn say_if_in_doubt(offered: &Result<Verdict, Failure>) {
    if let Err(Failure::Unreachable(it)) = offered
        && it.found.may_have_heard()
    {
        note("the document may be in force or not: purlin config history will tell");
    }
}

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
        let mut page = pair("in force", &active, width);
        if let Some(last) = self.last.as_ref().filter(|last| !last.accepted) {
            let refused = format!("{}, refused: see purlin config history", offered(last));
            page += &pair("last offer", &refused, width);
        }
        table::sections([page, settings])
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
        table + &refused.map(|it| reasons(it, width)).collect::<String>()
    }
}

fn verdict(it: &Verdict) -> Vec<String> {
    vec![
        units::time(it.unix_ms),
        it.version.to_string(),
        result(it).into(),
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

fn result(it: &Verdict) -> &'static str {
    match it.accepted {
        true => "applied",
        false => "refused",
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
            + &reasons(self, width)
    }

    fn exit(&self) -> Exit {
        match self.accepted {
            true => Exit::Ok,
            false => Exit::Refused,
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
            WHEN                  VERSION  RESULT   FROM    BY                  DOCUMENT
            2026-01-02T03:04:05Z        8  refused  local   uid 1000 (someone)  9f86d081
            2026-01-02T03:04:05Z        7  applied  uplink  core                9f86d081

            Version 8 was refused at 2026-01-02T03:04:05Z:
            SETTING              IS   MAY BE     NEXT
            sampling.interval_s  0    1 to 3600  10 is usual
            samplng              {…}             unknown field: did you mean sampling?
        "#]]
        .assert_eq(&sample::page(&history));
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
