//! What disks of the live machine answer about their health.
//!
//! Two kinds of device are opened, for reading, and nothing else: the character
//! device of a PCIe NVMe controller that is live, and the SCSI generic device
//! of an ATA disk that is not asleep, which is asked for its power mode before
//! anything that would wake it. A controller behind a fabric is another
//! machine's, and may hang.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    time::{Duration, Instant},
};

use purlin_core::inventory::{AtaSmart, Disk, NvmeController, Storage};

use super::{BLOCK, smart};
use crate::{
    probe::{Probe, is_absent, reason},
    sys::{nvme, sg},
};

/// What the kernel gives as vendor of a SCSI disk that is an ATA one.
pub(super) const ATA: &str = "ATA";

/// How long disks are asked before the rest is left out: well below what the
/// helper has for the whole part. A disk answers within milliseconds; one that
/// is ill may take seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks every disk that may be asked. What keeps it from several is told once.
pub(super) fn ask(probe: &mut Probe<'_>, storage: &mut Storage) {
    let until = Instant::now() + PATIENCE;
    let mut refusals = Refusals::default();
    for controller in &mut storage.controllers {
        let Some(nvme) = controller.nvme.as_mut().filter(|it| may_ask(it)) else { continue };
        refusals
            .note(&controller.name, in_time(until).and_then(|()| ask_nvme(&controller.name, nvme)));
    }
    for disk in &mut storage.disks {
        let Some(generic) = generic_of(probe, disk) else { continue };
        let asked = in_time(until).and_then(|()| ask_ata(&generic, disk));
        refusals.note(&disk.name, asked);
    }
    refusals.tell(probe);
}

fn in_time(until: Instant) -> io::Result<()> {
    if Instant::now() < until {
        return Ok(());
    }
    Err(io::Error::other(format!("the disks before took more than {PATIENCE:?}")))
}

fn may_ask(nvme: &NvmeController) -> bool {
    nvme.transport.as_deref() == Some("pcie") && nvme.state.as_deref() == Some("live")
}

fn ask_nvme(name: &str, told: &mut NvmeController) -> io::Result<()> {
    let controller = File::open(format!("/dev/{name}"))?;
    told.smart = smart::nvme(&nvme::log_page(&controller, 0x02)?);
    told.firmware_slots = smart::nvme_firmware(&nvme::log_page(&controller, 0x03)?);
    let limits = smart::nvme_limits(&nvme::identify(&controller)?).unwrap_or_default();
    told.warning_temperature = limits.warning;
    told.critical_temperature = limits.critical;
    told.capacity = limits.capacity;
    Ok(())
}

/// The generic device of an ATA disk that the kernel has not put to sleep.
fn generic_of(probe: &mut Probe<'_>, disk: &Disk) -> Option<String> {
    let device = format!("{BLOCK}/{}/device", disk.name);
    let is_ata = disk.scsi.is_some() && probe.label(&format!("{device}/vendor"))? == ATA;
    if !is_ata || disk.asleep == Some(true) {
        return None;
    }
    probe.names(&format!("{device}/scsi_generic"))?.into_iter().next()
}

fn ask_ata(generic: &str, told: &mut Disk) -> io::Result<()> {
    let disk = File::open(format!("/dev/{generic}"))?;
    let asleep = is_asleep(sg::registers(&disk, sg::Ata { command: 0xe5, ..sg::Ata::default() })?);
    told.asleep = Some(asleep);
    if !asleep {
        told.smart = read_smart(&disk)?;
    }
    Ok(())
}

/// CHECK POWER MODE: standby (00h, 01h), and spun down with a cache in flash
/// (40h).
fn is_asleep(after: sg::Registers) -> bool {
    matches!(after.count, 0x00 | 0x01 | 0x40)
}

fn read_smart(disk: &File) -> io::Result<Option<AtaSmart>> {
    let data = sg::sector(disk, command(0xd0))?;
    // The verdict and the thresholds may be missing where the data is there.
    let thresholds = sg::sector(disk, command(0xd1)).ok();
    let passed = sg::registers(disk, command(0xda)).ok().and_then(verdict);
    Ok(smart::ata(&data, thresholds.as_ref().map(|it| it.as_slice()), passed))
}

/// SMART (B0h) needs this signature to be taken for one.
fn command(feature: u8) -> sg::Ata {
    sg::Ata { command: 0xb0, feature, lba_mid: 0x4f, lba_high: 0xc2 }
}

/// SMART RETURN STATUS turns the signature over if a threshold is exceeded.
fn verdict(after: sg::Registers) -> Option<bool> {
    match (after.lba_mid, after.lba_high) {
        (0x4f, 0xc2) => Some(true),
        (0xf4, 0x2c) => Some(false),
        _ => None,
    }
}

/// Why disks could not be asked: how many for the same reason, and the first.
#[derive(Default)]
struct Refusals(BTreeMap<String, (usize, String)>);

impl Refusals {
    fn note(&mut self, name: &str, asked: io::Result<()>) {
        let Err(error) = asked else { return };
        let why =
            if is_absent(&error) { "it has no device file here".into() } else { reason(&error) };
        self.0.entry(why).or_insert_with(|| (0, name.to_owned())).0 += 1;
    }

    fn tell(self, probe: &mut Probe<'_>) {
        for (why, (count, first)) in self.0 {
            let others =
                if count > 1 { format!(" and of {} more", count - 1) } else { String::new() };
            probe.problem(&first, format!("its health{others} is unknown: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(count: u8, lba_mid: u8, lba_high: u8) -> sg::Registers {
        sg::Registers { count, lba_mid, lba_high }
    }

    #[test]
    fn a_disk_in_standby_is_asleep_and_an_idle_one_is_not() {
        assert!(is_asleep(after(0x00, 0, 0)));
        assert!(!is_asleep(after(0x80, 0, 0)));
        assert!(!is_asleep(after(0xff, 0, 0)));
    }

    #[test]
    fn a_verdict_is_in_the_signature() {
        assert_eq!(verdict(after(0, 0x4f, 0xc2)), Some(true));
        assert_eq!(verdict(after(0, 0xf4, 0x2c)), Some(false));
        assert_eq!(verdict(after(0, 0, 0)), None);
    }
}
