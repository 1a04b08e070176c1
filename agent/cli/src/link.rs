//! `purlin link`: the way to the cloud.

use anstyle::{AnsiColor, Style};
use purlin_proto::api::{Link, LinkState, LinkTest, LinkTestStep};

use crate::{
    args::{Global, LinkCommand},
    client::{Body, Client, LINK_TEST_DEADLINE},
    exit::{Ended, Exit},
    output::{Output, Page},
    table::{self, Column::*, Width, paint, pair},
    units, watch,
};

/// `purlin link show` and `purlin link test`
pub async fn run(command: &LinkCommand, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    match command {
        LinkCommand::Show(watch) => {
            let fetch = async || client.get::<Link>("/v1/link").await;
            watch::show(output, watch.every(), fetch).await
        }
        LinkCommand::Test => {
            let test: LinkTest =
                client.post("/v1/link/test", Body::default(), LINK_TEST_DEADLINE).await?;
            output.show(&test, |width| test.page(width))?;
            Ok(test.exit())
        }
    }
}

/// Where the link stands, in one line, in the colour of what it means.
pub fn summary(link: &Link, width: Width) -> String {
    let since = units::time(link.since_unix_ms);
    let to = link.endpoint.as_deref().unwrap_or_default();
    let (color, text) = match link.state {
        LinkState::Unconfigured => (AnsiColor::Yellow, "no endpoint: records stay here".into()),
        LinkState::Connecting => (AnsiColor::Yellow, format!("connecting since {since}  {to}")),
        LinkState::Up => (AnsiColor::Green, format!("up since {since}  {to}")),
        LinkState::Relayed => {
            let via = link.via.as_deref().unwrap_or_default();
            (AnsiColor::Yellow, format!("no broker; sent on since {since} by {via}"))
        }
        LinkState::Down => (AnsiColor::Red, format!("down since {since}  {to}")),
    };
    paint(color.on_default(), &pair("link", &text, width))
}

/// Why it is not up, and when it is tried again.
pub fn trouble(link: &Link, width: Width) -> String {
    let mut lines = String::new();
    if link.state == LinkState::Up {
        return lines;
    }
    if let Some(error) = &link.last_error {
        lines += &pair("last error", error, width);
    }
    if let Some(ms) = link.retry_in_ms {
        let text = format!("in {}, after {}", units::duration(ms), attempts(link));
        lines += &pair("next try", &text, width);
    }
    lines
}

fn sent_today(link: &Link) -> String {
    let bytes = units::size(link.sent_today_bytes);
    match link.rate_bytes_s {
        Some(rate) => format!("{bytes}, at most {} a second", units::size(rate)),
        None => bytes,
    }
}

/// What was sent on for others, if anything was.
fn carried(link: &Link, width: Width) -> String {
    if link.carried_frames == 0 {
        return String::new();
    }
    let frames = units::count(link.carried_frames, "frame", "frames");
    let text = format!("{frames} of peers, {}", units::size(link.carried_bytes));
    pair("sent on", &text, width)
}

fn attempts(link: &Link) -> String {
    units::count(link.attempts.into(), "attempt", "attempts")
}

impl Page for Link {
    fn page(&self, width: Width) -> String {
        let acked = format!(
            "{} in {}, {}",
            units::count(self.acked_records, "record", "records"),
            units::count(self.acked_batches, "batch", "batches"),
            units::size(self.acked_bytes)
        );
        let lines = [
            summary(self, width),
            trouble(self, width),
            pair("client id", &self.client_id, width),
            pair("connects", &self.connects.to_string(), width),
            pair("in flight", &units::count(self.in_flight.into(), "batch", "batches"), width),
            pair("acked", &acked, width),
            pair("sent today", &sent_today(self), width),
            pair("refused", &self.refused.to_string(), width),
            pair("unheard", &self.unheard.to_string(), width),
            carried(self, width),
        ];
        lines.concat()
    }
}

impl Page for LinkTest {
    fn page(&self, width: Width) -> String {
        let header = [Left("RESULT"), Left("STEP"), Right("TOOK"), Left("DETAIL")];
        let steps = table::columns(&header, self.steps.iter().map(step), width);
        let verdict = match self.ok {
            true => paint(AnsiColor::Green.on_default(), "the way to the broker is open"),
            false => paint(failed(), "the way to the broker is not open"),
        };
        table::sections([pair("endpoint", &self.endpoint, width), steps, verdict + "\n"])
    }

    fn exit(&self) -> Exit {
        match self.ok {
            true => Exit::Ok,
            false => Exit::Failed,
        }
    }
}

fn failed() -> Style {
    AnsiColor::Red.on_default().bold()
}

fn step(step: &LinkTestStep) -> Vec<String> {
    let result = if step.ok { "ok" } else { "FAILED" };
    vec![result.into(), step.step.clone(), units::duration(step.took_ms), step.detail.clone()]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample;

    fn test(ok: bool, detail: &str) -> LinkTest {
        let step = |step: &str, ok, took_ms, detail: &str| LinkTestStep {
            step: step.into(),
            ok,
            took_ms,
            detail: detail.into(),
        };
        LinkTest {
            endpoint: "mqtt://broker:1883".into(),
            steps: vec![
                step("resolve broker", true, 0, "192.0.2.1"),
                step("connect tcp 192.0.2.1:1883", ok, 5000, detail),
            ],
            ok,
        }
    }

    #[test]
    fn a_link_that_is_up_has_no_trouble() {
        expect![[r#"
            link         up since 2026-01-02T03:04:05Z  mqtt://127.0.0.1:18830
            client id    9f86d081884c7d65
            connects     1
            in flight    2 batches
            acked        4711 records in 12 batches, 120.6 KiB
            sent today   0 B
            refused      0
            unheard      3
        "#]]
        .assert_eq(&sample::page(&sample::link()));
    }

    #[test]
    fn a_link_that_is_down_says_why_and_when() {
        expect![[r#"
            link         down since 2026-01-02T03:04:05Z  mqtt://127.0.0.1:18830
            last error   127.0.0.1:18830 refused the connection; is the broker running
                         there, and does the firewall let us through?
            next try     in 12 s, after 7 attempts
            client id    9f86d081884c7d65
            connects     1
            in flight    2 batches
            acked        4711 records in 12 batches, 120.6 KiB
            sent today   0 B
            refused      0
            unheard      3
        "#]]
        .assert_eq(&sample::page(&sample::link_down()));
    }

    #[test]
    fn a_node_without_an_endpoint_is_not_down() {
        expect![[r#"
            link         no endpoint: records stay here
        "#]]
        .assert_eq(&sample::strip(&summary(&Link::default(), Some(80))));
    }

    #[test]
    fn a_failed_step_fails_the_test() {
        assert_eq!(test(true, "connected").exit(), Exit::Ok);
        let failed = test(false, "no answer in 5 s: does a firewall drop it?");
        assert_eq!(failed.exit(), Exit::Failed);
        expect![[r#"
            endpoint     mqtt://broker:1883

            RESULT  STEP                        TOOK  DETAIL
            ok      resolve broker              0 ms  192.0.2.1
            FAILED  connect tcp 192.0.2.1:1883   5 s  no answer in 5 s: does a firewall drop
                                                      it?

            the way to the broker is not open
        "#]]
        .assert_eq(&sample::page(&failed));
    }
}
