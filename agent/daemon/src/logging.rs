//! What the agent writes about itself: to the journal or standard error, and
//! the latest lines in memory for `purlin log`.

use std::{collections::VecDeque, fmt::Write as _, io};

use purlin_core::settings::Level;
use purlin_mesh::journal;
use purlin_proto::api;
use tokio::sync::{mpsc, oneshot};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Context, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

use crate::{boot::LogFormat, clock};

/// Lines kept for `purlin log`: forty screens, half a megabyte at its usual length.
pub const KEPT_LINES: usize = 1000;
/// Lines that may wait for the keeper.
const INBOX: usize = 256;
/// Longest line kept.
const MAX_LINE_BYTES: usize = 4096;

/// Sets the level of what is written, now and later.
#[derive(Clone, Debug)]
pub struct LevelControl(reload::Handle<Targets, Registry>);

impl LevelControl {
    /// Sets the level.
    pub fn set(&self, level: Level) {
        // The only error is a subscriber that is gone, with nothing left to filter.
        _ = self.0.reload(filter(level));
    }

    /// Whether that is the level.
    pub fn is(&self, level: Level) -> bool {
        self.0.clone_current().is_some_and(|now| now == filter(level))
    }
}

/// Our own lines at `level`; the libraries' only from warnings on, or they
/// drown ours.
fn filter(level: Level) -> Targets {
    let level = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_target("purlin", level)
        .with_target("rumqttd", LevelFilter::OFF)
        .with_default(level.min(LevelFilter::WARN))
}

/// Starts writing. Returns the level's control and the keeper of the latest
/// lines, which its task runs.
pub fn start(format: LogFormat, level: Level) -> (LevelControl, Keeper) {
    let (filter, control) = reload::Layer::new(filter(level));
    let (lines, inbox) = mpsc::channel(INBOX);
    let registry = Registry::default().with(filter).with(KeepLayer(lines.clone()));
    let is_journal =
        format == LogFormat::Journald || format == LogFormat::Auto && journal::is_stderr();
    let journal = is_journal.then(|| {
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_level(false);
        layer.without_time().with_writer(journal::Journal)
    });
    let json = (format == LogFormat::Json)
        .then(|| tracing_subscriber::fmt::layer().json().with_writer(io::stderr));
    let text = (journal.is_none() && json.is_none())
        .then(|| tracing_subscriber::fmt::layer().with_ansi(false).with_writer(io::stderr));
    registry.with(journal).with(json).with(text).init();
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a panic")));
    let keeper = Keeper { inbox, requests: lines.downgrade(), kept: VecDeque::new(), written: 0 };
    (LevelControl(control), keeper)
}

/// What the keeper is told or asked.
#[derive(Debug)]
enum ToKeeper {
    Line(api::LogLine),
    After(u64, oneshot::Sender<api::Log>),
}

/// Asks for the latest lines; cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines(mpsc::WeakSender<ToKeeper>);

impl Lines {
    /// The kept lines after number `after`.
    pub async fn after(&self, after: u64) -> Option<api::Log> {
        let (reply, answer) = oneshot::channel();
        self.0.upgrade()?.send(ToKeeper::After(after, reply)).await.ok()?;
        answer.await.ok()
    }
}

/// Owns the latest lines.
#[derive(Debug)]
pub struct Keeper {
    inbox: mpsc::Receiver<ToKeeper>,
    requests: mpsc::WeakSender<ToKeeper>,
    kept: VecDeque<api::LogLine>,
    written: u64,
}

impl Keeper {
    /// A way to ask for lines.
    pub fn lines(&self) -> Lines {
        Lines(self.requests.clone())
    }

    /// Takes lines and answers questions until nobody is left to write or ask.
    pub async fn run(&mut self) {
        while let Some(message) = self.inbox.recv().await {
            match message {
                ToKeeper::Line(line) => self.keep(line),
                ToKeeper::After(after, reply) => _ = reply.send(self.after(after)),
            }
        }
    }

    fn keep(&mut self, line: api::LogLine) {
        self.written += 1;
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(api::LogLine { number: self.written, ..line });
    }

    fn after(&self, after: u64) -> api::Log {
        // A number not yet reached is from an agent before this one.
        let after = if after > self.written { 0 } else { after };
        let first_kept = self.kept.front().map_or(self.written + 1, |line| line.number);
        let lines = self.kept.iter().filter(|line| line.number > after).cloned().collect();
        api::Log { lines, missed: (first_kept - 1).saturating_sub(after) }
    }
}

/// Hands each line to the keeper. One that finds the inbox full is not kept, as
/// it has been written elsewhere already.
struct KeepLayer(mpsc::Sender<ToKeeper>);

impl<S: Subscriber> Layer<S> for KeepLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata: &Metadata<'_> = event.metadata();
        let mut text = text.message + &text.fields;
        text.truncate(text.floor_char_boundary(MAX_LINE_BYTES));
        _ = self.0.try_send(ToKeeper::Line(api::LogLine {
            number: 0,
            unix_ms: clock::unix_ms(),
            level: metadata.level().to_string(),
            target: metadata.target().into(),
            text,
        }));
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String can't fail.
        _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lines_go_and_are_told() {
        let (sender, inbox) = mpsc::channel(1);
        let requests = sender.downgrade();
        let mut keeper = Keeper { inbox, requests, kept: VecDeque::new(), written: 0 };
        for n in 1..=KEPT_LINES + 10 {
            let (level, target, text) = ("INFO".into(), "t".into(), n.to_string());
            keeper.keep(api::LogLine { number: 0, unix_ms: 0, level, target, text });
        }
        let all = keeper.after(0);
        assert_eq!((all.missed, all.lines.len(), all.lines[0].number), (10, KEPT_LINES, 11));
        let latest = keeper.after(KEPT_LINES as u64 + 8);
        assert_eq!((latest.missed, latest.lines.len()), (0, 2));
        assert_eq!(keeper.after(KEPT_LINES as u64 * 2).lines.len(), KEPT_LINES);
    }
}
