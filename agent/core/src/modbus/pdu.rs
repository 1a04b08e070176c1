//! What is asked of a unit and what it answers: the part of a frame that a serial
//! line and TCP have in common.

use alloc::{vec, vec::Vec};
use core::fmt;

/// The most bits of one read (AP 6.1).
pub const MAX_READ_BITS: u16 = 2000;
/// The most registers of one read (AP 6.3).
pub const MAX_READ_REGISTERS: u16 = 125;
/// The most coils of one write (AP 6.11).
pub const MAX_WRITE_BITS: usize = 1968;
/// The most registers of one write (AP 6.12).
pub const MAX_WRITE_REGISTERS: usize = 123;

/// Set in the function code of an answer that refuses (AP 7).
const REFUSES: u8 = 0x80;

/// The four tables of a unit (AP 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Bits that can be written; function 1.
    Coils,
    /// Bits that can't; function 2.
    DiscreteInputs,
    /// Registers that can be written; function 3.
    HoldingRegisters,
    /// Registers that can't; function 4.
    InputRegisters,
}

impl Table {
    /// The function code that reads it.
    pub fn function(self) -> u8 {
        match self {
            Table::Coils => 1,
            Table::DiscreteInputs => 2,
            Table::HoldingRegisters => 3,
            Table::InputRegisters => 4,
        }
    }

    /// Whether it holds bits and not registers.
    pub fn is_bits(self) -> bool {
        matches!(self, Table::Coils | Table::DiscreteInputs)
    }

    /// The most of it that one request may read.
    pub fn max_read(self) -> u16 {
        if self.is_bits() { MAX_READ_BITS } else { MAX_READ_REGISTERS }
    }
}

/// One request. Made by its constructors, which keep to the protocol's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Read { table: Table, start: u16, count: u16 },
    WriteCoil { address: u16, on: bool },
    WriteRegister { address: u16, value: u16 },
    WriteCoils { start: u16, bits: Vec<bool> },
    WriteRegisters { start: u16, values: Vec<u16> },
}

/// Why there can be no such request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// Where it would start.
    pub start: u16,
    /// How many it would be.
    pub count: usize,
    /// How many it may be.
    pub limit: usize,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, count, limit } = self;
        write!(f, "{count} from address {start} on: one request takes 1 to {limit}, ")?;
        write!(f, "and none beyond address 65535")
    }
}

impl core::error::Error for OutOfRange {}

fn in_range(start: u16, count: usize, limit: usize) -> Result<(), OutOfRange> {
    let fits = (1..=limit).contains(&count) && usize::from(start) + count <= 0x1_0000;
    if fits { Ok(()) } else { Err(OutOfRange { start, count, limit }) }
}

impl Request {
    /// Reads `count` of a table from `start` on: functions 1 to 4.
    pub fn read(table: Table, start: u16, count: u16) -> Result<Self, OutOfRange> {
        in_range(start, count.into(), table.max_read().into())?;
        Ok(Self(Kind::Read { table, start, count }))
    }

    /// Writes one coil: function 5.
    pub fn write_coil(address: u16, on: bool) -> Self {
        Self(Kind::WriteCoil { address, on })
    }

    /// Writes one register: function 6.
    pub fn write_register(address: u16, value: u16) -> Self {
        Self(Kind::WriteRegister { address, value })
    }

    /// Writes coils from `start` on: function 15.
    pub fn write_coils(start: u16, bits: Vec<bool>) -> Result<Self, OutOfRange> {
        in_range(start, bits.len(), MAX_WRITE_BITS)?;
        Ok(Self(Kind::WriteCoils { start, bits }))
    }

    /// Writes registers from `start` on: function 16.
    pub fn write_registers(start: u16, values: Vec<u16>) -> Result<Self, OutOfRange> {
        in_range(start, values.len(), MAX_WRITE_REGISTERS)?;
        Ok(Self(Kind::WriteRegisters { start, values }))
    }

    /// The function code.
    pub fn function(&self) -> u8 {
        match &self.0 {
            Kind::Read { table, .. } => table.function(),
            Kind::WriteCoil { .. } => 5,
            Kind::WriteRegister { .. } => 6,
            Kind::WriteCoils { .. } => 15,
            Kind::WriteRegisters { .. } => 16,
        }
    }

    /// Whether an answer has the very bytes of its request, so that the echo of a
    /// line looks like success (AP 6.5, 6.6).
    pub fn is_answered_by_its_echo(&self) -> bool {
        matches!(self.0, Kind::WriteCoil { .. } | Kind::WriteRegister { .. })
    }

    /// The read that tells whether a write took, and the answer it should give;
    /// `None` for a read.
    pub fn read_back(&self) -> Option<(Self, Answer)> {
        let read = |table, start, count| Self(Kind::Read { table, start, count });
        Some(match &self.0 {
            Kind::Read { .. } => return None,
            Kind::WriteCoil { address, on } => {
                (read(Table::Coils, *address, 1), Answer::Bits(vec![*on]))
            }
            Kind::WriteRegister { address, value } => {
                (read(Table::HoldingRegisters, *address, 1), Answer::Registers(vec![*value]))
            }
            Kind::WriteCoils { start, bits } => {
                (read(Table::Coils, *start, bits.len() as u16), Answer::Bits(bits.clone()))
            }
            Kind::WriteRegisters { start, values } => (
                read(Table::HoldingRegisters, *start, values.len() as u16),
                Answer::Registers(values.clone()),
            ),
        })
    }

    /// Appends the request as it is sent.
    pub fn encode(&self, frame: &mut Vec<u8>) {
        frame.push(self.function());
        let mut word = |value: u16| frame.extend(value.to_be_bytes());
        match &self.0 {
            Kind::Read { start, count, .. } => [*start, *count].into_iter().for_each(word),
            Kind::WriteCoil { address, on } => {
                [*address, if *on { 0xff00 } else { 0 }].into_iter().for_each(word);
            }
            Kind::WriteRegister { address, value } => {
                [*address, *value].into_iter().for_each(word);
            }
            Kind::WriteCoils { start, bits } => {
                [*start, bits.len() as u16].into_iter().for_each(word);
                frame.push(bits.len().div_ceil(8) as u8);
                let packed = |bits: &[bool]| {
                    bits.iter().enumerate().fold(0, |byte, (at, &on)| byte | u8::from(on) << at)
                };
                frame.extend(bits.chunks(8).map(packed));
            }
            Kind::WriteRegisters { start, values } => {
                [*start, values.len() as u16].into_iter().for_each(&mut word);
                frame.push(2 * values.len() as u8);
                values.iter().for_each(|value| frame.extend(value.to_be_bytes()));
            }
        }
    }

    /// Bytes of the answer, from its function code on, if it is no refusal.
    pub fn answer_len(&self) -> usize {
        match self.0 {
            Kind::Read { .. } => 2 + self.data_len(),
            _ => 5,
        }
    }

    /// Bytes of data in a read's answer.
    fn data_len(&self) -> usize {
        match self.0 {
            Kind::Read { table, count, .. } if table.is_bits() => usize::from(count).div_ceil(8),
            Kind::Read { count, .. } => 2 * usize::from(count),
            _ => 0,
        }
    }

    /// What `pdu`, from its function code on, says to this request; `None` if it is
    /// no answer to it: another function, another length, other addresses.
    pub fn understand(&self, pdu: &[u8]) -> Option<Result<Answer, Exception>> {
        let (&function, rest) = pdu.split_first()?;
        if function == self.function() | REFUSES {
            let &[code] = rest else { return None };
            return Some(Err(Exception(code)));
        }
        if function != self.function() || pdu.len() != self.answer_len() {
            return None;
        }
        match &self.0 {
            Kind::Read { table, count, .. } => {
                let (&length, data) = rest.split_first()?;
                (usize::from(length) == self.data_len())
                    .then(|| Ok(read_data(*table, *count, data)))
            }
            // All writes are answered by the first words of their own request.
            _ => {
                let mut own = Vec::new();
                self.encode(&mut own);
                own.starts_with(pdu).then_some(Ok(Answer::Written))
            }
        }
    }
}

fn read_data(table: Table, count: u16, data: &[u8]) -> Answer {
    if table.is_bits() {
        let bit = |at: usize| data[at / 8] >> (at % 8) & 1 == 1;
        Answer::Bits((0..count.into()).map(bit).collect())
    } else {
        let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair[1]]);
        Answer::Registers(data.chunks_exact(2).map(word).collect())
    }
}

/// What a unit answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a read of coils or discrete inputs.
    Bits(Vec<bool>),
    /// To a read of registers.
    Registers(Vec<u16>),
    /// To a write. On a serial line this may be an echo: see
    /// [`Request::is_answered_by_its_echo`].
    Written,
}

/// A unit's refusal, by its code (AP 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception(pub u8);

impl Exception {
    /// The function is not one the unit has.
    pub const ILLEGAL_FUNCTION: Self = Self(1);
    /// There is no such address, or not for so many.
    pub const ILLEGAL_ADDRESS: Self = Self(2);
    /// A value the unit can't take.
    pub const ILLEGAL_VALUE: Self = Self(3);
    /// A gateway has no line to the unit.
    pub const NO_PATH: Self = Self(10);
    /// A gateway had no answer from the unit.
    pub const NO_TARGET: Self = Self(11);
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.0 {
            1 => "illegal function",
            2 => "illegal data address",
            3 => "illegal data value",
            4 => "server device failure",
            5 => "acknowledged, and still at work",
            6 => "server device busy",
            8 => "memory parity error",
            10 => "gateway path unavailable",
            11 => "gateway target did not respond",
            _ => "a code the specification doesn't have",
        };
        write!(f, "exception {}, {what}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::String};

    use expect_test::{Expect, expect};

    use super::*;

    fn hex(request: &Request) -> String {
        let mut frame = Vec::new();
        request.encode(&mut frame);
        frame.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn check(request: Request, sent: Expect, pdu: &[u8], understood: Expect) {
        sent.assert_eq(&hex(&request));
        understood.assert_eq(&format!("{:?}", request.understand(pdu)));
    }

    fn read(table: Table, start: u16, count: u16) -> Request {
        Request::read(table, start, count).expect("a read within the limits")
    }

    /// The examples of the specification.
    #[test]
    fn requests_and_answers_look_as_the_specification_has_them() {
        check(
            read(Table::Coils, 0x13, 0x13),
            expect!["0100130013"],
            &[1, 3, 0xcd, 0x6b, 0x05],
            expect![
                "Some(Ok(Bits([true, false, true, true, false, false, true, true, true, true, false, true, false, true, true, false, true, false, true])))"
            ],
        );
        check(
            read(Table::HoldingRegisters, 0x6b, 3),
            expect!["03006b0003"],
            &[3, 6, 0x02, 0x2b, 0, 0, 0, 0x64],
            expect!["Some(Ok(Registers([555, 0, 100])))"],
        );
        check(
            Request::write_coil(0xac, true),
            expect!["0500acff00"],
            &[5, 0, 0xac, 0xff, 0],
            expect!["Some(Ok(Written))"],
        );
        check(
            Request::write_register(1, 3),
            expect!["0600010003"],
            &[0x86, 2],
            expect!["Some(Err(Exception(2)))"],
        );
        let bits = [1, 0, 1, 1, 0, 0, 1, 1, 1, 0].iter().map(|&bit| bit == 1).collect::<Vec<_>>();
        check(
            Request::write_coils(0x13, bits).expect("ten coils"),
            expect!["0f0013000a02cd01"],
            &[0x0f, 0, 0x13, 0, 0x0a],
            expect!["Some(Ok(Written))"],
        );
        check(
            Request::write_registers(1, vec![0x0a, 0x102]).expect("two registers"),
            expect!["100001000204000a0102"],
            &[0x10, 0, 1, 0, 2],
            expect!["Some(Ok(Written))"],
        );
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let three = read(Table::HoldingRegisters, 0, 3);
        for pdu in [
            &[][..],
            &[3],
            &[3, 4, 0, 0, 0, 0],
            &[3, 4, 0, 0, 0, 0, 0, 0],
            &[3, 6, 0, 0, 0, 0],
            &[4, 6, 0, 0, 0, 0, 0, 0],
            &[0x84, 2],
            &[0x83],
            &[0x83, 2, 0],
        ] {
            assert_eq!(three.understand(pdu), None, "{pdu:?}");
        }
        assert_eq!(Request::write_register(1, 3).understand(&[6, 0, 1, 0, 4]), None);
    }

    #[test]
    fn no_request_is_larger_than_the_protocol_has_it() {
        assert!(Request::read(Table::InputRegisters, 0, 126).is_err());
        assert!(Request::read(Table::InputRegisters, 65535, 2).is_err());
        assert!(Request::read(Table::Coils, 0, 0).is_err());
        let error = Request::write_registers(0, vec![0; 124]).expect_err("too many");
        expect!["124 from address 0 on: one request takes 1 to 123, and none beyond address 65535"]
            .assert_eq(&format!("{error}"));
    }

    #[test]
    fn a_write_knows_what_would_be_read_back() {
        let (read, answer) = Request::write_coil(7, true).read_back().expect("a write");
        assert_eq!((hex(&read), answer), ("0100070001".into(), Answer::Bits(vec![true])));
        let write = Request::write_registers(98, vec![1, 2]).expect("two registers");
        let (read, answer) = write.read_back().expect("a write");
        assert_eq!((hex(&read), answer), ("0300620002".into(), Answer::Registers(vec![1, 2])));
    }
}
