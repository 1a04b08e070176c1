//! Names of PCI ids, from an installed `pci.ids`.
//!
//! Page: `hw-docs/pci.md`. One pass that keeps nothing but the names asked for
//! (`docs/decisions/008-pci-names.md` says why not a database). It must never
//! fail on a line that makes no sense: such a line names nothing.

use std::collections::{BTreeMap, BTreeSet};

/// A vendor and its device.
pub type Id = (u16, u16);

/// What to look for. Names that nobody asked for are not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Vendor and device.
    pub devices: BTreeSet<Id>,
    /// Vendor and device, and vendor and device of the subsystem.
    pub subsystems: BTreeSet<(Id, Id)>,
    /// Class and subclass: the upper 16 bits of a class code.
    pub classes: BTreeSet<u16>,
}

impl Wanted {
    fn has_of(&self, vendor: u16) -> bool {
        let (first, last) = ((vendor, 0), (vendor, u16::MAX));
        self.devices.range(first..=last).next().is_some()
            || self
                .subsystems
                .range((first, (0, 0))..=(last, (u16::MAX, u16::MAX)))
                .next()
                .is_some()
    }
}

/// The names found, under the keys of [`Wanted`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// "Vendor Device", or the vendor alone where the list lacks the device.
    pub devices: BTreeMap<Id, String>,
    /// The card's name, without its vendor's.
    pub subsystems: BTreeMap<(Id, Id), String>,
    /// The subclass's name, or the class's where the list lacks the subclass.
    pub classes: BTreeMap<u16, String>,
}

/// Which list of the file a line is in.
enum Under<'a> {
    Nothing,
    Vendor(u16, &'a str),
    Class(u8),
}

/// Finds the wanted names in the text of a `pci.ids`. A vendor's line starts
/// with its id, a device's with one tab, a subsystem's with two; a class's
/// with `C `, a subclass's with one tab below it.
pub fn find(text: &str, wanted: &Wanted) -> Names {
    let mut names = Names::default();
    let mut under = Under::Nothing;
    let mut device = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match (line.strip_prefix('\t'), &under) {
            (None, _) => {
                under = heading(line, wanted, &mut names);
                device = None;
            }
            (Some(line), Under::Vendor(vendor, maker)) => match line.strip_prefix('\t') {
                Some(line) => {
                    subsystem(line, device, wanted, &mut names);
                }
                None => device = device_of(line, (*vendor, maker), wanted, &mut names),
            },
            (Some(line), Under::Class(class)) => {
                subclass(line, *class, wanted, &mut names);
            }
            (Some(_), Under::Nothing) => {}
        }
    }
    names
}

fn heading<'a>(line: &'a str, wanted: &Wanted, names: &mut Names) -> Under<'a> {
    if let Some(class) = line.strip_prefix("C ") {
        let Some((class, name)) = named(class, 2) else { return Under::Nothing };
        let class = class as u8;
        for wanted in wanted.classes.iter().filter(|it| (**it >> 8) as u8 == class) {
            names.classes.insert(*wanted, name.to_owned());
        }
        return Under::Class(class);
    }
    let Some((vendor, name)) = named(line, 4) else { return Under::Nothing };
    for wanted in wanted.devices.range((vendor, 0)..=(vendor, u16::MAX)) {
        names.devices.insert(*wanted, name.to_owned());
    }
    // Nine lines of ten are of vendors that a machine has nothing of.
    match wanted.has_of(vendor) {
        true => Under::Vendor(vendor, name),
        false => Under::Nothing,
    }
}

fn device_of(
    line: &str,
    (vendor, maker): (u16, &str),
    wanted: &Wanted,
    names: &mut Names,
) -> Option<Id> {
    let (device, name) = named(line, 4)?;
    let id = (vendor, device);
    if wanted.devices.contains(&id) {
        names.devices.insert(id, format!("{maker} {name}"));
    }
    Some(id)
}

fn subsystem(line: &str, device: Option<Id>, wanted: &Wanted, names: &mut Names) -> Option<()> {
    let (vendor, rest) = line.split_once(' ')?;
    let (card, name) = named(rest, 4)?;
    let key = (device?, (u16::from_str_radix(vendor, 16).ok()?, card));
    if wanted.subsystems.contains(&key) {
        names.subsystems.insert(key, name.to_owned());
    }
    Some(())
}

fn subclass(line: &str, class: u8, wanted: &Wanted, names: &mut Names) -> Option<()> {
    let (subclass, name) = named(line, 2)?;
    let key = u16::from(class) << 8 | subclass;
    if wanted.classes.contains(&key) {
        names.classes.insert(key, name.to_owned());
    }
    Some(())
}

/// `1af4  Red Hat, Inc.`: an id of so many digits, two spaces, a name.
fn named(line: &str, digits: usize) -> Option<(u16, &str)> {
    let (id, name) = line.split_once("  ")?;
    let id = u16::from_str_radix(id, 16).ok().filter(|_| id.len() == digits)?;
    Some((id, name.trim()))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const LIST: &str = "# comment\n1af4  Red Hat, Inc.\n\t1000  Virtio network device\n\
                        \t\t1af4 0001  One card\n\t\tzz\n8086  Intel\n\t1000  Other\n\
                        C 02  Network controller\n\t00  Ethernet controller\n\t\t01  x\n";

    #[track_caller]
    fn check(wanted: Wanted, expected: Expect) {
        expected.assert_eq(&format!("{:?}", find(LIST, &wanted)));
    }

    #[test]
    fn a_device_is_named_by_its_own_vendors_list() {
        let devices = BTreeSet::from([(0x1af4, 0x1000), (0x8086, 0x9999), (1, 1)]);
        check(
            Wanted { devices, ..Wanted::default() },
            expect![[
                r#"Names { devices: {(6900, 4096): "Red Hat, Inc. Virtio network device", (32902, 39321): "Intel"}, subsystems: {}, classes: {} }"#
            ]],
        );
    }

    #[test]
    fn a_card_is_named_below_its_device() {
        let card = (0x1af4, 1);
        let subsystems = BTreeSet::from([((0x1af4, 0x1000), card), ((0x8086, 0x1000), card)]);
        check(
            Wanted { subsystems, ..Wanted::default() },
            expect![[
                r#"Names { devices: {}, subsystems: {((6900, 4096), (6900, 1)): "One card"}, classes: {} }"#
            ]],
        );
    }

    #[test]
    fn a_subclass_that_the_list_lacks_has_its_classs_name() {
        check(
            Wanted { classes: BTreeSet::from([0x0200, 0x0280, 0x0300]), ..Wanted::default() },
            expect![[
                r#"Names { devices: {}, subsystems: {}, classes: {512: "Ethernet controller", 640: "Network controller"} }"#
            ]],
        );
    }

    #[test]
    fn nonsense_names_nothing() {
        let wanted = Wanted { devices: BTreeSet::from([(1, 1)]), ..Wanted::default() };
        for text in ["", "\t\t\t", "C ", "C zz  x", "\t0001  x", "00001  x\n\t0001  y", "é  é"] {
            assert_eq!(find(text, &wanted), Names::default(), "{text:?}");
        }
    }
}
