//! SFP, SFP+, SFP28: SFF-8472. A0h says what it is; A2h, where there is one,
//! measures.

use purlin_core::inventory::{Lane, Length, Media, Thresholds, Transceiver};

use super::{Memory, Page, Pages, codes, flags, power, rounded, told};

pub(super) fn decode(lower: Memory<'_>, pages: &Pages) -> Transceiver {
    let media = media(lower);
    let mut module = Transceiver {
        map: "SFF-8472".into(),
        vendor: lower.text(20, 16),
        oui: lower.oui(37),
        part: lower.text(40, 16),
        revision: lower.text(56, 4),
        serial: lower.text(68, 16),
        date: lower.date(84),
        connector: codes::connector(lower.byte(2)),
        media: Some(media),
        compliance: compliance(lower),
        lengths: lengths(lower, media),
        // A copper cable has its compliance there.
        wavelength_nm: Some(f64::from(lower.u16(60)))
            .filter(|nm| media == Media::Optical && *nm > 0.0),
        rate_mbd: rate(lower),
        ..Transceiver::default()
    };
    module.wrong_checksums.extend(lower.wrong_checksum("CC_BASE", 0, 63));
    module.wrong_checksums.extend(lower.wrong_checksum("CC_EXT", 64, 95));
    let diagnostics = pages.get(Page::DIAGNOSTICS).filter(|_| lower.bit(92, 6));
    if let Some(diagnostics) = diagnostics {
        measure(diagnostics, lower.bit(92, 4), &mut module);
    }
    module
}

fn media(lower: Memory<'_>) -> Media {
    if lower.bit(8, 2) {
        Media::PassiveCopper
    } else if lower.bit(8, 3) && lower.byte(61) == 0 {
        // An active optical cable sets the same bit, and has a wavelength in
        // bytes 60 and 61, where copper has its compliance in byte 60 alone.
        Media::ActiveCopper
    } else if lower.bit(6, 3) || lower.byte(2) == 0x22 {
        Media::TwistedPair
    } else {
        Media::Optical
    }
}

/// Bytes 3 and 6, and SFF-8024's code in byte 36.
fn compliance(lower: Memory<'_>) -> Vec<String> {
    const TEN: [&str; 4] = ["10GBASE-ER", "10GBASE-LRM", "10GBASE-LR", "10GBASE-SR"];
    const ETHERNET: [&str; 8] = [
        "BASE-PX",
        "BASE-BX10",
        "100BASE-FX",
        "100BASE-LX",
        "1000BASE-T",
        "1000BASE-CX",
        "1000BASE-LX",
        "1000BASE-SX",
    ];
    flags(lower.byte(3), TEN)
        .chain(flags(lower.byte(6), ETHERNET))
        .chain(codes::extended(lower.byte(36), 1))
        .collect()
}

/// 0 says nothing, 255 more than can be said.
fn lengths(lower: Memory<'_>, media: Media) -> Vec<Length> {
    let cable = matches!(media, Media::PassiveCopper | Media::ActiveCopper);
    // Kilometres go before hundreds of metres where both are told.
    let single_mode = if lower.byte(14) > 0 { (14, 1000.0) } else { (15, 100.0) };
    let of = match (cable, media) {
        (true, _) => vec![("cable", (18, 1.0))],
        (_, Media::TwistedPair) => vec![],
        _ => vec![
            ("single-mode", single_mode),
            ("OM2", (16, 10.0)),
            ("OM1", (17, 10.0)),
            ("OM4", (18, 10.0)),
            ("OM3", (19, 10.0)),
        ],
    };
    let told = of.into_iter().filter(|(_, (at, _))| !matches!(lower.byte(*at), 0 | 255));
    told.map(|(over, (at, unit))| Length {
        over: over.into(),
        metres: f64::from(lower.byte(at)) * unit,
    })
    .collect()
}

/// Byte 12 counts 100 MBd; 255 says that byte 66 counts 250 MBd.
fn rate(lower: Memory<'_>) -> Option<u32> {
    match lower.byte(12) {
        0 => None,
        255 => Some(u32::from(lower.byte(66)) * 250).filter(|rate| *rate > 0),
        hundreds => Some(u32::from(hundreds) * 100),
    }
}

fn measure(a2: Memory<'_>, external: bool, module: &mut Transceiver) {
    const ALARMS: [&str; 8] = [
        "temperature high",
        "temperature low",
        "supply high",
        "supply low",
        "bias high",
        "bias low",
        "tx power high",
        "tx power low",
    ];
    const RX_ALARMS: [&str; 2] = ["rx power high", "rx power low"];
    module.externally_calibrated = Some(external);
    module.wrong_checksums.extend(a2.wrong_checksum("CC_DMI", 0, 95));
    module.temperature_c = told(temperature(a2, 96, external));
    module.supply_v = told(linear(a2, f64::from(a2.u16(98)), (88, external)) / 10_000.0);
    if module.media == Some(Media::Optical) {
        module.lanes = vec![Lane {
            bias_ma: told(linear(a2, f64::from(a2.u16(100)), (76, external)) * 0.002),
            tx_power: power(linear(a2, f64::from(a2.u16(102)), (80, external)) / 10_000.0),
            rx_power: power(received(a2, 104, external)),
        }];
    }
    // The thresholds are raw values too, calibrated as the readings are.
    let with =
        |slope| move |a2: &Memory<'_>, at| linear(*a2, f64::from(a2.u16(at)), (slope, external));
    module.thresholds = Some(Thresholds {
        temperature_c: a2.limits(0, |a2, at| temperature(*a2, at, external)),
        supply_v: a2.limits(8, |a2, at| with(88)(a2, at) / 10_000.0),
        bias_ma: a2.limits(16, |a2, at| with(76)(a2, at) * 0.002),
        tx_power_mw: a2.limits(24, |a2, at| with(80)(a2, at) / 10_000.0),
        rx_power_mw: a2.limits(32, |a2, at| received(*a2, at, external)),
    });
    for (at, what) in [(112, "alarm"), (116, "warning")] {
        let set = flags(a2.byte(at), ALARMS).chain(flags(a2.byte(at + 1), RX_ALARMS));
        module.flags.extend(set.map(|flag| format!("{flag} {what}")));
    }
    if a2.bit(110, 1) && !module.lanes.is_empty() {
        module.flags.push("rx signal lost".into());
    }
    if a2.bit(110, 2) {
        module.flags.push("tx fault".into());
    }
}

fn temperature(a2: Memory<'_>, at: usize, external: bool) -> f64 {
    linear(a2, f64::from(a2.i16(at)), (84, external)) / 256.0
}

/// Slope (unsigned, 1/256) and offset (signed), side by side (section 9.3).
fn linear(a2: Memory<'_>, raw: f64, (slope, external): (usize, bool)) -> f64 {
    if !external {
        return raw;
    }
    raw * f64::from(a2.u16(slope)) / 256.0 + f64::from(a2.i16(slope + 2))
}

/// Received power in mW; externally calibrated by a polynomial of the fourth
/// degree, its highest coefficient first.
fn received(a2: Memory<'_>, at: usize, external: bool) -> f64 {
    let raw = f64::from(a2.u16(at));
    if !external {
        return raw / 10_000.0;
    }
    let coefficients = [56, 60, 64, 68, 72].map(|at| a2.f32(at));
    let sum = coefficients.into_iter().fold(0.0, |sum, coefficient| sum * raw + coefficient);
    if sum.is_finite() { rounded(sum / 10_000.0) } else { f64::NAN }
}
