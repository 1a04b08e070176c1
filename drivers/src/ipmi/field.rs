//! A type/length byte and the text behind it, as SDRs and FRU areas have it (43.15 of the
//! specification; FRU definition, 13).

/// What stands in a FRU area where its fields end. So a field there is never one character.
pub(super) const END: u8 = 0xc1;

/// What a field says, and how many bytes it took with its first; `None` at the end of the
/// bytes.
pub(super) fn field(bytes: &[u8]) -> Option<(String, usize)> {
    let (head, rest) = bytes.split_first()?;
    let length = usize::from(head & 0x3f);
    // Some count characters where bytes are meant, so the last field may seem cut off.
    let data = &rest[..length.min(rest.len())];
    let text = match head >> 6 {
        0 => data.iter().map(|byte| format!("{byte:02x}")).collect(),
        1 => data.iter().flat_map(|byte| [bcd(byte >> 4), bcd(byte & 15)]).collect(),
        2 => six_bit(data),
        // Latin-1, whose characters are Unicode's first.
        _ => data.iter().map(|byte| char::from(*byte)).collect::<String>(),
    };
    Some((plain(&text), data.len() + 1))
}

/// BCD plus.
fn bcd(nibble: u8) -> char {
    char::from(b"0123456789 -.???"[usize::from(nibble)])
}

/// Four characters from space on in three bytes, the first in the lowest bits.
fn six_bit(data: &[u8]) -> String {
    let bits = data.iter().enumerate().flat_map(|(n, byte)| {
        let low = if n % 3 == 0 { 0 } else { data[n - 1] >> (8 - 2 * (n % 3)) };
        let own = low | byte << (2 * (n % 3));
        let last = (n % 3 == 2).then_some(byte >> 2);
        [Some(own & 0x3f), last].into_iter().flatten()
    });
    bits.map(|six| char::from(six + b' ')).collect()
}

/// What may be shown: no control characters, no padding.
fn plain(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).collect();
    plain.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_four_forms() {
        assert_eq!(field(b"\xc3abc"), Some(("abc".into(), 4)));
        assert_eq!(field(&[0x42, 0x12, 0x3b]), Some(("123-".into(), 3)));
        assert_eq!(field(&[0x02, 0xab, 0x01]), Some(("ab01".into(), 3)));
        // The specification's own example: "IPMI".
        assert_eq!(field(&[0x83, 0x29, 0xdc, 0xa6]), Some(("IPMI".into(), 4)));
        assert_eq!(field(&[0xc5, b'a']), Some(("a".into(), 2)));
        assert_eq!(field(&[]), None);
    }
}
