//! QSFP-DD, OSFP and newer: CMIS 4 and 5. Page 0 says what it is, page 1 how
//! far it reaches, page 2 has the thresholds, page 11h measures eight lanes.

use purlin_core::inventory::{Lane, Length, Media, Thresholds, Transceiver};

use super::{Memory, Page, Pages, codes, power, told};

const LANES: usize = 8;

/// The most applications that the lower half describes.
const APPLICATIONS: usize = 8;

pub(super) fn decode(lower: Memory<'_>, pages: &Pages) -> Transceiver {
    let media = media(lower);
    let optical = media == Some(Media::Optical);
    let mut module = Transceiver {
        map: "CMIS".into(),
        media,
        compliance: compliance(lower),
        // A module without the sensor reads 0.
        temperature_c: told(lower.celsius(14)).filter(|_| lower.u16(14) != 0),
        supply_v: told(lower.volt(16)).filter(|volt| *volt > 0.0),
        flags: raised(lower),
        ..Transceiver::default()
    };
    if let Some(identity) = pages.get(Page::upper(0)) {
        identify(identity, &mut module);
    }
    let reach = pages.get(Page::upper(1));
    if let Some(page) = reach {
        module.wrong_checksums.extend(page.wrong_checksum("page 01h checksum", 130, 255));
        if optical {
            module.lengths.extend(reaches(page));
            module.wavelength_nm = Some(f64::from(page.u16(138)) / 20.0).filter(|nm| *nm > 0.0);
        }
    }
    // How much more than 2 µA one step of the current is.
    let step = reach.map_or(1.0, |page| f64::from(1u8 << (page.byte(160) >> 3 & 3).min(2)));
    if let Some(page) = pages.get(Page::upper(2)) {
        module.wrong_checksums.extend(page.wrong_checksum("page 02h checksum", 128, 255));
        module.thresholds = Some(Thresholds {
            temperature_c: page.limits(128, Memory::celsius),
            supply_v: page.limits(136, Memory::volt),
            tx_power_mw: page.limits(176, Memory::milliwatt),
            bias_ma: page.limits(184, |page, at| page.milliampere(at) * step),
            rx_power_mw: page.limits(192, Memory::milliwatt),
        });
    }
    if let Some(page) = pages.get(Page::upper(0x11)).filter(|_| optical) {
        let measures = reach.map_or(0b111, |page| page.byte(160));
        let lanes = (0..lanes(pages)).map(|lane| measure(page, lane, step, measures));
        module.lanes = lanes.collect();
        module.flags.extend(raised_on_lanes(page));
    }
    module
}

fn identify(page: Memory<'_>, module: &mut Transceiver) {
    module.vendor = page.text(129, 16);
    module.oui = page.oui(145);
    module.part = page.text(148, 16);
    module.revision = page.text(164, 2);
    module.serial = page.text(166, 16);
    module.date = page.date(182);
    module.connector = codes::connector(page.byte(203));
    // Five bits of a number, and how much each counts; all ones is "longer".
    let metres = scaled(page.byte(202), [0.1, 1.0, 10.0, 100.0]).filter(|_| page.byte(202) != 255);
    module.lengths.extend(metres.map(|metres| Length { over: "cable".into(), metres }));
    module.wrong_checksums.extend(page.wrong_checksum("page 00h checksum", 128, 222));
}

/// Media type, byte 85, table 8-17.
fn media(lower: Memory<'_>) -> Option<Media> {
    match lower.byte(85) {
        1 | 2 => Some(Media::Optical),
        3 => Some(Media::PassiveCopper),
        4 => Some(Media::ActiveCopper),
        5 => Some(Media::TwistedPair),
        _ => None,
    }
}

/// Each application: host interface, media interface, lanes, where they may
/// start. A host interface of 255 ends the list.
fn compliance(lower: Memory<'_>) -> Vec<String> {
    let media = |at: usize| match lower.byte(85) {
        1 => codes::multimode(lower.byte(at + 1)),
        2 => codes::single_mode(lower.byte(at + 1)),
        _ => None,
    };
    let all = (0..APPLICATIONS).map(|number| 86 + 4 * number);
    let mut names: Vec<String> =
        all.take_while(|at| !matches!(lower.byte(*at), 0 | 255)).filter_map(media).collect();
    names.dedup();
    names
}

/// Two bits that say what one step is, and six that count them.
fn scaled(byte: u8, steps: [f64; 4]) -> Option<f64> {
    let metres = f64::from(byte & 0x3f) * steps[usize::from(byte >> 6)];
    (metres > 0.0).then(|| super::rounded(metres))
}

fn reaches(page: Memory<'_>) -> Vec<Length> {
    let single_mode = scaled(page.byte(132), [100.0, 1000.0, 0.0, 0.0]);
    let step = |at, metres: f64| Some(f64::from(page.byte(at)) * metres).filter(|it| *it > 0.0);
    let all = [
        ("single-mode", single_mode),
        ("OM5", step(133, 2.0)),
        ("OM4", step(134, 2.0)),
        ("OM3", step(135, 2.0)),
        ("OM2", step(136, 1.0)),
    ];
    all.into_iter()
        .filter_map(|(over, metres)| Some(Length { over: over.into(), metres: metres? }))
        .collect()
}

/// How many lanes the module has on its own side: byte 210 of page 0 has a bit
/// set for each that is not there.
fn lanes(pages: &Pages) -> usize {
    let absent = pages.get(Page::upper(0)).map_or(0, |page| page.byte(210));
    (absent.trailing_zeros() as usize).min(LANES)
}

/// Bits 0 to 2 of `measures` (page 1, byte 160): current, power sent, received.
fn measure(page: Memory<'_>, lane: usize, step: f64, measures: u8) -> Lane {
    let bias = || told(page.milliampere(170 + 2 * lane) * step);
    let sent = || power(page.milliwatt(154 + 2 * lane));
    let received = || power(page.milliwatt(186 + 2 * lane));
    Lane {
        bias_ma: (measures & 1 != 0).then(bias).flatten(),
        tx_power: (measures & 2 != 0).then(sent).flatten(),
        rx_power: (measures & 4 != 0).then(received).flatten(),
    }
}

/// Byte 9, lowest bit first.
fn raised(lower: Memory<'_>) -> Vec<String> {
    const LIMITS: [&str; 4] = ["high alarm", "low alarm", "high warning", "low warning"];
    let bits = (0..8u8).filter(|bit| lower.bit(9, *bit));
    bits.map(|bit| {
        let what = if bit < 4 { "temperature" } else { "supply" };
        format!("{what} {}", LIMITS[usize::from(bit % 4)])
    })
    .collect()
}

/// One byte a flag, one bit a lane, the first one lowest.
fn raised_on_lanes(page: Memory<'_>) -> Vec<String> {
    const FLAGS: [(usize, &str); 14] = [
        (136, "tx signal lost"),
        (139, "tx power high alarm"),
        (140, "tx power low alarm"),
        (141, "tx power high warning"),
        (142, "tx power low warning"),
        (143, "bias high alarm"),
        (144, "bias low alarm"),
        (145, "bias high warning"),
        (146, "bias low warning"),
        (147, "rx signal lost"),
        (149, "rx power high alarm"),
        (150, "rx power low alarm"),
        (151, "rx power high warning"),
        (152, "rx power low warning"),
    ];
    let lanes = |at| (0..LANES as u8).filter(move |lane| page.bit(at, *lane));
    FLAGS
        .iter()
        .flat_map(|(at, what)| lanes(*at).map(move |lane| format!("{what}, lane {}", lane + 1)))
        .collect()
}
