//! Which requests fetch which registers: as few as possible, over gaps where that is
//! cheaper than another request.

use alloc::vec::Vec;

use super::register::Register;
use crate::modbus::pdu::Table;

/// Words that are read for nothing rather than asking once more: a request and the
/// frame of its answer are 13 bytes, with two silences of 3.5 characters.
pub const MAX_GAP: u16 = 10;

/// One request, and the registers it fetches, as indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The table.
    pub table: Table,
    /// The first word.
    pub start: u16,
    /// How many words.
    pub count: u16,
    /// Which registers lie in it.
    pub registers: Vec<usize>,
}

/// Covers `wanted` (indexes into `registers`) with reads of at most `max_read` words
/// that pass over at most `max_gap` words nobody wants. A register is never split.
pub fn reads(registers: &[Register], wanted: &[usize], max_read: u16, max_gap: u16) -> Vec<Read> {
    let mut wanted = wanted.to_vec();
    wanted.sort_by_key(|&index| (registers[index].table, registers[index].address));
    let mut reads: Vec<Read> = Vec::new();
    for index in wanted {
        let Register { table, address, .. } = registers[index];
        let end = u32::from(address) + u32::from(registers[index].words());
        if let Some(last) = reads.last_mut() {
            let last_end = u32::from(last.start) + u32::from(last.count);
            let near = u32::from(address) <= last_end + u32::from(max_gap);
            let count = end.max(last_end) - u32::from(last.start);
            if last.table == table && near && count <= u32::from(max_read) {
                last.count = count as u16;
                last.registers.push(index);
                continue;
            }
        }
        let count = registers[index].words();
        reads.push(Read { table, start: address, count, registers: [index].into() });
    }
    reads
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::String};
    use core::time::Duration;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::rack::register::Kind;

    fn register(table: Table, address: u16, words: u16) -> Register {
        Register {
            name: String::new(),
            table,
            address,
            kind: Kind::Text { words },
            low_word_first: false,
            scale: 1.0,
            offset: 0.0,
            unit: String::new(),
            metric: String::new(),
            valid: None,
            interval: Duration::ZERO,
            flags: Vec::new(),
            write: None,
        }
    }

    fn check(places: &[(u16, u16)], max_read: u16, expected: Expect) {
        let registers: Vec<_> = (places.iter())
            .map(|&(address, words)| register(Table::HoldingRegisters, address, words))
            .collect();
        let all: Vec<usize> = (0..registers.len()).collect();
        let told: Vec<_> = (reads(&registers, &all, max_read, MAX_GAP).iter())
            .map(|read| format!("{}+{} {:?}", read.start, read.count, read.registers))
            .collect();
        expected.assert_eq(&told.join("; "));
    }

    #[test]
    fn a_gap_is_read_over_and_a_wide_one_is_not() {
        check(&[(0, 1), (11, 1), (23, 1)], 125, expect!["0+12 [0, 1]; 23+1 [2]"]);
    }

    #[test]
    fn no_read_is_longer_than_the_device_can() {
        check(&[(0, 8), (8, 8), (16, 8)], 16, expect!["0+16 [0, 1]; 16+8 [2]"]);
    }

    #[test]
    fn registers_in_any_order_and_over_one_another_are_covered() {
        check(&[(5, 2), (0, 4), (1, 1)], 125, expect!["0+7 [1, 2, 0]"]);
        check(&[(65535, 1), (65530, 2)], 125, expect!["65530+6 [1, 0]"]);
    }

    #[test]
    fn tables_are_not_mixed() {
        let registers =
            [register(Table::InputRegisters, 0, 1), register(Table::HoldingRegisters, 1, 1)];
        assert_eq!(reads(&registers, &[0, 1], 125, MAX_GAP).len(), 2);
    }
}
