//! The platform as rows and sections.

use purlin_core::inventory::{Inventory, Part, Platform};

use super::{Row, Section, row, section, told, yes_no};

pub(super) fn rows(inventory: &Inventory) -> Vec<Row> {
    inventory.platform.iter().map(platform_row).collect()
}

pub(super) fn sections(inventory: &Inventory) -> Vec<Section> {
    inventory.platform.iter().map(platform_section).collect()
}

pub(super) fn platform_row(platform: &Platform) -> Row {
    let mut words = vec![maker(platform)];
    words.extend(platform.kernel.as_ref().map(|kernel| format!("Linux {kernel}")));
    words.extend(platform.architecture.clone());
    words.extend((platform.virtualised == Some(true)).then(|| "virtual".to_owned()));
    let name = platform.hostname.as_deref().unwrap_or("machine");
    row(Part::Platform, name, None, words.join(", "))
}

fn maker(platform: &Platform) -> String {
    match (&platform.vendor, &platform.product) {
        (Some(vendor), Some(product)) => format!("{vendor} {product}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => "maker unknown".into(),
    }
}

fn platform_section(platform: &Platform) -> Section {
    section(
        platform.hostname.as_deref().unwrap_or("machine"),
        [
            ("vendor", told(&platform.vendor)),
            ("product", told(&platform.product)),
            ("serial", told(&platform.serial)),
            ("board", told(&platform.board)),
            ("firmware", told(&platform.firmware)),
            ("UEFI", yes_no(platform.uefi)),
            ("kernel", told(&platform.kernel)),
            ("architecture", told(&platform.architecture)),
            ("virtualised", yes_no(platform.virtualised)),
        ],
    )
}
