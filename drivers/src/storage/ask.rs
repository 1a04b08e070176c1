//! What one device of the live machine answers about its health.
//!
//! Two kinds of device are opened, for reading, and nothing else: the character
//! device of an NVMe controller, and the SCSI generic device of an ATA disk,
//! which is asked for its power mode before anything that would wake it. Which
//! devices may be asked is `Storage::to_ask`'s to say.

use std::{fs::File, io};

use purlin_core::inventory::{AtaSmart, NvmeHealth, Smart};

use super::{BLOCK, controller, smart};
use crate::{
    probe::{Probe, is_absent, reason},
    sys::{nvme, sg},
};

/// What the kernel gives as vendor of a SCSI disk that is an ATA one.
pub(super) const ATA: &str = "ATA";

/// The answer of the device, if it is one that has any.
pub(super) fn smart(probe: &mut Probe<'_>, device: &str) -> Option<Smart> {
    let asked = if controller::is_nvme(device) {
        node(device).and_then(|controller| ask_nvme(&controller)).map(Smart::Nvme)
    } else {
        let generic = generic_of(probe, device)?;
        node(&generic).and_then(|disk| ask_ata(&disk))
    };
    asked.map_err(|error| probe.problem(device, refusal(&error))).ok()
}

fn node(name: &str) -> io::Result<File> {
    File::open(format!("/dev/{name}"))
}

fn refusal(error: &io::Error) -> String {
    let why = if is_absent(error) { "it has no device file here".into() } else { reason(error) };
    format!("health unknown: {why}")
}

fn ask_nvme(controller: &File) -> io::Result<NvmeHealth> {
    let health = smart::nvme(&nvme::log_page(controller, 0x02)?);
    let firmware_slots = smart::nvme_firmware(&nvme::log_page(controller, 0x03)?);
    let limits = smart::nvme_limits(&nvme::identify(controller)?).unwrap_or_default();
    Ok(NvmeHealth {
        smart: health,
        firmware_slots,
        capacity: limits.capacity,
        warning_temperature: limits.warning,
        critical_temperature: limits.critical,
    })
}

/// The generic device of an ATA disk.
fn generic_of(probe: &mut Probe<'_>, disk: &str) -> Option<String> {
    let device = format!("{BLOCK}/{disk}/device");
    if probe.label(&format!("{device}/vendor"))? != ATA {
        return None;
    }
    probe.names(&format!("{device}/scsi_generic"))?.into_iter().next()
}

fn ask_ata(disk: &File) -> io::Result<Smart> {
    let power = sg::registers(disk, sg::Ata { command: 0xe5, ..sg::Ata::default() })?;
    unless_asleep(power, || read_smart(disk))
}

/// Asks for the rest only what does not sleep.
fn unless_asleep(
    power: sg::Registers,
    read: impl FnOnce() -> io::Result<Option<AtaSmart>>,
) -> io::Result<Smart> {
    let asleep = is_asleep(power);
    Ok(Smart::Ata { asleep, smart: if asleep { None } else { read()? } })
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

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::{Root, storage::smart_of};

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
    fn a_disk_that_sleeps_is_asked_nothing_else() {
        for standby in [0x00, 0x01, 0x40] {
            let told = unless_asleep(after(standby, 0, 0), || unreachable!("this wakes it"));
            assert_eq!(told.ok(), Some(Smart::Ata { asleep: true, smart: None }));
        }
        let smart = AtaSmart { passed: Some(true), ..AtaSmart::default() };
        let told = unless_asleep(after(0xff, 0, 0), || Ok(Some(smart.clone())));
        assert_eq!(told.ok(), Some(Smart::Ata { asleep: false, smart: Some(smart) }));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refused = |errno: Errno| refusal(&io::Error::from(errno));
        let denied = "health unknown: permission denied; root may read it";
        assert_eq!([refused(Errno::EACCES), refused(Errno::EPERM)], [denied, denied]);
        assert_eq!(refused(Errno::ENOENT), "health unknown: it has no device file here");
        assert_eq!(refused(Errno::EIO), "health unknown: i/o error");
    }

    #[test]
    fn a_controller_without_a_device_file_is_a_problem_with_its_name() {
        let root = Root::live().expect("the live machine");
        let (smart, problems) = smart_of(&root, "nvme4095");
        assert_eq!((smart, problems.len()), (None, 1));
        assert_eq!(problems[0].at, "nvme4095");
        assert_eq!(problems[0].what, "health unknown: it has no device file here");
        // Neither an ATA disk nor one at all.
        assert_eq!(smart_of(&root, "no-such-disk"), (None, vec![]));
    }

    #[test]
    fn a_dumps_disk_is_never_asked() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::dump(dir.path()).expect("a dump");
        assert_eq!(smart_of(&root, "nvme0"), (None, vec![]));
    }

    #[test]
    fn a_verdict_is_in_the_signature() {
        assert_eq!(verdict(after(0, 0x4f, 0xc2)), Some(true));
        assert_eq!(verdict(after(0, 0xf4, 0x2c)), Some(false));
        assert_eq!(verdict(after(0, 0, 0)), None);
    }
}
