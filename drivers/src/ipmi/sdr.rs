//! Sensor data records: what sensors there are, and how a raw reading becomes a number
//! (specification, 36.3 and 43).

use purlin_core::rack::bmc::{Sensor, state::THRESHOLD};

use super::field::field;

/// What a record is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A sensor; several where a record is shared by some of a kind.
    Sensors(Vec<Known>),
    /// A part whose FRU information is the BMC's own to read.
    Fru {
        /// Its number.
        id: u8,
        /// Its name.
        name: String,
    },
    /// Something else.
    Other,
}

/// A sensor as its record has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// What is known without asking it.
    pub sensor: Sensor,
    /// Whose it is: address and LUN.
    pub owner: (u8, u8),
    /// How its readings become numbers; `None` if they don't.
    pub scale: Option<Scale>,
    /// It can't be read: its record is for events alone.
    pub silent: bool,
}

/// How a raw reading becomes a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Data format: 0 unsigned, 1 1's complement, 2 2's complement.
    format: u8,
    /// Linearization; from 0x70 on the factors are each reading's own.
    linearization: u8,
    /// How.
    pub factors: Factors,
}

/// y = (M·x + B·10^K1)·10^K2
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    m: i16,
    b: i16,
    k1: i8,
    k2: i8,
}

impl Factors {
    /// From the bytes behind linearization, or those of Get Sensor Reading Factors.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [m, m_high, b, b_high, _, exponents, ..] = bytes else { return None };
        let ten = |low: &u8, high: &u8| {
            // Sign-extended from ten bits.
            let bits = u16::from(*low) | u16::from(high & 0xc0) << 2;
            (bits << 6).cast_signed() >> 6
        };
        let four = |nibble: u8| (nibble << 4).cast_signed() >> 4;
        Some(Self {
            m: ten(m, m_high),
            b: ten(b, b_high),
            k1: four(exponents & 15),
            k2: four(exponents >> 4),
        })
    }
}

impl Scale {
    /// Whether each reading has factors of its own.
    pub fn varies(&self) -> bool {
        self.linearization >= 0x70
    }

    /// What a raw reading is, in the sensor's unit.
    pub fn value(&self, raw: u8, factors: &Factors) -> Option<f64> {
        let x = match self.format {
            0 => f64::from(raw),
            // 0xff is minus zero.
            1 if raw & 0x80 != 0 => -f64::from(!raw),
            1 => f64::from(raw),
            _ => f64::from(raw.cast_signed()),
        };
        let ten = |power: i8| 10_f64.powi(power.into());
        let y =
            (f64::from(factors.m) * x + f64::from(factors.b) * ten(factors.k1)) * ten(factors.k2);
        let y = match self.linearization {
            1 => y.ln(),
            2 => y.log10(),
            3 => y.log2(),
            4 => y.exp(),
            5 => 10_f64.powf(y),
            6 => y.exp2(),
            7 => y.recip(),
            8 => y * y,
            9 => y * y * y,
            10 => y.sqrt(),
            11 => y.cbrt(),
            _ => y,
        };
        // Eight bits have no more than six digits, and binary fractions look odd.
        let rounded = (y * 1e6).round() / 1e6;
        rounded.is_finite().then_some(rounded)
    }
}

/// Reads a record, header included. Nothing is a record that is too short for its kind.
pub fn decode(record: &[u8]) -> Option<Record> {
    match *record.get(3)? {
        0x01 => full(record),
        0x02 => compact(record),
        0x03 => event_only(record),
        0x11 => fru(record),
        _ => Some(Record::Other),
    }
}

fn sensor(record: &[u8], kind: u8, reading_type: u8, name_at: usize) -> Option<Sensor> {
    let number = *record.get(7)?;
    let name = field(record.get(name_at..)?).map(|(name, _)| name).unwrap_or_default();
    let name = if name.is_empty() { format!("sensor-{number}") } else { name };
    Some(Sensor { number, name, kind, reading_type, ..Sensor::default() })
}

fn owner(record: &[u8]) -> Option<(u8, u8)> {
    Some((*record.get(5)?, record.get(6)? & 3))
}

fn full(record: &[u8]) -> Option<Record> {
    let at = |index: usize| record.get(index).copied();
    let mut sensor = sensor(record, at(12)?, at(13)?, 47)?;
    let (units, base, modifier) = (at(20)?, at(21)?, at(22)?);
    let format = units >> 6;
    let scale = Scale {
        format,
        linearization: at(23)? & 0x7f,
        factors: Factors::decode(record.get(24..30)?)?,
    };
    let scale = (format != 3).then_some(scale);
    sensor.unit = if scale.is_some() { unit(units, base, modifier) } else { String::new() };
    if let (Some(scale), THRESHOLD) = (&scale, sensor.reading_type)
        && !scale.varies()
    {
        // Which of them can be read: the others hold anything.
        let readable = at(18)?;
        // Lower ones: non-critical, critical, non-recoverable; then upper.
        for (bit, index) in [41, 40, 39, 38, 37, 36].into_iter().enumerate() {
            let raw = at(index)?;
            sensor.limits[bit] =
                (readable >> bit & 1 == 1).then(|| scale.value(raw, &scale.factors)).flatten();
        }
    }
    let owner = owner(record)?;
    Some(Record::Sensors(vec![Known { sensor, owner, scale, silent: false }]))
}

fn compact(record: &[u8]) -> Option<Record> {
    let at = |index: usize| record.get(index).copied();
    let sensor = sensor(record, at(12)?, at(13)?, 31)?;
    Some(Record::Sensors(shared(sensor, owner(record)?, (at(23)?, at(24)?), false)))
}

fn event_only(record: &[u8]) -> Option<Record> {
    let at = |index: usize| record.get(index).copied();
    let sensor = sensor(record, at(10)?, at(11)?, 16)?;
    Some(Record::Sensors(shared(sensor, owner(record)?, (at(12)?, at(13)?), true)))
}

/// One record for some sensors that follow one another, told apart by a number or a
/// letter.
fn shared(sensor: Sensor, owner: (u8, u8), sharing: (u8, u8), silent: bool) -> Vec<Known> {
    let count = (sharing.0 & 15).max(1);
    let (is_letter, first) = (sharing.0 >> 4 & 3 == 1, sharing.1 & 0x7f);
    let one = |n: u8| {
        let number = sensor.number.wrapping_add(n);
        let place = first.wrapping_add(n);
        let name = match (count, is_letter) {
            (1, _) => sensor.name.clone(),
            (_, true) => format!("{}{}", sensor.name, char::from(b'A' + place % 26)),
            _ => format!("{}{place}", sensor.name),
        };
        Known { sensor: Sensor { number, name, ..sensor.clone() }, owner, scale: None, silent }
    };
    (0..count).map(one).collect()
}

fn fru(record: &[u8]) -> Option<Record> {
    let at = |index: usize| record.get(index).copied();
    let (id, flags) = (at(6)?, at(7)?);
    let name = field(record.get(15..)?).map(|(name, _)| name).unwrap_or_default();
    // A physical device is behind a bus that only its maker's software knows.
    Some(if flags & 0x80 != 0 { Record::Fru { id, name } } else { Record::Other })
}

/// UCUM (43.17). What a unit is multiplied or divided by is left out of none: it would be
/// another unit, so that is told by its numbers.
fn unit(units: u8, base: u8, modifier: u8) -> String {
    if units & 1 == 1 {
        return "%".into();
    }
    if units & 0b11_1110 != 0 {
        return format!("{{unit {base}, modifier {modifier}, form {units:#04x}}}");
    }
    match base {
        0 => "1",
        1 => "Cel",
        2 => "[degF]",
        3 => "K",
        4 => "V",
        5 => "A",
        6 => "W",
        7 => "J",
        8 => "C",
        9 => "V.A",
        17 => "[cft_i]/min",
        18 => "rpm",
        19 => "Hz",
        20 => "us",
        21 => "ms",
        22 => "s",
        23 => "min",
        24 => "h",
        25 => "d",
        70 => "bit",
        72 => "By",
        other => return format!("{{unit {other}}}"),
    }
    .into()
}
