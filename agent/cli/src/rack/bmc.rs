//! The BMC's part of `purlin rack show`.

use purlin_proto::api::{Bmc, BmcEvent, BmcSensor};

use crate::{
    table::{self, Column::*, Width},
    units,
};

/// Below it the BMC's clock was not set: it counts from its own start (IPMI 2.0, 37.1).
const SINCE_START: u32 = 1 << 29;

/// What it is, its sensors, its parts, and what its log says last.
pub fn sections(bmc: &Bmc, width: Width) -> Vec<String> {
    let mut sections = vec![head(bmc, width), sensors(bmc, width)];
    sections.extend(bmc.parts.iter().map(|part| {
        let fields = part.fields.iter().map(|(name, value)| vec![name.clone(), value.clone()]);
        table::pair("part", &part.name, width) + &table::rows(fields, width)
    }));
    if !bmc.events.is_empty() {
        sections.push(events(bmc, width));
    }
    sections.into_iter().filter(|section| !section.is_empty()).collect()
}

fn head(bmc: &Bmc, width: Width) -> String {
    let mut what = format!(
        "maker {}, product {:#06x}, firmware {}, IPMI {}",
        bmc.manufacturer, bmc.product, bmc.firmware, bmc.ipmi
    );
    if bmc.stale {
        what.push_str(&format!(" — last heard {}", units::time(bmc.unix_ms)));
    }
    let free = match bmc.log_free {
        u16::MAX => "64 KiB or more".into(),
        free => units::size(free.into()),
    };
    let log = format!("{} entries, {free} free", bmc.log_entries);
    let mut text = table::pair("BMC", &what, width) + &table::pair("its log", &log, width);
    if let Some(watchdog) = &bmc.watchdog {
        let state = match watchdog.running {
            true => format!(
                "{} in {}, unless it is fed",
                watchdog.action,
                units::duration(watchdog.left_ms.into())
            ),
            false => "does not run".into(),
        };
        text.push_str(&table::pair("watchdog", &state, width));
    }
    for problem in &bmc.problems {
        text.push_str(&table::pair("not read", problem, width));
    }
    text
}

fn sensors(bmc: &Bmc, width: Width) -> String {
    let header = [
        Whole("SENSOR"),
        Right("VALUE"),
        Whole("UNIT"),
        Right("LOW"),
        Right("HIGH"),
        Left("STATE"),
    ];
    let row = |it: &BmcSensor| {
        // The innermost limit of each side is the first to be crossed.
        let limit = |of: &[Option<f64>]| of.iter().flatten().next().copied().map(super::number);
        let state = match &it.states {
            None => "can't be told".into(),
            Some(states) if states.is_empty() => "ok".into(),
            Some(states) => states.join(", "),
        };
        vec![
            it.name.clone(),
            it.value.map_or("-".into(), super::number),
            it.unit.clone(),
            limit(&it.limits[..3]).unwrap_or_default(),
            limit(&it.limits[3..]).unwrap_or_default(),
            state,
        ]
    };
    if bmc.sensors.is_empty() {
        return String::new();
    }
    table::columns(&header, bmc.sensors.iter().map(row), width)
}

fn events(bmc: &Bmc, width: Width) -> String {
    let header = [Right("RECORD"), Whole("TIME"), Left("WHAT HAPPENED")];
    let row = |it: &BmcEvent| {
        let time = match it.unix_s {
            s if s < SINCE_START => format!("{s} s after its start"),
            s => units::time(u64::from(s) * 1000),
        };
        vec![it.record.to_string(), time, it.text.clone()]
    };
    table::columns(&header, bmc.events.iter().map(row), width)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use purlin_proto::api::{BmcPart, BmcWatchdog, Rack};

    use super::*;
    use crate::{exit::Exit, output::Page as _, sample};

    #[test]
    fn a_bmc_shows_its_sensors_parts_and_log() {
        let inlet = BmcSensor {
            name: "Inlet Temp".into(),
            value: Some(40.0),
            unit: "Cel".into(),
            states: Some(vec!["above upper non-critical".into()]),
            limits: [None, None, None, Some(38.0), Some(45.0), None],
        };
        let absent = BmcSensor { name: "CPU2 Temp".into(), unit: "Cel".into(), ..inlet.clone() };
        let absent = BmcSensor { value: None, states: None, ..absent };
        let event = |record, unix_s, text: &str| BmcEvent {
            record,
            unix_s,
            text: text.into(),
            asserted: true,
        };
        let bmc = Bmc {
            manufacturer: 674,
            product: 0x100,
            firmware: "2.14".into(),
            ipmi: "2.0".into(),
            sensors: vec![inlet, absent],
            parts: vec![BmcPart {
                name: "BMC".into(),
                fields: vec![("board serial".into(), "C-0003".into())],
            }],
            log_entries: 2,
            log_free: 15_968,
            events: vec![
                event(1, 12, "PS1 Status: input lost"),
                event(2, 1_760_000_000, "Inlet Temp: above upper non-critical, going high"),
            ],
            watchdog: Some(BmcWatchdog::default()),
            ..Bmc::default()
        };
        let rack = Rack { buses: Vec::new(), bmc: Some(bmc) };
        assert_eq!(rack.exit(), Exit::Ok);
        expect![[r#"
            BMC          maker 674, product 0x0100, firmware 2.14, IPMI 2.0
            its log      2 entries, 15.6 KiB free
            watchdog     does not run

            SENSOR      VALUE  UNIT  LOW  HIGH  STATE
            Inlet Temp     40  Cel          38  above upper non-critical
            CPU2 Temp       -  Cel          38  can't be told

            part         BMC
            board serial  C-0003

            RECORD  TIME                  WHAT HAPPENED
                 1  12 s after its start  PS1 Status: input lost
                 2  2025-10-09T08:53:20Z  Inlet Temp: above upper non-critical, going high
        "#]]
        .assert_eq(&sample::page(&rack));
    }
}
