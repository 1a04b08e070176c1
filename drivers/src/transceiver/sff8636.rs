//! QSFP, QSFP+, QSFP28: SFF-8636. The lower half measures, page 0 says what
//! it is, page 3 has the thresholds.

use purlin_core::inventory::{Lane, Length, Media, Thresholds, Transceiver};

use super::{Memory, Page, Pages, codes, flags, power, told};

const LANES: usize = 4;

pub(super) fn decode(lower: Memory<'_>, pages: &Pages) -> Transceiver {
    let mut module = Transceiver { map: "SFF-8636".into(), ..Transceiver::default() };
    if let Some(identity) = pages.get(Page::upper(0)) {
        identify(identity, &mut module);
    }
    // A copper cable has no sensors, and reads 0 there.
    let optical = module.media == Some(Media::Optical);
    if optical || lower.u16(22) != 0 {
        module.temperature_c = told(lower.celsius(22));
        module.supply_v = told(lower.volt(26));
    }
    if optical {
        // Many don't measure what they send (byte 220), and read 0 there.
        let sent = pages.get(Page::upper(0)).is_some_and(|page| page.bit(220, 2));
        module.lanes = (0..LANES).map(|lane| measure(lower, lane, sent)).collect();
        module.flags = raised(lower);
    }
    module.thresholds = pages.get(Page::upper(3)).map(|page| Thresholds {
        temperature_c: page.limits(128, Memory::celsius),
        supply_v: page.limits(144, Memory::volt),
        rx_power_mw: page.limits(176, Memory::milliwatt),
        bias_ma: page.limits(184, Memory::milliampere),
        tx_power_mw: page.limits(192, Memory::milliwatt),
    });
    module
}

fn identify(page: Memory<'_>, module: &mut Transceiver) {
    let media = media(page);
    module.vendor = page.text(148, 16);
    module.oui = page.oui(165);
    module.part = page.text(168, 16);
    module.revision = page.text(184, 2);
    module.serial = page.text(196, 16);
    module.date = page.date(212);
    module.connector = codes::connector(page.byte(130));
    module.media = Some(media);
    module.compliance = compliance(page);
    module.lengths = lengths(page);
    // In 1/20 nm; a copper cable has its attenuation there.
    module.wavelength_nm =
        Some(f64::from(page.u16(186)) / 20.0).filter(|nm| media == Media::Optical && *nm > 0.0);
    module.rate_mbd = match page.byte(140) {
        0 => None,
        255 => Some(u32::from(page.byte(222)) * 250).filter(|rate| *rate > 0),
        hundreds => Some(u32::from(hundreds) * 100),
    };
    module.wrong_checksums.extend(page.wrong_checksum("CC_BASE", 128, 191));
    module.wrong_checksums.extend(page.wrong_checksum("CC_EXT", 192, 223));
}

/// Device technology, byte 147, table 6-20: 0xa and 0xb have no electronics.
fn media(page: Memory<'_>) -> Media {
    match page.byte(147) >> 4 {
        0xa | 0xb => Media::PassiveCopper,
        0xc..=0xf => Media::ActiveCopper,
        _ => Media::Optical,
    }
}

/// Byte 131, whose highest bit says that byte 192 tells.
fn compliance(page: Memory<'_>) -> Vec<String> {
    const NAMES: [&str; 7] = [
        "10GBASE-LRM",
        "10GBASE-LR",
        "10GBASE-SR",
        "40GBASE-CR4",
        "40GBASE-SR4",
        "40GBASE-LR4",
        "40G active cable",
    ];
    let extended = page.bit(131, 7).then(|| codes::extended(page.byte(192), LANES)).flatten();
    flags(page.byte(131) << 1, NAMES).chain(extended).collect()
}

fn lengths(page: Memory<'_>) -> Vec<Length> {
    let cable = media(page) != Media::Optical || page.byte(130) == 0x23;
    let of = if cable {
        vec![("cable", 146, 1.0)]
    } else {
        vec![
            ("single-mode", 142, 1000.0),
            ("OM3", 143, 2.0),
            ("OM2", 144, 1.0),
            ("OM1", 145, 1.0),
            ("OM4", 146, 2.0),
        ]
    };
    let told = of.into_iter().filter(|(_, at, _)| !matches!(page.byte(*at), 0 | 255));
    told.map(|(over, at, unit)| Length {
        over: over.into(),
        metres: f64::from(page.byte(at)) * unit,
    })
    .collect()
}

fn measure(lower: Memory<'_>, lane: usize, sent: bool) -> Lane {
    Lane {
        rx_power: power(lower.milliwatt(34 + 2 * lane)),
        bias_ma: told(lower.milliampere(42 + 2 * lane)),
        tx_power: power(lower.milliwatt(50 + 2 * lane)).filter(|power| sent || power.mw > 0.0),
    }
}

/// Four bits a reading: high and low alarm, high and low warning; two lanes a
/// byte, the lower one in the upper half.
fn raised(lower: Memory<'_>) -> Vec<String> {
    const LIMITS: [&str; 4] = ["high alarm", "low alarm", "high warning", "low warning"];
    let mut all = Vec::new();
    for (at, what) in [(6, "temperature"), (7, "supply")] {
        all.extend(flags(lower.byte(at), LIMITS).map(|flag| format!("{what} {flag}")));
    }
    for (at, what) in [(9, "rx power"), (11, "bias"), (13, "tx power")] {
        for lane in 0..LANES {
            let four = lower.byte(at + lane / 2) << (4 * (lane % 2));
            let raised = flags(four, LIMITS);
            all.extend(raised.map(|flag| format!("{what} {flag}, lane {}", lane + 1)));
        }
    }
    for (bit, what) in [(0, "rx"), (4, "tx")] {
        let lost = (0..LANES).filter(|lane| lower.bit(3, bit + *lane as u8));
        all.extend(lost.map(|lane| format!("{what} signal lost, lane {}", lane + 1)));
    }
    all
}
