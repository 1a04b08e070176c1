//! Stages begin and end as alarms do, on every node alike.

use alloc::{format, string::ToString as _, vec};

use expect_test::expect;

use super::{config::StageDraft, elsewhere::Elsewhere, *};
use crate::{
    alarm::{
        Alarm, Alarms, Now,
        rule::{self, Notice, Severity},
    },
    metric::Point,
};

fn stage(name: &str, when: &str) -> StageDraft {
    StageDraft { name: name.into(), when: vec![when.into()], ..StageDraft::default() }
}

fn wanted() -> Wanted {
    let battery = StageDraft { cap_w: Some(80), ..stage("battery", "on-battery.*") };
    let low = StageDraft {
        shed: vec!["batch.slice".into()],
        cap_w: Some(50),
        ..stage("low", "ten-minutes.*")
    };
    let last =
        StageDraft { flush: Some(true), shutdown: Some(true), ..stage("last", "three-minutes.*") };
    let draft =
        config::Draft { stages: vec![battery, low, last], recover_s: Some(60), rehearse: None };
    let mut refusals = Vec::new();
    let wanted = config::check(&draft, &mut refusals);
    assert_eq!(refusals, []);
    wanted.expect("stages")
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_stage_brings_every_milder_one() {
    let (wanted, mut policy) = (wanted(), Policy::default());
    let decision = policy.judge(&wanted, ["ten-minutes.ups"].into_iter(), at(0));
    assert_eq!((decision.stage, &*decision.name, decision.cap_w), (2, "low", Some(50)));
    assert_eq!(decision.shed, ["batch.slice"]);
    assert_eq!(decision.causes, ["ten-minutes.ups"]);
    assert!(!decision.shutdown);
}

#[test]
fn the_way_back_is_held_and_the_way_on_is_not() {
    let (wanted, mut policy) = (wanted(), Policy::default());
    let mut stage =
        |ids: &'static [&'static str], s| policy.judge(&wanted, ids.iter().copied(), at(s)).stage;
    assert_eq!(stage(&["on-battery.ups"], 0), 1);
    assert_eq!(stage(&[], 10), 1);
    // Mains that come and go begin the hold anew.
    assert_eq!(stage(&["on-battery.ups"], 60), 1);
    assert_eq!(stage(&[], 65), 1);
    assert_eq!(stage(&[], 124), 1);
    assert_eq!(stage(&[], 125), 0);
    assert_eq!(stage(&["ten-minutes.ups"], 126), 2);
}

#[test]
fn a_pattern_with_a_node_is_for_what_the_rack_says_and_one_without_for_what_is_own() {
    let draft = config::Draft {
        stages: vec![stage("own", "leak.*"), stage("rack", "*/leak.*"), stage("one", "a/*")],
        ..config::Draft::default()
    };
    let wanted = config::check(&draft, &mut Vec::new()).expect("stages");
    let stage = |ids: &[&str]| Policy::default().judge(&wanted, ids.iter().copied(), at(0)).name;
    assert_eq!(stage(&["leak.hall"]), "own");
    assert_eq!(stage(&["leak.hall", "b/leak.hall"]), "rack");
    assert_eq!(stage(&["a/leak.hall"]), "one");
    assert_eq!(stage(&["b/other.hall", "other.hall"]), "");
}

#[test]
fn what_another_node_said_is_gone_by_until_it_is_too_old() {
    let mut elsewhere = Elsewhere::default();
    let raised = |it: &Elsewhere, s| it.raised(at(s)).collect::<Vec<_>>();
    assert!(elsewhere.hear("a", at(10), vec!["leak.hall".into()]));
    assert!(!elsewhere.hear("a", at(20), vec!["leak.hall".into()]), "nothing new");
    assert!(!elsewhere.hear("a", at(15), vec![]), "older than what is known");
    assert_eq!(raised(&elsewhere, 139), ["a/leak.hall"]);
    assert_eq!(elsewhere.next(at(139)), Some(at(140)));
    assert!(raised(&elsewhere, 140).is_empty() && elsewhere.next(at(140)).is_none());
    assert!(elsewhere.hear("a", at(150), vec!["leak.hall".into()]), "it is back");
    assert!(elsewhere.hear("a", at(151), vec![]), "all is well there");
    assert_eq!(raised(&elsewhere, 152), [""; 0]);
    for n in 0..400 {
        elsewhere.hear(&format!("n{n}"), at(152), vec!["x".into()]);
    }
    assert!(raised(&elsewhere, 153).len() < 256, "a rack has no more nodes");
}

#[test]
fn what_begins_a_stage_is_told_before_what_does_not() {
    let mut wanted = wanted();
    wanted.stages[0].when = vec!["*/ups.*".into()];
    let alarm = |n: u64, id: &str, severity| Alarm {
        id: id.into(),
        notice: Notice { severity, ..Notice::default() },
        raised_unix_ms: n,
        seen: n != 3,
        ..Alarm::default()
    };
    let mut all: Vec<_> =
        (0..20).map(|n| alarm(n, &format!("hot.{n:02}"), Severity::Critical)).collect();
    all.push(alarm(99, "ups.low", Severity::Info));
    let told = elsewhere::to_tell(&wanted, "a", all.iter());
    let ids: Vec<_> = told.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(ids[..4], ["ups.low", "hot.00", "hot.01", "hot.02"]);
    assert_eq!((ids[4], ids.len()), ("hot.04", elsewhere::MAX_TOLD), "3 only stands from before");
}

#[test]
fn a_shutdown_is_not_taken_back() {
    let (wanted, mut policy) = (wanted(), Policy::default());
    assert!(policy.judge(&wanted, ["three-minutes.ups"].into_iter(), at(0)).shutdown);
    assert!(policy.judge(&wanted, core::iter::empty(), at(10_000)).shutdown);
    // After a restart it is decided anew.
    assert_eq!(Policy::default().judge(&wanted, core::iter::empty(), at(0)).stage, 0);
}

#[test]
fn what_is_impossible_is_told_at_once() {
    let bad = StageDraft {
        cap_w: Some(1),
        cap_gpu_w: Some(5000),
        shed: vec!["system.slice".into(), "a/../b".into()],
        ..StageDraft::default()
    };
    let mut refusals = Vec::new();
    config::check(&config::Draft { stages: vec![bad], ..Default::default() }, &mut refusals);
    let lines: Vec<_> = refusals
        .iter()
        .map(|it| format!("{}: {} (may be {})", it.path, it.value, it.limit))
        .collect();
    expect![[r#"
        power.stages.0.name:  (may be 1 to 48 letters a-z, digits and -, each once)
        power.stages.0.when: 0 (may be 1 to 32)
        power.stages.0.shed: system.slice (may be a cgroup below the mount, e.g. batch.slice, but none of the system's own)
        power.stages.0.shed: a/../b (may be a cgroup below the mount, e.g. batch.slice, but none of the system's own)
        power.stages.0.cap_w: 1 (may be 10 to 1000)
        power.stages.0.cap_gpu_w: 5000 (may be 10 to 3000)"#]]
    .assert_eq(&lines.join("\n"));
}

/// Three nodes that hear the same readings, each at its own moment and with its own clock,
/// decide the same in the same order.
#[test]
fn the_same_readings_are_the_same_decisions_on_every_node() {
    let mut drafts = alloc::collections::BTreeMap::new();
    let below = |limit: f64, clear: f64| rule::Draft {
        metric: "hw.battery.time_left".into(),
        below: Some(limit),
        clear: Some(clear),
        hold_s: Some(5),
        clear_hold_s: Some(10),
        ..rule::Draft::default()
    };
    drafts.insert("on-battery".to_string(), below(3000.0, 3300.0));
    drafts.insert("ten-minutes".to_string(), below(600.0, 900.0));
    drafts.insert("three-minutes".to_string(), below(180.0, 300.0));
    let rules = rule::check(&drafts, &mut Vec::new());
    let wanted = wanted();
    // An hour's discharge with a jitter around each limit, and mains again before the last.
    let readings: Vec<(u64, f64)> = (0..400_u64)
        .map(|n| {
            let left = if n < 300 { 3600.0 - 12.0 * n as f64 } else { 3600.0 };
            (n * 2, (left + if n % 2 == 0 { 40.0 } else { -40.0 }).max(240.0))
        })
        .collect();
    let stages = |late: u64, boot: u64| {
        let (mut alarms, mut policy) = (Alarms::default(), Policy::default());
        let mut order = vec![0];
        for (s, left) in &readings {
            let now = at(boot + s + late);
            let instant = Now { boot: now, unix_ms: s * 1000 };
            let point = Point::gauge("hw.battery.time_left", "s", *left).with("hw.id", "ups");
            alarms.observe(&rules, &[point], instant);
            alarms.tick(instant);
            let ids: Vec<&str> = alarms.raised().map(|it| it.id.as_str()).collect();
            let stage = policy.judge(&wanted, ids.into_iter(), now).stage;
            if order.last() != Some(&stage) {
                order.push(stage);
            }
        }
        order
    };
    assert_eq!(stages(0, 100), [0, 1, 2, 0]);
    assert_eq!(stages(0, 100), stages(1, 90_000));
    assert_eq!(stages(0, 100), stages(3, 7));
}
