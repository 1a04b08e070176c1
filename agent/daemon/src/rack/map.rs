//! Register maps: what a kind of device has at which address, written in TOML, with
//! *every* reason why not. The ones that come with us are in `agent/daemon/maps`; what a
//! map may say is told by `proto/purlin/v1/register_map.proto`.

use std::{collections::BTreeMap, time::Duration};

use purlin_core::{
    alarm::rule::{Rule, Severity},
    idset::IdSet,
    modbus::guard::{Order, Sentinels},
    rack::{register::Register, serial::Settings},
    settings::Refusal,
};
use purlin_proto::v1;

use super::rtu::Unit;
use crate::document::{self, Format};

mod check;

/// Every shipped map, by its name.
pub const SHIPPED: [(&str, &str); 10] = [
    ("apc-smart-ups", include_str!("../../maps/apc-smart-ups.toml")),
    ("md02-hundredths", include_str!("../../maps/md02-hundredths.toml")),
    ("md02-holding", include_str!("../../maps/md02-holding.toml")),
    ("orv3-bbu", include_str!("../../maps/orv3-bbu.toml")),
    ("orv3-hpr-psu", include_str!("../../maps/orv3-hpr-psu.toml")),
    ("orv3-psu", include_str!("../../maps/orv3-psu.toml")),
    ("orv3-rpu", include_str!("../../maps/orv3-rpu.toml")),
    ("sdm120", include_str!("../../maps/sdm120.toml")),
    ("sdm630", include_str!("../../maps/sdm630.toml")),
    ("xy-md02", include_str!("../../maps/xy-md02.toml")),
];

/// What a kind of device has.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Its name, as in the configuration.
    pub name: String,
    /// What it is, for a person.
    pub title: String,
    /// The page that tells where every register is from.
    pub page: String,
    /// Where such devices are.
    pub addresses: IdSet,
    /// How its line is set as delivered.
    pub settings: Settings,
    /// Words that one request may read.
    pub max_read: u16,
    /// Its registers.
    pub registers: Vec<Register>,
    /// When a register's number is an alarm, by the register's name.
    pub rules: BTreeMap<String, Vec<Rule>>,
    /// Which of a register's flags are alarms, by the register's name.
    pub flag_alarms: BTreeMap<String, BTreeMap<String, Severity>>,
    timeout: Duration,
    min_delay: Duration,
    order: Order,
    sentinels: Sentinels,
}

impl Map {
    /// A device of this kind at an address.
    pub fn unit(&self, address: u8) -> Unit {
        let Self { timeout, min_delay, order, sentinels, .. } = *self;
        Unit { address, timeout, min_delay, order, sentinels }
    }

    /// A shipped map.
    pub fn shipped(name: &str) -> Option<Result<Self, Vec<Refusal>>> {
        SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| Self::read(text))
    }

    /// Reads a map. The error holds every reason, not the first.
    pub fn read(text: &str) -> Result<Self, Vec<Refusal>> {
        let descriptor = document::descriptor("RegisterMap");
        let (draft, mut wrong) =
            document::parse::<v1::RegisterMap>(descriptor, Format::Toml, text.as_bytes());
        let map = check::map(draft, &mut wrong);
        if wrong.is_empty() { Ok(map) } else { Err(document::bounded(wrong)) }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use purlin_core::rack::{
        action::Action,
        reads::{MAX_GAP, reads},
    };

    use super::*;

    #[test]
    fn every_shipped_map_is_one_and_has_its_page() {
        for (name, _) in SHIPPED {
            let map = Map::shipped(name).expect("shipped").unwrap_or_else(|why| panic!("{why:#?}"));
            assert_eq!(map.name, name);
            let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../").to_owned() + &map.page;
            let page =
                std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page}: {error}"));
            for register in &map.registers {
                assert!(page.contains(&format!("| {} |", register.address)), "{}", register.name);
            }
        }
    }

    fn refused(text: &str) -> String {
        let line =
            |it: Refusal| format!("{}: {} (may be {}; {})", it.path, it.value, it.limit, it.hint);
        let wrong = Map::read(text).expect_err("refused");
        wrong.into_iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_reason_is_told_at_once() {
        let wrong = refused(
            r#"
            name = "x"
            baud = 300
            form = "7E1"
            addresses = "0-5"
            colour = 1
            [[register]]
            name = "a"
            at = 65535
            type = "u32"
            [[register]]
            name = "b"
            at = 1
            function = 6
            type = "flags"
            unit = "V"
            flags = { "16" = "x" }
            write = "reboot"
            [[register]]
            name = "c"
            at = 2
            type = "u16"
            unit = "°C"
            valid = [1]
            write = "unix_time"
            alarm = [{ above = 3 }]
            [[register]]
            name = "c"
            type = "bcd"
            "#,
        );
        expect![[r#"
            colour: colour (may be one of name, title, page, addresses, baud, form, timeout_ms, min_delay_ms, max_read, count_step, reorders_within_ms, register; leave it out, or update the agent if it is newer than this one)
            title:  (may be a few words; a person reads it)
            baud: 300 (may be 1200 to 921600; in bits a second)
            form: 7E1 (may be one of 8N1, 8N2, 8E1, 8E2, 8O1, 8O2; data bits, parity, stop bits)
            addresses: 0-5 (may be of 1 to 247; ranges and numbers with commas between, e.g. 200-205,240)
            register.a.at: 65535 (may be 0 to 65534; counted from 0; it ends by 65535)
            register.a.unit:  (may be a unit of UCUM; V, A, W, Cel, %, rpm …; 1 for a bare number)
            register.b.function: 6 (may be 3 or 4; holding or input registers)
            register.b.unit: V (may be none, and no metric; it is no number)
            register.b.flags: 16 (may be 0 to 15; 0 is the lowest bit of the word)
            register.b.write: reboot (may be one of unix_time; nothing else is ever written to a device)
            register.c.alarm:  (may be for a number with a metric; flags have flag_alarms)
            register.c.unit: °C (may be a unit of UCUM; V, A, W, Cel, %, rpm …; 1 for a bare number)
            register.c.valid: [1.0] (may be [least, most]; what the device can say at all)
            register.c.write: unix_time (may be for a holding register of type u32 in s, unscaled; it is seconds since 1970)
            register.c.name: c (may be another than those before it; each is read once)
            register.c.type: bcd (may be one of u16, s16, u32, s32, f32, string, flags; fixed-point numbers have fraction_bits)
            register.c.at:  (may be 0 to 65535; counted from 0; it ends by 65535)"#]].assert_eq(&wrong);
    }

    #[test]
    fn an_action_is_for_a_clock_and_nothing_else() {
        let map = Map::shipped("orv3-psu").expect("shipped").expect("good");
        let written = map.registers.iter().filter_map(|it| Some((it.address, it.write?)));
        assert_eq!(written.collect::<Vec<_>>(), [(98, Action::UnixTime)]);
    }

    #[test]
    fn a_meter_of_pairs_is_asked_pairs() {
        let map = Map::shipped("sdm630").expect("shipped").expect("good");
        let all: Vec<usize> = (0..map.registers.len()).collect();
        for read in reads(&map.registers, &all, map.max_read, MAX_GAP) {
            assert!(read.count <= 80, "{read:?}");
            assert!(read.start.is_multiple_of(2) && read.count.is_multiple_of(2), "{read:?}");
        }
    }
}
