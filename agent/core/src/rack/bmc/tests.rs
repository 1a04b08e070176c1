//! What a sensor and the log say becomes one alarm, and its end.

use alloc::vec;

use expect_test::{Expect, expect};

use super::*;

fn inlet(value: f64, states: Option<u16>) -> Sensor {
    Sensor {
        number: 1,
        name: "Inlet Temp".into(),
        kind: 0x01,
        reading_type: THRESHOLD,
        unit: "Cel".into(),
        value: Some(value),
        states,
        limits: [None, None, None, Some(38.0), Some(45.0), None],
    }
}

fn psu(states: Option<u16>) -> Sensor {
    let (name, kind) = ("PS1 Status".into(), 0x08);
    Sensor { number: 7, name, kind, reading_type: 0x6f, states, ..Sensor::default() }
}

fn event(sensor: &Sensor, offset: u8, asserted: bool) -> Event {
    let Sensor { number, kind, reading_type, .. } = *sensor;
    Event { sensor: number, kind, reading_type, asserted, offset, ..Event::default() }
}

fn check(sensors: &[Sensor], events: &[Event], expected: Expect) {
    let mut told = Told::default();
    told.hear(&Log { events: events.to_vec(), ..Log::default() });
    let look = Look { sensors: sensors.to_vec(), ..Look::default() };
    let line = |it: Condition| format!("{} {}: {}", it.notice.severity.name(), it.id, it.text);
    let lines: Vec<String> = wrong(&look, &told).into_iter().map(line).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn of_several_thresholds_the_worst_is_told() {
    check(
        &[inlet(40.0, Some(0b01_1000))],
        &[],
        expect![
            "critical bmc.Inlet_Temp.above-upper-critical-3d3be9: the BMC says Inlet Temp is 40 Cel: above upper critical, 45 Cel"
        ],
    );
    check(&[inlet(25.0, Some(0))], &[], expect![""]);
}

#[test]
fn the_log_counts_for_what_says_nothing_itself() {
    let silent = psu(None);
    check(
        core::slice::from_ref(&silent),
        &[event(&silent, 3, true)],
        expect!["critical bmc.PS1_Status.input-lost-a1e635: the BMC says PS1 Status: input lost"],
    );
    check(
        core::slice::from_ref(&silent),
        &[event(&silent, 3, true), event(&silent, 3, false)],
        expect![""],
    );
    // It speaks for itself: power is back, whatever a full log lacks.
    check(&[psu(Some(1))], &[event(&silent, 3, true)], expect![""]);
}

#[test]
fn a_threshold_is_crossed_in_two_directions() {
    let silent = inlet(0.0, None);
    let over = |offset, asserted| event(&silent, offset, asserted).state();
    // Upper critical going high begins and ends; going low from there is its end too.
    assert_eq!(over(9, true), (4, true));
    assert_eq!(over(9, false), (4, false));
    assert_eq!(over(8, true), (4, false));
    // Lower critical going low.
    assert_eq!(over(2, true), (1, true));
    assert_eq!(over(3, true), (1, false));
}

#[test]
fn a_cleared_log_says_nothing_any_more() {
    let silent = psu(None);
    let mut told = Told::default();
    told.hear(&Log { events: vec![event(&silent, 1, true)], ..Log::default() });
    told.hear(&Log { anew: true, ..Log::default() });
    assert_eq!(told, Told::default());
}

#[test]
fn a_sensor_without_a_record_is_known_by_the_log() {
    let lost = Event { sensor: 99, ..event(&psu(None), 1, true) };
    check(&[], &[lost], expect!["critical bmc.sensor-99.failed: the BMC says sensor-99: failed"]);
}

#[test]
fn events_are_told_in_words() {
    let hot = event(&inlet(0.0, None), 9, true);
    expect!["Inlet Temp: above upper critical, going high"]
        .assert_eq(&hot.text(Some("Inlet Temp")));
    let back = event(&psu(None), 3, false);
    expect!["sensor 7: input lost, over"].assert_eq(&back.text(None));
}
