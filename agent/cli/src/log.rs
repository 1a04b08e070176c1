//! `purlin log`: what the agent has written about itself lately.
//!
//! Lines are not wrapped and not laid out in columns: they are for `grep`.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use purlin_proto::api::{Log, LogLine};
use tokio::time::sleep;

use crate::{
    args::{Global, Watch},
    client::Client,
    exit::{Ended, Exit, Failure},
    output::{Output, note},
    table::{paint, plain},
    units, watch,
};

/// `purlin log`
pub async fn run(watch: Watch, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    match watch.every() {
        None => {
            let log = after(0, &client).await?;
            say_what_is_missing(&log);
            output.show(&log, |_| page(&log))?;
            Ok(Exit::Ok)
        }
        Some(every) => watch::until_interrupted(follow(every, &client, output)).await,
    }
}

async fn after(number: u64, client: &Client) -> Result<Log, Failure> {
    Ok(client.get(&format!("/v1/log?after={number}")).await?.document)
}

/// An agent that can't be reached at first is an error; one that goes away later may
/// come back, and then counts its lines from 1.
async fn follow(every: Duration, client: &Client, output: &Output) -> Ended {
    let mut seen = show_next(&after(0, client).await?, 0, output)?;
    let mut gone = false;
    loop {
        sleep(every).await;
        match after(seen, client).await {
            Ok(log) => {
                seen = show_next(&log, seen, output)?;
                gone = false;
            }
            Err(Failure::Unreachable(_)) if gone => {}
            Err(failure @ Failure::Unreachable(_)) => {
                failure.report();
                (seen, gone) = (0, true);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Shows what is new since line `seen`, and returns the line that is the last now.
fn show_next(log: &Log, seen: u64, output: &Output) -> Result<u64, Failure> {
    say_what_is_missing(log);
    let Some(last) = log.lines.last() else { return Ok(seen) };
    output.append(log, || page(log))?;
    Ok(last.number)
}

fn say_what_is_missing(log: &Log) {
    if log.missed > 0 {
        note(&format!("{} earlier lines are no longer kept", log.missed));
    }
}

fn page(log: &Log) -> String {
    log.lines.iter().map(line).collect()
}

fn line(line: &LogLine) -> String {
    let level = paint(style(&line.level), &format!("{:<5}", plain(&line.level)));
    let (time, target) = (units::time(line.unix_ms), plain(&line.target));
    format!("{time} {level} {target}: {}\n", plain(&line.text))
}

fn style(level: &str) -> Style {
    match level {
        "ERROR" => AnsiColor::Red.on_default().bold(),
        "WARN" => AnsiColor::Yellow.on_default(),
        "INFO" => AnsiColor::Green.on_default(),
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample;

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let log = Log {
            lines: vec![LogLine {
                number: 1,
                unix_ms: sample::THEN,
                level: "WARN".into(),
                target: "purlin_daemon::uplink".into(),
                text: "refused by=\"mqtt\nhost\x1b[2J\"".into(),
            }],
            missed: 0,
        };
        expect![[r#"
            2026-01-02T03:04:05Z WARN  purlin_daemon::uplink: refused by="mqtt host�[2J"
        "#]]
        .assert_eq(&sample::strip(&page(&log)));
    }
}
