//! Code numbers and the names they stand for (SFF-8024 rev 4.12).

/// How a module's memory is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Map {
    Sff8472,
    Sff8636,
    Cmis,
}

/// By the identifier, table 4-1.
pub(super) fn map(identifier: u8) -> Option<Map> {
    match identifier {
        0x03 => Some(Map::Sff8472),
        0x0c | 0x0d | 0x11 => Some(Map::Sff8636),
        0x18 | 0x19 | 0x1e | 0x1f | 0x20 | 0x25 => Some(Map::Cmis),
        _ => None,
    }
}

/// Table 4-1, of what has a map above.
pub(super) fn form(identifier: u8) -> &'static str {
    match identifier {
        0x03 => "SFP",
        0x0c => "QSFP",
        0x0d => "QSFP+",
        0x11 => "QSFP28",
        0x18 => "QSFP-DD",
        0x19 => "OSFP",
        0x1e => "QSFP (CMIS)",
        0x1f => "SFP-DD",
        0x20 => "SFP (CMIS)",
        0x25 => "QSFP112",
        _ => "unknown",
    }
}

fn named(table: &[(u8, &'static str)], code: u8) -> Option<String> {
    table.iter().find(|(known, _)| *known == code).map(|(_, name)| (*name).into())
}

/// Table 4-3.
pub(super) fn connector(code: u8) -> Option<String> {
    const NAMES: [(u8, &str); 14] = [
        (0x01, "SC"),
        (0x07, "LC"),
        (0x0b, "optical pigtail"),
        (0x0c, "MPO 1x12"),
        (0x0d, "MPO 2x16"),
        (0x20, "HSSDC II"),
        (0x21, "copper pigtail"),
        (0x22, "RJ45"),
        (0x23, "none, the cable is part of it"),
        (0x24, "MXC"),
        (0x25, "CS"),
        (0x26, "SN"),
        (0x27, "MPO 2x12"),
        (0x28, "MPO 1x16"),
    ];
    named(&NAMES, code)
}

/// Table 4-4. A code means the 25G lane of a 100G standard in an SFP.
pub(super) fn extended(code: u8, lanes: usize) -> Option<String> {
    const LANE: [(u8, &str); 6] = [
        (0x02, "25GBASE-SR"),
        (0x03, "25GBASE-LR"),
        (0x04, "25GBASE-ER"),
        (0x0b, "25GBASE-CR CA-L"),
        (0x0c, "25GBASE-CR CA-S"),
        (0x0d, "25GBASE-CR CA-N"),
    ];
    const ALL: [(u8, &str); 19] = [
        (0x01, "100G AOC (BER 5e-5)"),
        (0x02, "100GBASE-SR4"),
        (0x03, "100GBASE-LR4"),
        (0x04, "100GBASE-ER4"),
        (0x05, "100GBASE-SR10"),
        (0x06, "100G CWDM4"),
        (0x07, "100G PSM4"),
        (0x08, "100G ACC (BER 5e-5)"),
        (0x0b, "100GBASE-CR4"),
        (0x10, "40GBASE-ER4"),
        (0x11, "4x10GBASE-SR"),
        (0x16, "10GBASE-T"),
        (0x18, "100G AOC (BER 1e-12)"),
        (0x1c, "10GBASE-T short reach"),
        (0x1d, "5GBASE-T"),
        (0x1e, "2.5GBASE-T"),
        (0x25, "100GBASE-DR"),
        (0x26, "100GBASE-FR1"),
        (0x27, "100GBASE-LR1"),
    ];
    let of_lane = (lanes == 1).then(|| named(&LANE, code)).flatten();
    of_lane.or_else(|| named(&ALL, code))
}

/// Table 4-6: media interfaces over multimode fibre.
pub(super) fn multimode(code: u8) -> Option<String> {
    const NAMES: [(u8, &str); 9] = [
        (0x02, "10GBASE-SR"),
        (0x03, "25GBASE-SR"),
        (0x04, "40GBASE-SR4"),
        (0x07, "50GBASE-SR"),
        (0x09, "100GBASE-SR4"),
        (0x0c, "100GBASE-SR2"),
        (0x0d, "100GBASE-SR1"),
        (0x0e, "200GBASE-SR4"),
        (0x10, "400GBASE-SR8"),
    ];
    named(&NAMES, code)
}

/// Table 4-7: media interfaces over single-mode fibre.
pub(super) fn single_mode(code: u8) -> Option<String> {
    const NAMES: [(u8, &str); 10] = [
        (0x10, "100G CWDM4"),
        (0x14, "100GBASE-DR"),
        (0x15, "100GBASE-FR1"),
        (0x16, "100GBASE-LR1"),
        (0x17, "200GBASE-DR4"),
        (0x18, "200GBASE-FR4"),
        (0x19, "200GBASE-LR4"),
        (0x1a, "400GBASE-FR8"),
        (0x1b, "400GBASE-LR8"),
        (0x1c, "400GBASE-DR4"),
    ];
    named(&NAMES, code)
}
