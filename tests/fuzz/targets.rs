//! What reads bytes that a machine, a cable or a file brings: each as a function of
//! bytes that must not panic, whatever they are, and that must end.
//!
//! Used twice: replayed and mutated for seconds by `agent/daemon/tests/fuzz.rs`, and driven
//! by coverage for as long as one likes by this folder's own package.

use purlin_core::idset::IdSet;
use purlin_daemon::nri::codec;
use purlin_drivers::{
    Archive, gpu_metrics, lldp,
    pci_ids::{self, Wanted},
    smbios,
    storage::smart,
    transceiver::{self, Pages},
};

/// A function of bytes.
pub type Target = fn(&[u8]);

/// Every target by name; its seeds are in `corpus/NAME`.
pub const TARGETS: [(&str, Target); 12] = [
    ("smbios", |bytes| drop(smbios::decode(bytes))),
    ("transceiver", |bytes| drop(transceiver::decode(&Pages::from_flat(bytes)))),
    ("lldp", |bytes| drop(lldp::decode(bytes))),
    ("gpu_metrics", |bytes| drop(gpu_metrics::decode(bytes))),
    ("cpu_list", cpu_list),
    ("cpu_mask", cpu_mask),
    ("pci_ids", pci_names),
    ("archive", |bytes| drop(Archive::unpack(bytes))),
    ("nvme_smart", nvme_smart),
    ("ata_smart", ata_smart),
    ("nri", nri),
    ("cdi", purlin_drivers::cdi::parse),
];

fn cpu_list(bytes: &[u8]) {
    if let Ok(set) = IdSet::parse(&String::from_utf8_lossy(bytes)) {
        assert_eq!(IdSet::parse(&set.to_string()), Ok(set), "what is printed reads back");
    }
}

fn cpu_mask(bytes: &[u8]) {
    if let Ok(set) = IdSet::parse_mask(&String::from_utf8_lossy(bytes)) {
        assert_eq!(set.iter().count(), set.len());
    }
}

fn pci_names(bytes: &[u8]) {
    let mut wanted = Wanted::default();
    wanted.devices.insert((0x8086, 0x1000));
    drop(pci_ids::find(&String::from_utf8_lossy(bytes), &wanted));
}

fn nvme_smart(bytes: &[u8]) {
    drop(smart::nvme(bytes));
    _ = smart::nvme_limits(bytes);
    drop(smart::nvme_firmware(bytes));
}

/// The data, and then the thresholds.
fn ata_smart(bytes: &[u8]) {
    let (data, thresholds) = bytes.split_at(bytes.len().min(512));
    drop(smart::ata(data, Some(thresholds), None));
    drop(smart::ata(data, None, Some(true)));
}

/// Read in two pieces; what was read is sent, and read again.
fn nri(bytes: &[u8]) {
    let (mut decoder, mut messages) = (codec::Decoder::default(), Vec::new());
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    _ = decoder.push(first, &mut messages).and_then(|()| decoder.push(rest, &mut messages));
    let (mut decoder, mut again) = (codec::Decoder::default(), Vec::new());
    for message in &messages {
        let sent = codec::encode(message).expect("no longer than what was read");
        decoder.push(&sent, &mut again).expect("what is sent can be read");
    }
    assert_eq!(messages, again);
}
