//! Whether what is written is a map: everything that is wrong with it, and the map if
//! nothing is.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use purlin_core::{
    alarm::rule::{Rule, Severity},
    idset::IdSet,
    modbus::{
        guard::{Order, Sentinels},
        pdu::Table,
    },
    rack::{
        action::Action,
        reads,
        register::{Kind, Register},
        serial::{BAUD, BAUD_DEFAULT, Form, Settings},
    },
    settings::{Impossible, Refusal},
};
use purlin_proto::v1;

use super::Map;
use crate::{door::rule_draft, rack::alarms};

/// For an answer to begin, unless the map says otherwise: the slowest devices we know
/// take 200 ms. More than the most is no answer that anybody waits for.
const TIMEOUT_MS: u32 = 300;
const TIMEOUTS_MS: RangeInclusive<u32> = 10..=10_000;
/// Silence before a request: the slowest known devices need 50 ms.
const MIN_DELAYS_MS: RangeInclusive<u32> = 0..=1000;
/// The worst that a gateway may be late: a bus that waits longer is not read.
const LATENESSES_MS: RangeInclusive<u32> = 1..=60_000;
/// How often a register is read, unless the map says otherwise.
const INTERVAL_S: u32 = 10;
const INTERVALS_S: RangeInclusive<u32> = 1..=86_400;
/// A map with more is not one device's.
const MAX_REGISTERS: usize = 2000;
/// A name becomes a part of a metric's attributes, of an alarm's id and of a topic.
const MAX_NAME: usize = 48;
/// The longest unit; UCUM's own examples have less.
const MAX_UNIT: usize = 24;
/// The longest sentinel, in words: it costs the bus as much as it is long.
const MAX_SENTINEL: u16 = 8;
/// Addresses of devices (SL 2.2).
const ADDRESSES: RangeInclusive<u32> = 1..=247;

const TYPES: &str = "one of u16, s16, u32, s32, f32, string, flags";

/// Checks a map. Only if nothing was found wrong is it one.
pub fn map(draft: v1::RegisterMap, refusals: &mut Vec<Refusal>) -> Map {
    let mut wrong = Wrong { refusals, at: String::new() };
    wrong.name("name", &draft.name, "the configuration names it so");
    if draft.title.is_empty() {
        wrong.tell("title", "", "a few words", "a person reads it");
    }
    let baud = wrong.within("baud", draft.baud, BAUD_DEFAULT, BAUD, "in bits a second");
    let form = draft.form.as_deref().map_or(Ok(Form::DEFAULT), str::parse);
    let form = form.unwrap_or_else(|_| {
        let value = draft.form.as_deref().unwrap_or_default();
        let limit = "one of 8N1, 8N2, 8E1, 8E2, 8O1, 8O2";
        wrong.tell("form", value, limit, "data bits, parity, stop bits");
        Form::DEFAULT
    });
    let addresses = IdSet::parse(&draft.addresses).ok();
    if !addresses.as_ref().is_some_and(|it| it.iter().all(|at| ADDRESSES.contains(&at))) {
        let hint = "ranges and numbers with commas between, e.g. 200-205,240";
        wrong.tell("addresses", &draft.addresses, "of 1 to 247", hint);
    }
    let ms = "in milliseconds";
    let timeout = wrong.within("timeout_ms", draft.timeout_ms, TIMEOUT_MS, TIMEOUTS_MS, ms);
    let min_delay = wrong.within("min_delay_ms", draft.min_delay_ms, 0, MIN_DELAYS_MS, ms);
    let late = draft.reorders_within_ms;
    let late =
        late.map(|late| wrong.within("reorders_within_ms", Some(late), 1, LATENESSES_MS, ms));
    let most: u32 = Table::HoldingRegisters.max_read().into();
    let step = wrong.within("count_step", draft.count_step, 1, 1..=most, "in words");
    let max_read = wrong.within("max_read", draft.max_read, most, 1..=most, "in words");
    if step != 0 && !max_read.is_multiple_of(step) {
        let hint = "no request may have another count";
        wrong.tell("max_read", max_read, format!("a multiple of {step}"), hint);
    }
    let count = draft.register.len();
    if !(1..=MAX_REGISTERS).contains(&count) {
        let hint = "a [[register]] for each value";
        wrong.tell("register", count, format!("1 to {MAX_REGISTERS} of them"), hint);
    }
    let limits = Limits { max_read, step: step.max(1) };
    let mut names = BTreeSet::new();
    let mut registers = Vec::new();
    let (mut rules, mut flag_alarms) = (BTreeMap::new(), BTreeMap::new());
    for (n, register) in draft.register.into_iter().enumerate() {
        let name = register.name.clone();
        wrong.at = match name.is_empty() {
            true => format!("register[{n}]."),
            false => format!("register.{name}."),
        };
        wrong.name("name", &name, "it is read and shown by it");
        if !names.insert(name.clone()) {
            wrong.tell("name", &name, "another than those before it", "each is read once");
        }
        rules.insert(name.clone(), wrong.rules(&register, &draft.page));
        flag_alarms.insert(name, wrong.flag_alarms(&register));
        registers.extend(wrong.register(register, limits));
    }
    let ms = |ms: u32| Duration::from_millis(ms.into());
    Map {
        name: draft.name,
        title: draft.title,
        page: draft.page,
        addresses: addresses.unwrap_or_default(),
        settings: Settings { baud, form },
        max_read: max_read as u16,
        timeout: ms(timeout),
        min_delay: ms(min_delay),
        order: late.map_or(Order::Kept, |late| Order::Any(ms(late))),
        sentinels: sentinels(&registers, limits.step as u16),
        registers,
        rules,
        flag_alarms,
    }
}

/// What one request may have, in words.
#[derive(Clone, Copy)]
struct Limits {
    max_read: u32,
    step: u32,
}

/// Takes down what is wrong, and where.
struct Wrong<'a> {
    refusals: &'a mut Vec<Refusal>,
    /// What a field's path begins with.
    at: String,
}

impl Wrong<'_> {
    fn tell(&mut self, field: &str, value: impl ToString, limit: impl Into<String>, hint: &str) {
        let path = format!("{}{field}", self.at);
        let (value, limit) = (value.to_string(), limit.into());
        self.refusals.push(Refusal { path, value, limit, hint: hint.into() });
    }

    fn name(&mut self, field: &str, name: &str, hint: &str) {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(is_plain) {
            self.tell(field, name, format!("1 to {MAX_NAME} of a-z, 0-9, - and _"), hint);
        }
    }

    fn within(
        &mut self,
        field: &str,
        value: Option<u32>,
        default: u32,
        range: RangeInclusive<u32>,
        hint: &str,
    ) -> u32 {
        let value = value.unwrap_or(default);
        if !range.contains(&value) {
            self.tell(field, value, format!("{} to {}", range.start(), range.end()), hint);
        }
        value
    }

    fn rules(&mut self, register: &v1::MapRegister, page: &str) -> Vec<Rule> {
        let drafts = register.alarm.iter().cloned().map(rule_draft).collect();
        let rules = alarms::rules(&register.metric, drafts, page);
        rules.unwrap_or_else(|refusals| {
            let here = |it: Refusal| Refusal { path: format!("{}{}", self.at, it.path), ..it };
            self.refusals.extend(refusals.into_iter().map(here));
            Vec::new()
        })
    }

    fn flag_alarms(&mut self, register: &v1::MapRegister) -> BTreeMap<String, Severity> {
        let mut alarms = BTreeMap::new();
        for (flag, severity) in &register.flag_alarms {
            if !register.flags.values().any(|it| it == flag) {
                self.tell("flag_alarms", flag, "a name of its flags", "flags has them");
            }
            match severity.parse() {
                Ok(severity) => _ = alarms.insert(flag.clone(), severity),
                Err(Impossible { limit, hint }) => {
                    self.tell(&format!("flag_alarms.{flag}"), severity, limit, &hint);
                }
            }
        }
        alarms
    }

    fn register(&mut self, draft: v1::MapRegister, limits: Limits) -> Option<Register> {
        let table = match draft.function.unwrap_or(3) {
            3 => Table::HoldingRegisters,
            4 => Table::InputRegisters,
            other => {
                self.tell("function", other, "3 or 4", "holding or input registers");
                Table::HoldingRegisters
            }
        };
        let kind = self.kind(&draft, limits);
        let address = self.address(draft.at, kind);
        let is_number = kind.is_some_and(|it| !matches!(it, Kind::Text { .. } | Kind::Flags));
        if is_number {
            self.unit(&draft.unit);
        } else if kind.is_some() && !(draft.unit.is_empty() && draft.metric.is_empty()) {
            self.tell("unit", &draft.unit, "none, and no metric", "it is no number");
        }
        if draft.fraction_bits.is_some() && draft.scale.is_some() {
            self.tell("scale", "", "fraction_bits or scale", "not both");
        }
        let bits = self.within("fraction_bits", draft.fraction_bits, 0, 0..=31, "in bits");
        let valid = match *draft.valid {
            [] => None,
            [least, most] if least <= most => Some(least..=most),
            _ => {
                let value = format!("{:?}", draft.valid);
                self.tell("valid", value, "[least, most]", "what the device can say at all");
                None
            }
        };
        let hint = "in seconds";
        let interval = self.within("interval_s", draft.interval_s, INTERVAL_S, INTERVALS_S, hint);
        let flags = self.flags(&draft);
        let write = self.action(&draft, table, kind);
        Some(Register {
            name: draft.name,
            table,
            address: address?,
            kind: kind?,
            low_word_first: draft.low_word_first.unwrap_or(false),
            scale: draft.scale.unwrap_or(0.5_f64.powi(bits as i32)),
            offset: draft.offset.unwrap_or(0.0),
            unit: draft.unit,
            metric: draft.metric,
            valid,
            interval: Duration::from_secs(interval.into()),
            flags,
            write,
        })
    }

    fn kind(&mut self, draft: &v1::MapRegister, limits: Limits) -> Option<Kind> {
        let kind = match draft.r#type.as_str() {
            "u16" => Kind::U16,
            "s16" => Kind::S16,
            "u32" => Kind::U32,
            "s32" => Kind::S32,
            "f32" => Kind::F32,
            "flags" => Kind::Flags,
            "string" => Kind::Text { words: draft.words.unwrap_or(0).min(u16::MAX.into()) as u16 },
            other => {
                self.tell("type", other, TYPES, "fixed-point numbers have fraction_bits");
                return None;
            }
        };
        let words = u32::from(kind.words());
        if draft.words.is_some() && !matches!(kind, Kind::Text { .. }) {
            self.tell("words", words, "none", "only a string has them; a number has its type's");
        }
        if !(1..=limits.max_read).contains(&words) || !words.is_multiple_of(limits.step) {
            let limit = format!("1 to {}, a multiple of {}", limits.max_read, limits.step);
            self.tell("words", words, limit, "a register is read in one request");
        }
        Some(kind)
    }

    fn address(&mut self, at: Option<u32>, kind: Option<Kind>) -> Option<u16> {
        let last = 0x1_0000 - kind.map_or(1, |it| u32::from(it.words()).min(0xffff));
        let address = at.filter(|at| *at <= last).map(|at| at as u16);
        if address.is_none() {
            let value = at.map_or(String::new(), |at| at.to_string());
            self.tell("at", value, format!("0 to {last}"), "counted from 0; it ends by 65535");
        }
        address
    }

    /// UCUM has printable characters of ASCII without spaces, and C is a coulomb.
    fn unit(&mut self, unit: &str) {
        let is_one = unit.bytes().all(|b| b.is_ascii_graphic()) && unit.len() <= MAX_UNIT;
        if unit.is_empty() || !is_one {
            let hint = "V, A, W, Cel, %, rpm …; 1 for a bare number";
            self.tell("unit", unit, "a unit of UCUM", hint);
        }
    }

    fn flags(&mut self, draft: &v1::MapRegister) -> Vec<(u8, String)> {
        let mut flags = Vec::new();
        for (bit, name) in &draft.flags {
            match bit.parse() {
                Ok(bit) if bit < 16 => flags.push((bit, name.clone())),
                _ => self.tell("flags", bit, "0 to 15", "0 is the lowest bit of the word"),
            }
        }
        flags
    }

    fn action(
        &mut self,
        draft: &v1::MapRegister,
        table: Table,
        kind: Option<Kind>,
    ) -> Option<Action> {
        let wanted = draft.write.as_deref()?;
        let Ok(action) = wanted.parse() else {
            let hint = "nothing else is ever written to a device";
            self.tell("write", wanted, format!("one of {}", Action::ALL[0]), hint);
            return None;
        };
        let is_clock = table == Table::HoldingRegisters
            && kind == Some(Kind::U32)
            && draft.unit == "s"
            && (draft.scale, draft.fraction_bits, draft.offset) == (None, None, None)
            && draft.low_word_first != Some(true);
        if !is_clock {
            let limit = "for a holding register of type u32 in s, unscaled";
            self.tell("write", wanted, limit, "it is seconds since 1970");
        }
        Some(action)
    }
}

/// The longest run of addresses that the device has.
fn sentinels(registers: &[Register], step: u16) -> Sentinels {
    let all: Vec<usize> = (0..registers.len()).collect();
    let runs = reads::reads(registers, &all, MAX_SENTINEL.max(step), 0);
    let longest = runs.into_iter().max_by_key(|run| run.count);
    let (table, start, most) =
        longest.map_or((Table::HoldingRegisters, 0, 0), |run| (run.table, run.start, run.count));
    Sentinels { table, start, most, step }
}
