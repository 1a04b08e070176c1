//! Decodes what disks answer about their health. Pure and total: any bytes
//! give a value or `None`, whatever a broken disk sends.

use purlin_core::inventory::{AtaAttribute, AtaSmart, FirmwareSlot, NvmeSmart};

use crate::probe::label;

/// 0 °C in kelvin, as NVMe rounds it.
const ZERO_CELSIUS: i32 = 273;

/// What NVMe counts data in: thousands of 512-byte blocks.
const DATA_UNIT: u64 = 512_000;

/// Rows of an ATA attribute table, and the bytes of each.
const ROWS: usize = 30;
const ROW: usize = 12;

/// Decodes log page 02h, SMART / Health Information (NVM Express Base
/// Specification 2.0, figure 207); `None` if it is short.
pub fn nvme(page: &[u8]) -> Option<NvmeSmart> {
    let page: &[u8; 512] = page.get(..512)?.try_into().ok()?;
    let sensor = |number: u8| {
        let kelvin = u16_at(page, 200 + 2 * usize::from(number - 1));
        Some((number, celsius(kelvin)?))
    };
    Some(NvmeSmart {
        critical_warning: page[0],
        temperature: celsius(u16_at(page, 1)),
        sensors: (1..=8).filter_map(sensor).collect(),
        spare: page[3],
        spare_threshold: page[4],
        used: page[5],
        read: counter(page, 32).saturating_mul(DATA_UNIT),
        written: counter(page, 48).saturating_mul(DATA_UNIT),
        reads: counter(page, 64),
        writes: counter(page, 80),
        busy_minutes: counter(page, 96),
        power_cycles: counter(page, 112),
        power_on_hours: counter(page, 128),
        unsafe_shutdowns: counter(page, 144),
        media_errors: counter(page, 160),
        error_entries: counter(page, 176),
        warning_minutes: u32_at(page, 192),
        critical_minutes: u32_at(page, 196),
    })
}

/// What an NVMe controller says of its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Temperature from which it warns, in °C.
    pub warning: Option<i32>,
    /// Temperature from which it is in danger, in °C.
    pub critical: Option<i32>,
    /// Capacity of its media, in bytes.
    pub capacity: Option<u64>,
}

/// Decodes the Identify Controller data structure (figure 275: WCTEMP, CCTEMP,
/// TNVMCAP, each 0 if not told); `None` if it is short.
pub fn nvme_limits(identify: &[u8]) -> Option<Limits> {
    let identify: &[u8; 512] = identify.get(..512)?.try_into().ok()?;
    Some(Limits {
        warning: celsius(u16_at(identify, 266)),
        critical: celsius(u16_at(identify, 268)),
        capacity: Some(counter(identify, 280)).filter(|bytes| *bytes > 0),
    })
}

/// Decodes log page 03h, Firmware Slot Information (figure 209); empty slots
/// are left out.
pub fn nvme_firmware(page: &[u8]) -> Vec<FirmwareSlot> {
    let Some(page) = page.get(..64) else { return Vec::new() };
    let (active, next) = (page[0] & 7, page[0] >> 4 & 7);
    let slot = |slot: u8| {
        let revision = page.get(usize::from(slot) * 8..)?.get(..8)?;
        Some(FirmwareSlot {
            slot,
            revision: label(&String::from_utf8_lossy(revision))?,
            active: slot == active,
            next: slot == next,
        })
    };
    (1..=7).filter_map(slot).collect()
}

/// Decodes an ATA disk's answers to SMART READ DATA and SMART READ THRESHOLDS
/// (ATA/ATAPI-5 8.41); `None` if the data is short or its checksum is wrong.
/// `passed` is what SMART RETURN STATUS said.
pub fn ata(data: &[u8], thresholds: Option<&[u8]>, passed: Option<bool>) -> Option<AtaSmart> {
    let data = checked(data)?;
    let thresholds = thresholds.and_then(checked);
    let threshold = |id: u8| Some(rows(thresholds?).find(|row| row[0] == id)?[1]);
    let attribute = |row: &[u8]| AtaAttribute {
        id: row[0],
        prefail: row[1] & 1 == 1,
        value: row[3],
        worst: row[4],
        threshold: threshold(row[0]),
        raw: row[5..11].iter().rev().fold(0, |raw, byte| raw << 8 | u64::from(*byte)),
    };
    Some(AtaSmart { passed, attributes: rows(data).map(attribute).collect() })
}

/// One sector whose bytes add up to 0.
fn checked(sector: &[u8]) -> Option<&[u8]> {
    let sector = sector.get(..512)?;
    let sum = sector.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    (sum == 0).then_some(sector)
}

/// The rows in use of a table that follows a revision of two bytes.
fn rows(sector: &[u8]) -> impl Iterator<Item = &[u8]> {
    sector[2..].chunks_exact(ROW).take(ROWS).filter(|row| row[0] != 0)
}

/// 0 K means that there is no such sensor or limit.
fn celsius(kelvin: u16) -> Option<i32> {
    (kelvin > 0).then(|| i32::from(kelvin) - ZERO_CELSIUS)
}

fn u16_at(page: &[u8; 512], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

fn u32_at(page: &[u8; 512], at: usize) -> u32 {
    u32::from(u16_at(page, at)) | u32::from(u16_at(page, at + 2)) << 16
}

/// A counter of 16 bytes, or the most that 8 hold.
fn counter(page: &[u8; 512], at: usize) -> u64 {
    let bytes: [u8; 16] = std::array::from_fn(|byte| page[at + byte]);
    u128::from_le_bytes(bytes).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use purlin_core::inventory::HealthState;

    use super::*;

    #[test]
    fn a_health_log_reads_in_our_units() {
        let mut page = [0_u8; 512];
        page[0] = 0b11;
        page[1..3].copy_from_slice(&310_u16.to_le_bytes());
        (page[3], page[4], page[5]) = (5, 10, 101);
        page[32] = 2;
        page[48..64].fill(0xff);
        page[202..204].copy_from_slice(&300_u16.to_le_bytes());
        let smart = nvme(&page).expect("a whole page");
        assert_eq!((smart.temperature, smart.read, smart.written), (Some(37), 1_024_000, u64::MAX));
        assert_eq!(smart.sensors, [(2, 27)]);
        let health = smart.health();
        assert_eq!(health.state, HealthState::Failing);
        expect![[r#"["spare blocks are below the threshold", "temperature is beyond a threshold", "101 % of its rated life is used"]"#]]
            .assert_eq(&format!("{:?}", health.reasons));
    }

    #[test]
    fn firmware_slots_tell_which_runs_now_and_next() {
        let mut page = [0_u8; 512];
        page[0] = 0x21;
        page[8..16].copy_from_slice(b"1.0     ");
        page[16..24].copy_from_slice(b"2.0\0\0\0\0\0");
        expect![[r#"[FirmwareSlot { slot: 1, revision: "1.0", active: true, next: false }, FirmwareSlot { slot: 2, revision: "2.0", active: false, next: true }]"#]]
            .assert_eq(&format!("{:?}", nvme_firmware(&page)));
    }

    #[test]
    fn limits_that_are_0_are_unknown() {
        let mut identify = [0_u8; 4096];
        assert_eq!(nvme_limits(&identify), Some(Limits::default()));
        identify[266..268].copy_from_slice(&343_u16.to_le_bytes());
        identify[280] = 7;
        let limits = nvme_limits(&identify).expect("a whole page");
        assert_eq!((limits.warning, limits.critical, limits.capacity), (Some(70), None, Some(7)));
    }

    #[test]
    fn short_or_wrong_answers_are_none() {
        assert_eq!(nvme(&[0; 511]), None);
        assert_eq!(nvme_limits(&[0; 511]), None);
        assert_eq!(nvme_firmware(&[0; 63]), []);
        assert_eq!(ata(&[0; 511], None, None), None);
        let mut sector = [0; 512];
        sector[2] = 5;
        assert_eq!(ata(&sector, None, None), None, "a wrong checksum");
    }
}
