//! Courses of readings, and what is told of them.

use alloc::{collections::BTreeMap, format, string::String, vec, vec::Vec};
use core::time::Duration;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::{
    Alarms, Change, Condition, MAX_ALARMS, Note, Now, Refused, id,
    rule::{self, Draft, Limit, Notice, Rule, Severity},
};
use crate::metric::Point;

fn at(s: u64) -> Now {
    Now { boot: Duration::from_secs(s), unix_ms: s * 1000 }
}

fn hot(clear: f64, hold_s: u64, clear_hold_s: u64) -> Rule {
    Rule {
        name: "hot".into(),
        metric: "hw.temperature".into(),
        attributes: BTreeMap::new(),
        limit: Limit::Above { raise: 60.0, clear },
        hold: Duration::from_secs(hold_s),
        clear_hold: Duration::from_secs(clear_hold_s),
        notice: Notice { severity: Severity::Critical, ..Notice::default() },
    }
}

fn inlet(value: f64) -> Vec<Point> {
    vec![Point::gauge("hw.temperature", "Cel", value).with("hw.id", "shelf/psu1/inlet")]
}

fn told(alarms: &mut Alarms) -> String {
    let line = |change: Change| match change {
        Change::Raised(it) => format!("raised {}: {}\n", it.id, it.text),
        Change::Noted(it) => format!("noted {} over {}\n", it.id, it.over),
        Change::Cleared(it) => format!("cleared {} after {} returns\n", it.id, it.returns),
    };
    alarms.changes().into_iter().map(line).collect()
}

/// A rule over a course of (seconds, degrees).
#[track_caller]
fn check(rule: Rule, course: &[(u64, f64)], expected: Expect) {
    let mut alarms = Alarms::default();
    let mut lines = String::new();
    for (s, value) in course {
        alarms.observe(core::slice::from_ref(&rule), &inlet(*value), at(*s));
        alarms.tick(at(*s));
        for line in told(&mut alarms).lines() {
            lines += &format!("{s}: {line}\n");
        }
    }
    expected.assert_eq(&lines);
}

#[test]
fn a_limit_that_is_passed_is_an_alarm_until_it_is_well_under() {
    check(
        hot(55.0, 0, 0),
        &[(0, 59.0), (10, 60.0), (20, 61.0), (30, 70.0), (40, 58.0), (50, 55.0)],
        expect![[r#"
            20: raised hot.shelf.psu1.inlet: hw.temperature of shelf/psu1/inlet is 61 Cel, above 60 Cel
            50: cleared hot.shelf.psu1.inlet after 0 returns
        "#]],
    );
}

#[test]
fn what_is_soon_over_is_none() {
    check(
        hot(55.0, 30, 0),
        &[(0, 70.0), (10, 70.0), (20, 58.0), (30, 70.0), (59, 70.0)],
        expect![""],
    );
    check(
        hot(55.0, 30, 0),
        &[(0, 70.0), (10, 70.0), (20, 70.0), (30, 70.0)],
        expect![[r#"
            30: raised hot.shelf.psu1.inlet: hw.temperature of shelf/psu1/inlet is 70 Cel, above 60 Cel
        "#]],
    );
}

#[test]
fn what_swings_around_its_limit_is_one_alarm() {
    let course: Vec<_> = (0..100).map(|n| (n * 10, if n % 2 == 0 { 70.0 } else { 20.0 })).collect();
    let mut course = course;
    course.push((1060, 20.0));
    check(
        hot(55.0, 0, 60),
        &course,
        expect![[r#"
            0: raised hot.shelf.psu1.inlet: hw.temperature of shelf/psu1/inlet is 70 Cel, above 60 Cel
            1060: cleared hot.shelf.psu1.inlet after 49 returns
        "#]],
    );
}

#[test]
fn a_value_that_is_no_number_and_silence_change_nothing() {
    check(
        hot(55.0, 0, 0),
        &[(0, f64::NAN), (10, 70.0), (20, f64::NAN), (5000, f64::NAN)],
        expect![[r#"
            10: raised hot.shelf.psu1.inlet: hw.temperature of shelf/psu1/inlet is 70 Cel, above 60 Cel
        "#]],
    );
}

#[test]
fn a_latched_alarm_stays_until_somebody_knows_of_it() {
    let mut rule = hot(55.0, 0, 0);
    rule.notice.latched = true;
    let rules = [rule];
    let mut alarms = Alarms::default();
    alarms.observe(&rules, &inlet(70.0), at(0));
    alarms.observe(&rules, &inlet(20.0), at(10));
    alarms.observe(&rules, &inlet(70.0), at(20));
    alarms.observe(&rules, &inlet(20.0), at(30));
    let note = Note { by: "ann".into(), reason: "filter changed".into(), unix_ms: 40_000 };
    alarms.acknowledge("hot.shelf.psu1.inlet", note, at(40)).expect("it is raised");
    expect![[r#"
        raised hot.shelf.psu1.inlet: hw.temperature of shelf/psu1/inlet is 70 Cel, above 60 Cel
        noted hot.shelf.psu1.inlet over true
        noted hot.shelf.psu1.inlet over false
        noted hot.shelf.psu1.inlet over true
        cleared hot.shelf.psu1.inlet after 1 returns
    "#]]
    .assert_eq(&told(&mut alarms));
    assert_eq!(alarms.history().next().expect("kept").acknowledged.as_ref().expect("by").by, "ann");
}

#[test]
fn an_acknowledged_alarm_is_cleared_when_it_is_over_and_silence_ends() {
    let rules = [hot(55.0, 0, 0)];
    let mut alarms = Alarms::default();
    alarms.observe(&rules, &inlet(70.0), at(0));
    let id = "hot.shelf.psu1.inlet";
    let note =
        |until_s: u64| Note { by: "ann".into(), reason: "known".into(), unix_ms: until_s * 1000 };
    assert_eq!(alarms.acknowledge("cold", note(0), at(0)), Err(Refused::Unknown));
    alarms.acknowledge(id, note(0), at(1)).expect("raised");
    alarms.silence(id, note(100)).expect("raised");
    assert!(alarms.raised().all(|it| it.silenced.is_some()));
    alarms.tick(at(100));
    assert!(alarms.raised().all(|it| it.silenced.is_none()));
    alarms.observe(&rules, &inlet(20.0), at(101));
    assert_eq!((alarms.raised().count(), alarms.history().count()), (0, 1));
}

#[test]
fn a_restart_goes_on_with_what_was_raised() {
    let rules = [hot(55.0, 30, 60)];
    let mut alarms = Alarms::default();
    alarms.observe(&rules, &inlet(70.0), at(0));
    alarms.tick(at(30));
    let saved: Vec<_> = alarms.raised().cloned().collect();
    let mut alarms = Alarms::restore(saved.clone(), Vec::new());
    assert_eq!(alarms.raised().cloned().collect::<Vec<_>>(), saved);
    // The time since boot begins anew.
    alarms.observe(&rules, &inlet(70.0), at(1));
    assert_eq!(told(&mut alarms), "", "it is no second alarm");
    alarms.observe(&rules, &inlet(20.0), at(2));
    alarms.tick(at(61));
    assert_eq!(alarms.raised().count(), 1);
    alarms.tick(at(62));
    assert_eq!(alarms.raised().count(), 0);
}

#[test]
fn a_rule_that_is_gone_takes_its_alarms_along() {
    let rules = [hot(55.0, 0, 0)];
    let mut alarms = Alarms::default();
    alarms.observe(&rules, &inlet(70.0), at(0));
    alarms.condition(broken(true), at(0));
    alarms.keep_rules(&rules, at(1));
    assert_eq!(alarms.raised().count(), 2);
    alarms.keep_rules(&[], at(2));
    assert_eq!(alarms.raised().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["fault.spool-disk"]);
}

fn broken(bad: bool) -> Condition {
    let notice = Notice::default();
    Condition { id: id("fault", "spool-disk"), text: "the disk fails".into(), notice, bad }
}

#[test]
fn a_condition_that_is_no_longer_told_of_is_over() {
    let mut alarms = Alarms::default();
    alarms.conditions("fault", vec![broken(true)], at(0));
    let note = Note::default();
    assert_eq!(alarms.clear_by_hand("fault.spool-disk", note, at(1)), Err(Refused::NotOver));
    alarms.conditions("flag", Vec::new(), at(1));
    assert_eq!(alarms.raised().count(), 1, "another kind's");
    alarms.conditions("fault", Vec::new(), at(2));
    alarms.tick(at(21));
    assert_eq!(alarms.raised().count(), 1, "not for a moment's sake");
    alarms.tick(at(22));
    assert_eq!((alarms.raised().count(), alarms.history().count()), (0, 1));
}

#[test]
fn a_restart_that_needs_a_moment_to_see_what_is_wrong_ends_no_alarm() {
    let mut alarms = Alarms::default();
    alarms.conditions("fault", vec![broken(true)], at(0));
    let mut alarms = Alarms::restore(alarms.raised().cloned().collect(), Vec::new());
    alarms.conditions("fault", Vec::new(), at(1));
    alarms.conditions("fault", vec![broken(true)], at(6));
    alarms.tick(at(100));
    assert_eq!(told(&mut alarms), "");
    assert_eq!(alarms.raised().map(|it| it.returns).collect::<Vec<_>>(), [1]);
}

#[test]
fn of_two_rules_that_make_one_id_the_first_counts() {
    let mut alarms = Alarms::default();
    let own = Rule { limit: Limit::Above { raise: 80.0, clear: 80.0 }, ..hot(55.0, 0, 0) };
    alarms.observe(&[own, hot(55.0, 0, 0)], &inlet(70.0), at(0));
    assert_eq!(alarms.raised().count(), 0);
}

#[test]
fn there_is_room_for_so_many_and_the_others_are_counted() {
    let rules = [hot(55.0, 0, 0)];
    let mut alarms = Alarms::default();
    for n in 0..MAX_ALARMS + 3 {
        let point = Point::gauge("hw.temperature", "Cel", 99.0).with("hw.id", format!("chip{n}"));
        alarms.observe(&rules, &[point], at(0));
    }
    assert_eq!((alarms.raised().count(), alarms.passed_over()), (MAX_ALARMS, 3));
}

#[test]
fn an_id_is_one_level_of_a_topic_and_of_one_subject_alone() {
    assert_eq!(id("hot", "a/b-1"), "hot.a.b-1");
    assert_eq!(id("hot", ""), "hot");
    assert_ne!(id("hot", "a b"), id("hot", "a_b"));
    assert_ne!(id("hot", "a.b"), id("hot", "a/b"));
    let long = "x".repeat(200);
    assert!(id("hot", &long).len() <= 64 && id("hot", &long) != id("hot", &(long.clone() + "y")));
}

#[test]
fn every_reason_why_a_rule_is_none_is_told() {
    let draft = Draft {
        above: Some(60.0),
        clear: Some(61.0),
        hold_s: Some(100_000),
        severity: Some("loud".into()),
        ..Draft::default()
    };
    let mut refusals = Vec::new();
    let drafts = [("Hot!".into(), draft), ("none".into(), Draft::default())].into();
    assert_eq!(rule::check(&drafts, &mut refusals), []);
    let line =
        |r: &crate::settings::Refusal| format!("{}: {} (may be {})\n", r.path, r.value, r.limit);
    expect![[r#"
        alarms.rules.Hot!: Hot! (may be 1 to 48 letters a-z, digits and -)
        alarms.rules.Hot!.metric:  (may be a metric)
        alarms.rules.Hot!.clear: 61 (may be at most 60)
        alarms.rules.Hot!.hold_s: 100000 (may be 0 to 86400)
        alarms.rules.Hot!.severity: loud (may be one of info, warning, critical)
        alarms.rules.none.metric:  (may be a metric)
        alarms.rules.none: no limit, or two (may be one of above and below)
    "#]]
    .assert_eq(&refusals.iter().map(line).collect::<String>());
}

proptest! {
    /// Whatever is read: of each id raised and cleared take turns, nothing is raised
    /// before its hold, and nothing is cleared while it is bad.
    #[test]
    fn raised_and_cleared_take_turns(
        hold in 0_u64..20, clear_hold in 0_u64..20, latched: bool,
        course in prop::collection::vec((1_u64..10, 40_u32..80), 1..200),
    ) {
        let mut rule = hot(55.0, hold, clear_hold);
        rule.notice.latched = latched;
        let mut alarms = Alarms::default();
        let (mut raised, mut now, mut bad_since) = (false, 0, None);
        for (wait, value) in course {
            now += wait;
            alarms.observe(core::slice::from_ref(&rule), &inlet(value.into()), at(now));
            alarms.tick(at(now));
            bad_since = if value > 60 { bad_since.or(Some(now)) } else { None };
            for change in alarms.changes() {
                match change {
                    Change::Raised(_) => {
                        prop_assert!(!raised);
                        prop_assert!(bad_since.is_some_and(|since| now >= since + hold));
                        raised = true;
                    }
                    Change::Cleared(_) => {
                        prop_assert!(raised && !latched && value <= 55);
                        raised = false;
                    }
                    Change::Noted(_) => prop_assert!(raised && latched),
                }
            }
            prop_assert_eq!(alarms.raised().count(), usize::from(raised));
        }
    }
}
