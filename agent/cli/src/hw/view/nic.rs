//! Network interfaces as rows and sections.

use purlin_core::inventory::{Inventory, Nic, Part};

use super::{Row, Section, join, or_unknown, plural, row, section, told};

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.nics.iter().flat_map(|all| nic_rows(all)).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.nics.iter().flatten().map(nic_section).collect()
}

/// The row that counts interfaces without hardware.
pub(super) const VIRTUAL: &str = "virtual";

/// The longest MAC address shown in a row, in characters: Ethernet's.
/// InfiniBand's has 20 bytes and would fill the line.
const MAC_LENGTH: usize = 17;

fn nic_rows(nics: &[Nic]) -> Vec<Row> {
    let mut rows: Vec<Row> = nics.iter().filter(|nic| nic.physical).map(nic_row).collect();
    let others: Vec<&str> =
        nics.iter().filter(|nic| !nic.physical).map(|nic| nic.name.as_str()).collect();
    if !others.is_empty() {
        rows.push(row(Part::Nic, VIRTUAL, None, plural(others.len(), "interface")));
    }
    rows
}

fn nic_row(nic: &Nic) -> Row {
    let words = [
        nic.driver.clone(),
        Some(link_state(nic)),
        nic.mac.clone().filter(|mac| mac.len() <= MAC_LENGTH),
        nic.pci.as_ref().map(|pci| format!("at {pci}")),
    ];
    row(Part::Nic, &nic.name, nic.node, join(words))
}

pub(super) fn link_state(nic: &Nic) -> String {
    let state = nic.state.as_deref().unwrap_or("state unknown");
    match nic.speed_mbit {
        Some(mbit) if mbit >= 1000 && mbit % 1000 == 0 => format!("{state} {} Gbit/s", mbit / 1000),
        Some(mbit) => format!("{state} {mbit} Mbit/s"),
        None => state.into(),
    }
}

fn nic_section(nic: &Nic) -> Section {
    section(
        &nic.name,
        [
            ("kind", if nic.physical { "physical" } else { "virtual" }.into()),
            ("state", link_state(nic)),
            ("MAC", told(&nic.mac)),
            ("MTU", or_unknown(nic.mtu.map(|mtu| format!("{mtu} B")))),
            ("driver", told(&nic.driver)),
            ("PCI", nic.pci.clone().unwrap_or_else(|| "none".into())),
            ("node", or_unknown(nic.node)),
        ],
    )
}
