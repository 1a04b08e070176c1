//! When the next certificate is asked for.

/// In seconds since 1970: between half and two thirds of a certificate's life, chosen by
/// `random`. Half of it is left for whatever goes wrong, and a third for somebody who comes
/// by and helps.
pub fn due(not_before: u64, not_after: u64, random: u64) -> u64 {
    let life = not_after.saturating_sub(not_before);
    let spread = life / 6;
    not_before + life / 2 + if spread == 0 { 0 } else { random % spread }
}

#[cfg(test)]
mod tests {
    use super::due;

    proptest::proptest! {
        #[test]
        fn it_is_between_half_and_two_thirds(from in 0..1u64 << 40, life in 0..1u64 << 40, random: u64) {
            let at = due(from, from + life, random);
            assert!(at >= from + life / 2 && at <= from + life * 2 / 3, "{at}");
        }
    }
}
