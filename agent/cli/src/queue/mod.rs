//! `purlin queue`: what waits on disk for the cloud: how much, what it says, in a file,
//! from a file, and gone.

use purlin_daemon::offline;
use purlin_proto::api::{IntakeSource, Queue, QueueClass};

use crate::{
    args::{Global, QueueCommand},
    client::Client,
    exit::Ended,
    output::{Output, Page},
    table::{self, Column::*, Width},
    units, watch,
};

mod export;
mod file;
mod import;
pub mod peek;
mod purge;
mod source;

/// `purlin queue …`
pub async fn run(command: &QueueCommand, global: &Global, output: &Output) -> Ended {
    match command {
        QueueCommand::Show(watch) => {
            let client = Client::find(global)?;
            let fetch = async || client.get_or_read("/v1/queue", offline::queue).await;
            watch::show(output, watch.every(), fetch).await
        }
        QueueCommand::Peek(args) => peek::run(args, global, output).await,
        QueueCommand::Export { file } => export::run(file, global, output).await,
        QueueCommand::Import { file, partial } => import::run(file, *partial, global, output).await,
        QueueCommand::Purge { class, yes } => purge::run(class.name(), *yes, global, output).await,
    }
}

impl Page for Queue {
    fn page(&self, width: Width) -> String {
        table::sections([
            table::pair("incarnation", &self.incarnation, width),
            classes(&self.classes, width),
            sequences(&self.classes, width),
            flash(&self.classes, width),
            sources(&self.sources, width),
        ])
    }
}

/// A line for each class: what waits, what room is left, what was lost.
pub fn classes(classes: &[QueueClass], width: Width) -> String {
    let header = [
        Left("QUEUE"),
        Right("PENDING"),
        Right("ON DISK"),
        Right("CAP"),
        Right("FULL IN"),
        Right("DROPS IN"),
        Right("LOST"),
        Left("NOTE"),
    ];
    let row = |class: &QueueClass| {
        vec![
            class.class.clone(),
            class.pending.to_string(),
            units::size(class.bytes),
            units::size(class.cap_bytes),
            class.full_in_ms.map_or("-".into(), units::duration),
            class.first_drop_in_ms.map_or("-".into(), units::duration),
            lost(class).to_string(),
            story(class),
        ]
    };
    table::columns(&header, classes.iter().map(row), width)
}

fn lost(class: &QueueClass) -> u64 {
    let QueueClass { dropped, expired, purged, corrupt, rejected, refused, .. } = class;
    [dropped, expired, purged, corrupt, rejected, refused]
        .into_iter()
        .fold(0, |sum, n| sum.saturating_add(*n))
}

/// Why records were lost, and why the next ones may be.
fn story(class: &QueueClass) -> String {
    let told = |n: u64, what: &str| (n > 0).then(|| format!("{n} {what}"));
    [
        told(class.dropped, "dropped when full"),
        told(class.expired, "too old"),
        told(class.purged, "purged"),
        told(class.corrupt, "damaged on disk"),
        told(class.rejected, "never on disk"),
        told(class.refused, "refused by the broker"),
        told(class.thinned, "thinned"),
        class.error.clone(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join("; ")
}

fn sequences(classes: &[QueueClass], width: Width) -> String {
    let header = [
        Left("RECORDS"),
        Right("FIRST"),
        Right("ACKED"),
        Right("DURABLE"),
        Right("LAST"),
        Right("SEGMENTS"),
        Right("COMMIT WINDOW"),
        Left("WHEN FULL"),
    ];
    let row = |class: &QueueClass| {
        vec![
            class.class.clone(),
            class.first_seq.to_string(),
            class.acked_seq.to_string(),
            class.durable_seq.to_string(),
            class.last_seq.to_string(),
            class.segments.to_string(),
            units::duration(class.commit_window_ms),
            class.when_full.clone(),
        ]
    };
    table::columns(&header, classes.iter().map(row), width)
}

/// What workloads handed in.
fn sources(sources: &[IntakeSource], width: Width) -> String {
    let header = [
        Left("SOURCE"),
        Right("RECORDS"),
        Right("BYTES"),
        Right("TODAY"),
        Right("SERIES"),
        Right("PUT OFF"),
        Right("DROPPED"),
        Left("WHY"),
    ];
    let row = |it: &IntakeSource| {
        vec![
            it.source.clone(),
            it.records.to_string(),
            units::size(it.bytes),
            units::size(it.bytes_today),
            it.series.to_string(),
            it.refused.to_string(),
            it.dropped.to_string(),
            it.why.clone(),
        ]
    };
    table::columns(&header, sources.iter().map(row), width)
}

/// What it costs the disk.
fn flash(classes: &[QueueClass], width: Width) -> String {
    let header = [
        Left("DISK"),
        Right("A DAY"),
        Right("WRITTEN"),
        Right("COMMITS"),
        Right("LAST TOOK"),
        Right("SLOWEST"),
        Right("SENT IN"),
        Left("OLDEST RECORD"),
    ];
    let row = |class: &QueueClass| {
        vec![
            class.class.clone(),
            class.bytes_per_day.map_or("-".into(), units::size),
            units::size(class.written_day),
            class.commits.to_string(),
            units::duration(class.commit_us.div_ceil(1000)),
            units::duration(class.slowest_commit_us.div_ceil(1000)),
            class.sent_in_ms.map_or("-".into(), units::duration),
            class.oldest_unix_ms.map_or("-".into(), units::time),
        ]
    };
    table::columns(&header, classes.iter().map(row), width)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample;

    #[test]
    fn a_queue_shows_what_waits_and_up_to_where() {
        expect![[r#"
            incarnation  a1b2c3d4e5f60718

            QUEUE   PENDING  ON DISK     CAP  FULL IN  DROPS IN  LOST  NOTE
            metric       92  1.2 MiB  64 MiB  4 d 0 h  68 d 0 h     0
            event         0    4 KiB  16 MiB  4 d 0 h  68 d 0 h     0

            RECORDS  FIRST  ACKED  DURABLE  LAST  SEGMENTS  COMMIT WINDOW  WHEN FULL
            metric       1   4711     4800  4803         2         200 ms  drop-oldest
            event        1   4803     4800  4803         2         200 ms  drop-oldest

            DISK    A DAY  WRITTEN  COMMITS  LAST TOOK  SLOWEST  SENT IN  OLDEST RECORD
            metric  1 MiB      0 B        0       0 ms     0 ms        -  -
            event   1 MiB      0 B        0       0 ms     0 ms        -  -
        "#]]
        .assert_eq(&sample::page(&sample::queue()));
    }

    #[test]
    fn losses_are_told_apart() {
        let mut queue = sample::queue();
        queue.classes[0].dropped = 120_000;
        queue.classes[0].corrupt = 1;
        queue.classes[1].rejected = 12;
        queue.classes[1].error = Some("no space left on device".into());
        expect![[r#"
            QUEUE   PENDING  ON DISK     CAP  FULL IN  DROPS IN    LOST  NOTE
            metric       92  1.2 MiB  64 MiB  4 d 0 h  68 d 0 h  120001  120000 dropped when
                                                                         full; 1 damaged on
                                                                         disk
            event         0    4 KiB  16 MiB  4 d 0 h  68 d 0 h      12  12 never on disk;
                                                                         no space left on
                                                                         device
        "#]]
        .assert_eq(&sample::strip(&classes(&queue.classes, Some(80))));
    }
}
