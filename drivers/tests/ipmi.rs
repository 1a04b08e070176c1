//! What a BMC's bytes mean: records that openipmi's `sdrcomp` compiled, entries that its
//! simulator logged, and a FRU made for it (tests/vm/ipmi), which are the fuzz seeds too.

use std::{fmt::Write as _, fs, path::Path};

use expect_test::{Expect, expect};
use purlin_drivers::ipmi::{
    fru,
    sdr::{self, Record, Scale},
    sel,
};

fn seed(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    fs::read(dir.join(name)).expect("a seed")
}

/// A sensor's name, type, unit and limits, and what some raw readings are.
fn check(record: &[u8], raw: &[u8], expected: Expect) {
    let Some(Record::Sensors(known)) = sdr::decode(record) else { panic!("no sensor") };
    let mut text = String::new();
    for it in known {
        let sensor = &it.sensor;
        let limits: Vec<_> = sensor.limits.iter().flatten().collect();
        _ = write!(text, "{} {} type {:#04x}", sensor.number, sensor.name, sensor.kind);
        _ = write!(text, " unit {:?} limits {limits:?}", sensor.unit);
        let value = |scale: Scale| raw.iter().map(move |raw| scale.value(*raw, &scale.factors));
        for value in it.scale.into_iter().flat_map(value) {
            _ = write!(text, " {}", value.map_or("-".into(), |value| value.to_string()));
        }
        text.push('\n');
    }
    expected.assert_eq(&text);
}

/// A full record's factors: M, B, and the exponents of ten for B and the result.
fn scaled(record: &mut [u8], m: i16, b: i16, k1: i8, k2: i8) {
    let (m, b) = (m.to_le_bytes(), b.to_le_bytes());
    (record[24], record[25]) = (m[0], m[1] << 6);
    (record[26], record[27]) = (b[0], b[1] << 6);
    record[29] = (k2 as u8) << 4 | k1 as u8 & 15;
}

#[test]
fn readings_become_numbers_in_their_unit() {
    check(
        &seed("sdr/threshold"),
        &[24, 52],
        expect![[r#"
        1 Inlet Temp type 0x01 unit "Cel" limits [38.0, 45.0] 24 52
    "#]],
    );
    check(
        &seed("sdr/scaled"),
        &[176],
        expect![[r#"
        2 PS1 12V type 0x02 unit "V" limits [] 11.96
    "#]],
    );
}

#[test]
fn factors_and_formats_are_signed() {
    let mut record = seed("sdr/threshold");
    scaled(&mut record, -3, -5, 1, -1);
    check(
        &record,
        &[10],
        expect![[r#"
        1 Inlet Temp type 0x01 unit "Cel" limits [-16.4, -18.5] -8
    "#]],
    );
    let mut record = seed("sdr/threshold");
    record[20] |= 0x80;
    check(
        &record,
        &[0xff],
        expect![[r#"
        1 Inlet Temp type 0x01 unit "Cel" limits [38.0, 45.0] -1
    "#]],
    );
    record[20] = 0x40;
    check(
        &record,
        &[0xfe],
        expect![[r#"
        1 Inlet Temp type 0x01 unit "Cel" limits [38.0, 45.0] -1
    "#]],
    );
}

#[test]
fn readings_are_made_linear() {
    let mut record = seed("sdr/threshold");
    // Nothing readable: no limit is among what is told.
    record[18] = 0;
    for (linearization, expected) in [
        (
            1,
            expect![[r#"
            1 Inlet Temp type 0x01 unit "Cel" limits [] 2.079442
        "#]],
        ),
        (
            6,
            expect![[r#"
            1 Inlet Temp type 0x01 unit "Cel" limits [] 256
        "#]],
        ),
        (
            7,
            expect![[r#"
            1 Inlet Temp type 0x01 unit "Cel" limits [] 0.125
        "#]],
        ),
        (
            11,
            expect![[r#"
            1 Inlet Temp type 0x01 unit "Cel" limits [] 2
        "#]],
        ),
    ] {
        record[23] = linearization;
        check(&record, &[8], expected);
    }
    record[23] = 7;
    check(
        &record,
        &[0],
        expect![[r#"
        1 Inlet Temp type 0x01 unit "Cel" limits [] -
    "#]],
    );
}

#[test]
fn a_record_may_be_of_some_sensors() {
    let mut record = seed("sdr/discrete");
    check(
        &record,
        &[],
        expect![[r#"
        4 PS1 Status type 0x08 unit "" limits []
    "#]],
    );
    // Two, told apart by a number that begins at 1.
    (record[23], record[24]) = (2, 1);
    check(
        &record,
        &[],
        expect![[r#"
        4 PS1 Status1 type 0x08 unit "" limits []
        5 PS1 Status2 type 0x08 unit "" limits []
    "#]],
    );
}

#[test]
fn the_log_tells_what_began_and_what_is_over() {
    let entries = seed("sel/entries");
    let (entries, rest) = entries.as_chunks::<{ sel::LENGTH }>();
    assert!(rest.is_empty());
    let line = |entry: &[u8; sel::LENGTH]| {
        let event = sel::decode(entry);
        let (state, is_so) = event.state();
        format!("{} {} state {state} {is_so}", event.record, event.text(None))
    };
    let lines: Vec<_> = entries.iter().take(6).map(line).collect();
    expect![[r#"
        1 sensor 4: present state 0 true
        2 sensor 1: above upper non-critical, going high state 3 true
        3 sensor 1: above upper critical, going high state 4 true
        4 sensor 1: above upper non-critical, going high, over state 3 false
        5 sensor 1: above upper critical, going high, over state 4 false
        6 sensor 4: input lost state 3 true"#]]
    .assert_eq(&lines.join("\n"));
    let oem = [9, 0, 0xc1, 0, 0, 0, 0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    expect!["an entry in its maker's own form, 0xc1"].assert_eq(&sel::decode(&oem).text(None));
}

#[test]
fn parts_say_what_they_are_and_damage_is_told() {
    let mut bytes = seed("fru/board");
    let (fields, problems) = fru::decode(&bytes);
    assert_eq!(problems, Vec::<String>::new());
    let lines: Vec<_> = fields.iter().map(|(name, text)| format!("{name}: {text}")).collect();
    expect![[r#"
        board maker: Truss
        board name: Rack board
        board serial: C-0003
        board part number: P-77
        board FRU file: f1
        maker: Purlin
        product name: Bench
        part number: PB-1
        version: 07
        serial: B-0001
        asset tag: A-0003"#]]
    .assert_eq(&lines.join("\n"));
    bytes[20] ^= 1;
    let (fields, problems) = fru::decode(&bytes);
    assert_eq!(problems, ["its board area is damaged"]);
    assert_eq!(fields.len(), 6, "the product's are still told");
    assert_eq!(fru::decode(&bytes[..7]).1, ["the common header is damaged"]);
}
