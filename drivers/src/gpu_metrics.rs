//! amdgpu's `gpu_metrics`: a binary table of what the GPU's firmware measures.
//!
//! Page: `hw-docs/gpu.md`. Source: `struct gpu_metrics_v*` in the kernel's
//! `drivers/gpu/drm/amd/include/kgd_pp_interface.h`: v1.0–1.3 of graphics
//! cards, v1.4–1.8 of the MI300 family, v2.x and v3.0 of processors with
//! graphics. Little-endian, as on every machine that amdgpu runs on. The
//! decoder is total: any bytes give a value or the reason why not.

use purlin_core::inventory::PciLink;

/// What the table says, as far as its revision has a word for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuMetrics {
    /// Temperatures in °C, by the table's own names.
    pub temperatures: Vec<(&'static str, f64)>,
    /// Power of the socket, in watts.
    pub power: Option<f64>,
    /// Activity of the cores, in percent.
    pub busy: Option<u32>,
    /// Activity of the memory controller, in percent.
    pub memory_busy: Option<u32>,
    /// Clock of the cores, in MHz.
    pub core: Option<u32>,
    /// Clock of the memory, in MHz.
    pub memory: Option<u32>,
    /// Speed of the fan, in turns a minute.
    pub fan_rpm: Option<u32>,
    /// PCI Express link.
    pub link: Option<PciLink>,
    /// Why the clocks are held down; empty if they are not.
    pub throttle: Option<Vec<String>>,
}

/// Where one family of revisions keeps what; offsets in bytes.
struct Layout {
    temperatures: &'static [(&'static str, usize)],
    /// What one °C and one percent are: 1, or 100 where hundredths are counted.
    per_degree: f64,
    per_percent: u32,
    power: Power,
    busy: usize,
    memory_busy: Option<usize>,
    core: usize,
    memory: usize,
    fan: Option<usize>,
    /// Width, and speed in tenths of GT/s.
    link: Option<(usize, usize)>,
    throttle: Throttle,
}

#[derive(Clone, Copy)]
enum Power {
    Watts(usize),
    /// 16 bits of milliwatts: over 65 W it wraps, so that it is no better than unknown.
    Milliwatts32(usize),
    Unknown,
}

#[derive(Clone, Copy)]
enum Throttle {
    /// The same bits for every chip.
    Independent(usize),
    /// Bits of the chip's own meaning: only "none" can be told.
    Own(usize),
    /// Counters of time spent, which say nothing about now.
    Residency,
}

const CARD_TEMPERATURES: [(&str, usize); 10] = [
    ("edge", 4),
    ("junction", 6),
    ("mem", 8),
    ("vrgfx", 10),
    ("vrsoc", 12),
    ("vrmem", 14),
    ("hbm0", 88),
    ("hbm1", 90),
    ("hbm2", 92),
    ("hbm3", 94),
];

const CARD: Layout = Layout {
    temperatures: &CARD_TEMPERATURES,
    per_degree: 1.0,
    per_percent: 1,
    power: Power::Watts(22),
    busy: 16,
    memory_busy: Some(18),
    core: 54,
    memory: 58,
    fan: Some(72),
    link: Some((74, 76)),
    throttle: Throttle::Own(68),
};

const SOCKET: Layout = Layout {
    temperatures: &[("junction", 4), ("mem", 6), ("vrsoc", 8)],
    per_degree: 1.0,
    per_percent: 1,
    power: Power::Watts(10),
    busy: 12,
    memory_busy: Some(14),
    core: 240,
    memory: 280,
    fan: None,
    link: Some((48, 50)),
    throttle: Throttle::Own(40),
};

const PROCESSOR: Layout = Layout {
    temperatures: &[("gfx", 4), ("soc", 6)],
    per_degree: 100.0,
    per_percent: 100,
    power: Power::Unknown,
    busy: 28,
    memory_busy: None,
    core: 76,
    memory: 80,
    fan: None,
    link: None,
    throttle: Throttle::Own(108),
};

fn layout(format: u8, content: u8) -> Option<Layout> {
    Some(match (format, content) {
        (1, 0) => Layout {
            temperatures: &[
                ("edge", 16),
                ("junction", 18),
                ("mem", 20),
                ("vrgfx", 22),
                ("vrsoc", 24),
                ("vrmem", 26),
            ],
            power: Power::Watts(34),
            busy: 28,
            memory_busy: Some(30),
            // Its link is in two single bytes, read by nothing else.
            link: None,
            ..CARD
        },
        (1, 1 | 2) => CARD,
        (1, 3) => Layout { throttle: Throttle::Independent(112), ..CARD },
        (1, 4) => SOCKET,
        (1, 5) => Layout {
            core: 312,
            memory: 352,
            link: Some((112, 114)),
            throttle: Throttle::Own(104),
            ..SOCKET
        },
        (1, 6) => Layout {
            core: 264,
            memory: 304,
            link: Some((60, 62)),
            throttle: Throttle::Residency,
            ..SOCKET
        },
        (1, 7 | 8) => Layout {
            core: 296,
            memory: 336,
            link: Some((68, 70)),
            throttle: Throttle::Residency,
            ..SOCKET
        },
        (2, 0) => Layout {
            temperatures: &[("gfx", 16), ("soc", 18)],
            busy: 40,
            core: 80,
            memory: 84,
            throttle: Throttle::Own(112),
            ..PROCESSOR
        },
        (2, 1) => PROCESSOR,
        (2, 2..=4) => Layout { throttle: Throttle::Independent(120), ..PROCESSOR },
        (3, 0) => Layout {
            temperatures: &[("gfx", 4), ("soc", 6), ("skin", 40)],
            per_percent: 1,
            power: Power::Milliwatts32(112),
            busy: 42,
            core: 174,
            memory: 186,
            throttle: Throttle::Residency,
            ..PROCESSOR
        },
        _ => return None,
    })
}

/// Reads a table; the error says what is wrong with it, for a person.
pub fn decode(bytes: &[u8]) -> Result<GpuMetrics, String> {
    let &[low, high, format, content, ..] = bytes else {
        return Err(format!("{} bytes are no table", bytes.len()));
    };
    let size = usize::from(u16::from_le_bytes([low, high]));
    let table = bytes.get(..size).ok_or_else(|| {
        format!("table of revision {format}.{content} ends after {} of {size} bytes", bytes.len())
    })?;
    let layout = layout(format, content)
        .ok_or_else(|| format!("table of revision {format}.{content} is not known here"))?;
    Ok(layout.read(&Table(table)))
}

impl Layout {
    fn read(&self, table: &Table<'_>) -> GpuMetrics {
        let temperature =
            |(name, at): &(_, _)| Some((*name, f64::from(table.u16(*at)?) / self.per_degree));
        let percent = |at| table.u16(at).map(|share| u32::from(share) / self.per_percent);
        GpuMetrics {
            temperatures: self.temperatures.iter().filter_map(temperature).collect(),
            power: match self.power {
                Power::Watts(at) => table.u16(at).map(f64::from),
                Power::Milliwatts32(at) => table.u32(at).map(|power| f64::from(power) / 1000.0),
                Power::Unknown => None,
            },
            busy: percent(self.busy).filter(|share| *share <= 100),
            memory_busy: self.memory_busy.and_then(percent).filter(|share| *share <= 100),
            core: table.u16(self.core).map(u32::from),
            memory: table.u16(self.memory).map(u32::from),
            fan_rpm: self.fan.and_then(|at| table.u16(at)).map(u32::from),
            link: self.link.and_then(|(width, speed)| table.link(width, speed)),
            throttle: self.throttle.read(table),
        }
    }
}

impl Throttle {
    fn read(self, table: &Table<'_>) -> Option<Vec<String>> {
        match self {
            Self::Independent(at) => table.u64(at).map(reasons),
            Self::Own(at) => match table.u32(at)? {
                0 => Some(Vec::new()),
                bits => Some(vec![format!("chip-specific 0x{bits:x}")]),
            },
            Self::Residency => None,
        }
    }
}

/// `SMU_THROTTLER_*_BIT` of the kernel's `amdgpu_smu.h`.
const REASONS: [(u32, &str); 34] = [
    (0, "PPT0"),
    (1, "PPT1"),
    (2, "PPT2"),
    (3, "PPT3"),
    (4, "SPL"),
    (5, "FPPT"),
    (6, "SPPT"),
    (7, "SPPT APU"),
    (16, "TDC GFX"),
    (17, "TDC SOC"),
    (18, "TDC MEM"),
    (19, "TDC VDD"),
    (20, "TDC CVIP"),
    (21, "EDC CPU"),
    (22, "EDC GFX"),
    (23, "APCC"),
    (32, "temperature GPU"),
    (33, "temperature core"),
    (34, "temperature memory"),
    (35, "temperature edge"),
    (36, "temperature hotspot"),
    (37, "temperature SOC"),
    (38, "temperature VR GFX"),
    (39, "temperature VR SOC"),
    (40, "temperature VR MEM0"),
    (41, "temperature VR MEM1"),
    (42, "temperature liquid 0"),
    (43, "temperature liquid 1"),
    (44, "VRHOT0"),
    (45, "VRHOT1"),
    (46, "PROCHOT CPU"),
    (47, "PROCHOT GFX"),
    (56, "PPM"),
    (57, "FIT"),
];

fn reasons(bits: u64) -> Vec<String> {
    let set = REASONS.iter().filter(|(bit, _)| bits >> bit & 1 == 1);
    set.map(|(_, name)| (*name).to_owned()).collect()
}

/// The bytes of a table; a field of all ones is not measured by the chip.
struct Table<'a>(&'a [u8]);

impl Table<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let bytes: [u8; N] = self.0.get(at..at.checked_add(N)?)?.try_into().ok()?;
        (bytes != [0xff; N]).then_some(bytes)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    fn link(&self, width: usize, speed: usize) -> Option<PciLink> {
        let width = self.u16(width).map(u32::from).filter(|lanes| (1..=32).contains(lanes))?;
        let gt_per_s = f32::from(self.u16(speed).filter(|speed| *speed > 0)?) / 10.0;
        Some(PciLink { gt_per_s, width })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// A table of all ones, but for its header and some 16-bit fields.
    fn table(size: u16, format: u8, content: u8, fields: &[(usize, u16)]) -> Vec<u8> {
        let mut table = vec![0xff; usize::from(size)];
        table[..2].copy_from_slice(&size.to_le_bytes());
        table[2..4].copy_from_slice(&[format, content]);
        for (at, value) in fields {
            table[*at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        table
    }

    fn check(table: &[u8], expected: Expect) {
        expected.assert_eq(&match decode(table) {
            Ok(it) => format!(
                "{:?} {:?} W, {:?} {:?} %, {:?} {:?} MHz, {:?} rpm, {:?}, {:?}",
                it.temperatures,
                it.power,
                it.busy,
                it.memory_busy,
                it.core,
                it.memory,
                it.fan_rpm,
                it.link.map(|link| (link.gt_per_s, link.width)),
                it.throttle
            ),
            Err(what) => what,
        });
    }

    #[test]
    fn a_graphics_card() {
        let heat = [(112, 0b11), (114, 0), (116, 0x10), (118, 0)];
        let fields = [(4, 56), (6, 59), (16, 3), (22, 36), (54, 500), (58, 1000), (72, 1200)];
        let link = [(74, 16), (76, 160)];
        check(
            &table(120, 1, 3, &[&heat[..], &fields, &link].concat()),
            expect![[
                r#"[("edge", 56.0), ("junction", 59.0)] Some(36.0) W, Some(3) None %, Some(500) Some(1000) MHz, Some(1200) rpm, Some((16.0, 16)), Some(["PPT0", "PPT1", "temperature hotspot"])"#
            ]],
        );
    }

    #[test]
    fn a_compute_socket() {
        let fields = [(4, 41), (6, 38), (10, 553), (12, 99), (14, 40), (60, 16), (62, 320)];
        check(
            &table(1024, 1, 6, &[&fields[..], &[(264, 2100), (304, 1300)]].concat()),
            expect![[
                r#"[("junction", 41.0), ("mem", 38.0)] Some(553.0) W, Some(99) Some(40) %, Some(2100) Some(1300) MHz, None rpm, Some((32.0, 16)), None"#
            ]],
        );
        let fields = [(10, 700), (68, 16), (70, 320), (296, 2400), (336, 2000)];
        check(
            &table(1400, 1, 8, &fields),
            expect![
                "[] Some(700.0) W, None None %, Some(2400) Some(2000) MHz, None rpm, Some((32.0, 16)), None"
            ],
        );
    }

    #[test]
    fn a_processor_counts_in_hundredths() {
        let fields = [(4, 4512), (6, 4401), (28, 1250), (76, 1600), (80, 800), (120, 0)];
        check(
            &table(128, 2, 2, &[&fields[..], &[(122, 0), (124, 0), (126, 0)]].concat()),
            expect![[
                r#"[("gfx", 45.12), ("soc", 44.01)] None W, Some(12) None %, Some(1600) Some(800) MHz, None rpm, None, Some([])"#
            ]],
        );
        let fields = [(4, 3812), (40, 3598), (42, 3), (112, 9839), (114, 0), (174, 848)];
        check(
            &table(264, 3, 0, &fields),
            expect![[
                r#"[("gfx", 38.12), ("skin", 35.98)] Some(9.839) W, Some(3) None %, Some(848) None MHz, None rpm, None, None"#
            ]],
        );
    }

    #[test]
    fn what_is_no_known_table_says_which() {
        check(&[], expect!["0 bytes are no table"]);
        check(&table(8, 9, 1, &[]), expect!["table of revision 9.1 is not known here"]);
        check(
            &table(120, 1, 3, &[])[..60],
            expect!["table of revision 1.3 ends after 60 of 120 bytes"],
        );
    }

    #[test]
    fn every_length_of_every_revision_is_read_without_a_panic() {
        for format in 0..=4 {
            for content in 0..=9 {
                for size in 4..400 {
                    for filler in [0x00, 0x7f, 0xff] {
                        let mut bytes = vec![filler; usize::from(size)];
                        bytes[..2].copy_from_slice(&u16::to_le_bytes(size));
                        bytes[2..4].copy_from_slice(&[format, content]);
                        let _ = decode(&bytes);
                    }
                }
            }
        }
    }
}
