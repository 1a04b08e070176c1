//! Register maps: what a kind of device has at which address, written in TOML, with
//! *every* reason why not. The ones that come with us are in `agent/daemon/maps`.

use std::{collections::BTreeMap, mem, ops::RangeInclusive, time::Duration};

use purlin_core::{
    alarm::rule::{self, Rule, Severity},
    modbus::{
        guard::{Order, Sentinels},
        pdu::Table,
    },
    rack::{
        register::{Kind, Register},
        serial::{BAUD, BAUD_DEFAULT, Form, Settings},
    },
};
use serde::Deserialize;

use super::{alarms, rtu::Unit};

/// Every shipped map, by its name.
pub const SHIPPED: [(&str, &str); 3] = [
    ("apc-smart-ups", include_str!("../../maps/apc-smart-ups.toml")),
    ("orv3-psu", include_str!("../../maps/orv3-psu.toml")),
    ("xy-md02", include_str!("../../maps/xy-md02.toml")),
];

/// For an answer to begin, unless the map says otherwise: the slowest devices we know
/// take 200 ms.
const TIMEOUT_MS: u64 = 300;
/// How often a register is read, unless the map says otherwise.
const INTERVAL_S: u64 = 10;
const INTERVALS_S: RangeInclusive<u64> = 1..=86_400;
/// A map with more is not one device's.
const MAX_REGISTERS: usize = 2000;
/// The longest sentinel, in words: it costs the bus as much as it is long.
const MAX_SENTINEL: u16 = 8;

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
    pub addresses: Vec<RangeInclusive<u8>>,
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
    pub fn shipped(name: &str) -> Option<Result<Self, Vec<String>>> {
        SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| Self::read(text))
    }

    /// Reads a map. The error holds every reason, not the first.
    pub fn read(text: &str) -> Result<Self, Vec<String>> {
        let draft: Draft = toml::from_str(text).map_err(|error| vec![error.to_string()])?;
        draft.check()
    }
}

/// A map as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    name: String,
    title: String,
    #[serde(default)]
    page: String,
    #[serde(default)]
    addresses: Vec<(u8, u8)>,
    baud: Option<u32>,
    form: Option<String>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    min_delay_ms: u64,
    max_read: Option<u16>,
    /// A gateway answers out of order, and none later than this.
    reorders_within_ms: Option<u64>,
    /// Counts of registers must be multiples of this.
    count_step: Option<u16>,
    #[serde(default)]
    register: Vec<DraftRegister>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftRegister {
    name: String,
    at: u16,
    #[serde(default = "three")]
    function: u8,
    #[serde(rename = "type")]
    kind: DraftKind,
    words: Option<u16>,
    #[serde(default)]
    low_word_first: bool,
    /// The number is fixed-point, with so many bits after the point.
    fraction_bits: Option<i32>,
    scale: Option<f64>,
    #[serde(default)]
    offset: f64,
    #[serde(default)]
    unit: String,
    #[serde(default)]
    metric: String,
    valid: Option<(f64, f64)>,
    interval_s: Option<u64>,
    #[serde(default)]
    flags: BTreeMap<String, String>,
    /// Limits of a number.
    #[serde(default)]
    alarm: Vec<rule::Draft>,
    /// Severity of a flag that is set, by the flag's name.
    #[serde(default)]
    flag_alarms: BTreeMap<String, Severity>,
}

fn three() -> u8 {
    3
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DraftKind {
    U16,
    S16,
    U32,
    S32,
    F32,
    String,
    Flags,
}

impl Draft {
    fn check(self) -> Result<Map, Vec<String>> {
        let mut wrong = Vec::new();
        let baud = self.baud.unwrap_or(BAUD_DEFAULT);
        if !BAUD.contains(&baud) {
            wrong.push(format!("baud: {baud} (may be {} to {})", BAUD.start(), BAUD.end()));
        }
        let form = self.form.as_deref().map_or(Ok(Form::DEFAULT), str::parse);
        let form = form.unwrap_or_else(|why| {
            wrong.push(format!("form: {why}"));
            Form::DEFAULT
        });
        for (first, last) in &self.addresses {
            if !(1..=247).contains(first) || !(1..=247).contains(last) || first > last {
                wrong.push(format!("addresses: {first} to {last} (may be 1 to 247, rising)"));
            }
        }
        let count = self.register.len();
        if !(1..=MAX_REGISTERS).contains(&count) {
            wrong.push(format!("register: {count} of them (may be 1 to {MAX_REGISTERS})"));
        }
        let step = self.count_step.unwrap_or(1);
        let max_read = self.max_read.unwrap_or(Table::HoldingRegisters.max_read());
        if !(1..=125).contains(&max_read) || step == 0 || !max_read.is_multiple_of(step.max(1)) {
            wrong.push(format!("max_read: {max_read} (may be 1 to 125, a multiple of {step})"));
        }
        let mut registers: Vec<Register> = Vec::new();
        let (mut rules, mut flag_alarms) = (BTreeMap::new(), BTreeMap::new());
        for mut draft in self.register {
            let name = draft.name.clone();
            if registers.iter().any(|other| other.name == name) {
                wrong.push(format!("register {name}: twice"));
            }
            match alarms::rules(&draft.metric, mem::take(&mut draft.alarm), &self.page) {
                Ok(list) => _ = rules.insert(name.clone(), list),
                Err(why) => {
                    wrong.extend(why.into_iter().map(|why| format!("register {name}: {why}")))
                }
            }
            let flags = mem::take(&mut draft.flag_alarms);
            for flag in flags.keys().filter(|flag| !draft.flags.values().any(|it| it == *flag)) {
                wrong.push(format!("register {name}: flag_alarms: it has no flag {flag}"));
            }
            flag_alarms.insert(name.clone(), flags);
            match draft.check(max_read, step) {
                Ok(register) => registers.push(register),
                Err(why) => {
                    wrong.extend(why.into_iter().map(|why| format!("register {name}: {why}")))
                }
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let ms = Duration::from_millis;
        let order = self.reorders_within_ms.map_or(Order::Kept, |late| Order::Any(ms(late)));
        Ok(Map {
            name: self.name,
            title: self.title,
            page: self.page,
            addresses: self.addresses.into_iter().map(|(first, last)| first..=last).collect(),
            settings: Settings { baud, form },
            max_read,
            timeout: ms(self.timeout_ms.unwrap_or(TIMEOUT_MS)),
            min_delay: ms(self.min_delay_ms),
            order,
            sentinels: sentinels(&registers, step),
            registers,
            rules,
            flag_alarms,
        })
    }
}

impl DraftRegister {
    fn check(self, max_read: u16, step: u16) -> Result<Register, Vec<String>> {
        let mut wrong = Vec::new();
        let kind = self.kind();
        let (table, words) = (self.table(), kind.words());
        if table.is_none() {
            wrong.push(format!("function {} (may be 3 or 4)", self.function));
        }
        if !(1..=max_read).contains(&words) || !words.is_multiple_of(step) {
            wrong.push(format!("{words} words (may be 1 to {max_read}, a multiple of {step})"));
        }
        if u32::from(self.at) + u32::from(words) > 0x1_0000 {
            wrong.push(format!("ends beyond address 65535, at {}", self.at));
        }
        let is_number = !matches!(self.kind, DraftKind::String | DraftKind::Flags);
        if is_number && self.unit.is_empty() {
            wrong.push("has no unit (UCUM; \"1\" for a bare number)".into());
        }
        if !is_number && (!self.unit.is_empty() || !self.metric.is_empty()) {
            wrong.push("has a unit or a metric, and is no number".into());
        }
        if self.kind != DraftKind::String && self.words.is_some() {
            wrong.push("words are for strings only".into());
        }
        if self.fraction_bits.is_some() && self.scale.is_some() {
            wrong.push("has both fraction_bits and scale".into());
        }
        if self.valid.is_some_and(|(low, high)| low.is_nan() || high.is_nan() || low > high) {
            wrong.push("valid is no range".into());
        }
        let interval = self.interval_s.unwrap_or(INTERVAL_S);
        if !INTERVALS_S.contains(&interval) {
            wrong.push(format!("interval_s {interval} (may be 1 to {})", INTERVALS_S.end()));
        }
        let flag = |(bit, name): (&String, &String)| match bit.parse() {
            Ok(bit) if bit < 16 => Ok((bit, name.clone())),
            _ => Err(format!("flag {bit} (may be 0 to 15)")),
        };
        let flags: Vec<_> = self.flags.iter().map(flag).collect();
        wrong.extend(flags.iter().filter_map(|flag| flag.as_ref().err().cloned()));
        let Some(table) = table.filter(|_| wrong.is_empty()) else { return Err(wrong) };
        let fraction = self.fraction_bits.map(|bits| 0.5_f64.powi(bits));
        Ok(Register {
            name: self.name,
            table,
            address: self.at,
            kind,
            low_word_first: self.low_word_first,
            scale: fraction.or(self.scale).unwrap_or(1.0),
            offset: self.offset,
            unit: self.unit,
            metric: self.metric,
            valid: self.valid.map(|(low, high)| low..=high),
            interval: Duration::from_secs(interval),
            flags: flags.into_iter().flatten().collect(),
        })
    }

    fn kind(&self) -> Kind {
        match self.kind {
            DraftKind::U16 => Kind::U16,
            DraftKind::S16 => Kind::S16,
            DraftKind::U32 => Kind::U32,
            DraftKind::S32 => Kind::S32,
            DraftKind::F32 => Kind::F32,
            DraftKind::Flags => Kind::Flags,
            DraftKind::String => Kind::Text { words: self.words.unwrap_or(0) },
        }
    }

    fn table(&self) -> Option<Table> {
        match self.function {
            3 => Some(Table::HoldingRegisters),
            4 => Some(Table::InputRegisters),
            _ => None,
        }
    }
}

/// The longest run of addresses that the device has.
fn sentinels(registers: &[Register], step: u16) -> Sentinels {
    let all: Vec<usize> = (0..registers.len()).collect();
    let runs = purlin_core::rack::reads::reads(registers, &all, MAX_SENTINEL.max(step), 0);
    let longest = runs.into_iter().max_by_key(|run| run.count);
    let (table, start, most) =
        longest.map_or((Table::HoldingRegisters, 0, 0), |run| (run.table, run.start, run.count));
    Sentinels { table, start, most, step }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

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

    #[test]
    fn every_reason_is_told_at_once() {
        let wrong = Map::read(
            r#"
            name = "x"
            title = "X"
            baud = 300
            form = "7E1"
            addresses = [[0, 5]]
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
            "#,
        );
        expect![[r#"
            baud: 300 (may be 1200 to 921600)
            form: "7E1" is none of 8N1, 8N2, 8E1, 8E2, 8O1, 8O2
            addresses: 0 to 5 (may be 1 to 247, rising)
            register a: ends beyond address 65535, at 65535
            register a: has no unit (UCUM; "1" for a bare number)
            register b: function 6 (may be 3 or 4)
            register b: has a unit or a metric, and is no number
            register b: flag 16 (may be 0 to 15)"#]]
        .assert_eq(&wrong.expect_err("refused").join("\n"));
    }

    #[test]
    fn what_a_map_doesnt_know_is_refused() {
        let wrong = Map::read("name = \"x\"\ntitle = \"X\"\ncolour = 1").expect_err("refused");
        assert!(wrong[0].contains("unknown field `colour`"), "{wrong:?}");
    }
}
