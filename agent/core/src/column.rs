//! One metric's values over time, in few bytes and without losing a bit.
//!
//! What a machine measures is nearly always a whole number, or one with a few
//! decimals, and mostly near the one before. A column of such values is written as
//! whole numbers of the last decimal, the first as it is, and each next as the
//! difference to the one before, in units of the greatest common divisor (a page, a
//! sector, a clock tick), and less the usual difference, so that a counter costs
//! what its rate wavers by. What doesn't come back to the bit is written as it is.

use alloc::vec::Vec;

/// Decimals that are looked for: microseconds of a second.
const MAX_EXPONENT: u32 = 6;
const POWERS: [f64; MAX_EXPONENT as usize + 1] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];
/// Whole numbers beyond it aren't exact in a double (2^53).
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// A column as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// `value = whole / 10^exponent`, `whole = the one before + step × (slope + delta)`.
    Whole {
        /// Decimals.
        exponent: u32,
        /// What all differences are multiples of; at least 1.
        step: u64,
        /// The first whole number.
        first: i64,
        /// The usual difference.
        slope: i64,
        /// How far each difference is from it. Zeros at the end are left out.
        deltas: Vec<i64>,
    },
    /// As they are. A last value that stays is left out.
    Raw(Vec<f64>),
}

/// The shortest form of a column of at least one value.
pub fn encode(values: &[f64]) -> Column {
    match decimals(values) {
        Some((exponent, whole)) => encode_whole(exponent, &whole),
        None => {
            let mut values = values.to_vec();
            while matches!(values[..], [.., a, b] if a.to_bits() == b.to_bits()) {
                values.pop();
            }
            Column::Raw(values)
        }
    }
}

/// The values of a column for `count` samples; `None` if it can't be one of ours.
pub fn decode(column: &Column, count: usize) -> Option<Vec<f64>> {
    let mut values = Vec::with_capacity(count);
    match column {
        Column::Raw(raw) => {
            values.extend(raw.iter().take(count));
            let last = *values.last()?;
            values.resize(count, last);
        }
        Column::Whole { exponent, step, first, slope, deltas } => {
            let power = POWERS.get(*exponent as usize)?;
            let step = i64::try_from(*step).ok()?;
            let mut whole = *first;
            for n in 0..count {
                if n > 0 {
                    let delta = deltas.get(n - 1).copied().unwrap_or(0);
                    whole = whole.checked_add(slope.checked_add(delta)?.checked_mul(step)?)?;
                }
                values.push(whole as f64 / power);
            }
        }
    }
    Some(values)
}

/// The fewest decimals that all values have, at most [`MAX_EXPONENT`], and the
/// values as whole numbers of the last of them; `None` if some value has more.
pub fn decimals(values: &[f64]) -> Option<(u32, Vec<i64>)> {
    let mut exponent = 0;
    for &value in values {
        while whole(value, exponent).is_none() {
            exponent += 1;
            if exponent > MAX_EXPONENT {
                return None;
            }
        }
    }
    let whole: Option<Vec<i64>> = values.iter().map(|&value| whole(value, exponent)).collect();
    Some((exponent, whole?))
}

/// `value × 10^exponent`, if it comes back to the bit.
fn whole(value: f64, exponent: u32) -> Option<i64> {
    let power = POWERS[exponent as usize];
    let scaled = value * power;
    let in_range = scaled > -MAX_WHOLE && scaled < MAX_WHOLE;
    let rounded = (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i64;
    (in_range && (rounded as f64 / power).to_bits() == value.to_bits()).then_some(rounded)
}

/// The mean of some values, with no more decimals than they have.
pub fn mean(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let Some((exponent, _)) = decimals(values) else { return mean };
    let power = POWERS[exponent as usize];
    let half = if mean < 0.0 { -0.5 } else { 0.5 };
    (mean * power + half) as i64 as f64 / power
}

fn encode_whole(exponent: u32, whole: &[i64]) -> Column {
    let mut deltas: Vec<i64> = whole.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let step = deltas.iter().fold(0, |step, delta| gcd(step, delta.unsigned_abs())).max(1);
    deltas.iter_mut().for_each(|delta| *delta /= step as i64);
    // The median: one jump doesn't spoil the rest.
    let mut sorted = deltas.clone();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let around: Vec<i64> = deltas.iter().map(|delta| delta - median).collect();
    let (around, deltas) = (without_zeros(around), without_zeros(deltas));
    let (slope, deltas) =
        if size(&around) < size(&deltas) { (median, around) } else { (0, deltas) };
    Column::Whole { exponent, step, first: whole[0], slope, deltas }
}

fn without_zeros(mut deltas: Vec<i64>) -> Vec<i64> {
    while deltas.last() == Some(&0) {
        deltas.pop();
    }
    deltas
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Bytes of protobuf's zigzag varints.
fn size(deltas: &[i64]) -> u32 {
    let varint = |delta: &i64| {
        let zigzag = (delta << 1) ^ (delta >> 63);
        (64 - (zigzag as u64 | 1).leading_zeros()).div_ceil(7)
    };
    deltas.iter().map(varint).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[f64], expected: Column) {
        let column = encode(values);
        assert_eq!(column, expected);
        assert_eq!(decode(&column, values.len()).as_deref(), Some(values));
    }

    fn whole(exponent: u32, step: u64, first: i64, slope: i64, deltas: &[i64]) -> Column {
        Column::Whole { exponent, step, first, slope, deltas: deltas.to_vec() }
    }

    #[test]
    fn what_does_not_change_costs_nothing() {
        check(&[42.5; 5], whole(1, 1, 425, 0, &[]));
        check(&[1.0 / 3.0; 5], Column::Raw([1.0 / 3.0].to_vec()));
    }

    #[test]
    fn pages_and_decimals_are_counted_in_their_own_size() {
        check(&[8192.0, 4096.0, 16384.0, 16384.0], whole(0, 4096, 8192, 0, &[-1, 3]));
        check(&[0.29, 0.3, 0.29], whole(2, 1, 29, 0, &[1, -1]));
    }

    #[test]
    fn an_even_counter_costs_what_its_rate_wavers_by() {
        check(&[0.0, 1000.0, 2001.0, 2999.0, 3999.0], whole(0, 1, 0, 1000, &[0, 1, -2]));
        check(&[0.0, 500.0, 1000.0, 1500.0], whole(0, 500, 0, 1, &[]));
    }

    #[test]
    fn a_mean_has_no_more_decimals_than_what_it_is_of() {
        assert_eq!(mean(&[21.5, 21.6, 21.6]), 21.6);
        assert_eq!(mean(&[-3.0, -4.0]), -4.0);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(decode(&Column::Raw(Vec::new()), 3), None);
        assert_eq!(decode(&whole(7, 1, 0, 0, &[]), 1), None);
        assert_eq!(decode(&whole(0, 2, i64::MAX, 0, &[1]), 2), None);
    }

    proptest::proptest! {
        #[test]
        fn every_bit_comes_back(values in proptest::collection::vec(proptest::num::f64::ANY, 1..20)) {
            let back = decode(&encode(&values), values.len()).expect("our own");
            let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            proptest::prop_assert_eq!(bits(&back), bits(&values));
        }

        #[test]
        fn decimals_come_back_too(values in proptest::collection::vec(-1_000_000_000i64..1_000_000_000, 1..20), exponent in 0..7usize) {
            let values: Vec<f64> = values.iter().map(|&v| v as f64 / POWERS[exponent]).collect();
            let column = encode(&values);
            proptest::prop_assert!(matches!(column, Column::Whole { .. }), "{:?}", column);
            proptest::prop_assert_eq!(decode(&column, values.len()), Some(values));
        }
    }
}
