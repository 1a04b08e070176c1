//! Whether a node's state is still on the machine that it was made on.
//!
//! A state directory can wake up elsewhere: its disk was put into another machine, the
//! machine got another board or another disk, or all of it was copied. What is not known of
//! either is no reason to think so.

use alloc::{collections::BTreeSet, string::String};

use serde::{Deserialize, Serialize};

use crate::inventory::Inventory;

/// What a machine is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Of the installed system: a hash of /etc/machine-id.
    pub system: Option<String>,
    /// Of the board or what it stands in: the DMI UUID, or a serial number.
    pub board: Option<String>,
    /// Serial numbers of its disks that are not removable.
    pub disks: BTreeSet<String>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Same disks, another board: the board was replaced, or the disks moved.
    Board,
    /// Same board, none of the disks: a disk was replaced, and its content put back.
    Disk,
    /// Neither: a copy, or a restored backup.
    Copy,
    /// The same machine, another system: it was installed anew and the state kept.
    System,
}

impl Machine {
    /// As an inventory knows it. `None` until platform and disks were read.
    pub fn of(inventory: &Inventory, system: Option<String>) -> Option<Self> {
        let (platform, storage) = (inventory.platform.as_ref()?, inventory.storage.as_ref()?);
        let own = [&platform.uuid, &platform.board.serial, &platform.serial];
        let fixed = storage.disks.iter().filter(|disk| disk.removable != Some(true));
        Some(Self {
            system,
            board: own.into_iter().flatten().next().cloned(),
            disks: fixed.filter_map(|disk| disk.serial.clone()).collect(),
        })
    }

    /// What became of a state that was made on `self`, and is on `now`.
    pub fn moved(&self, now: &Self) -> Option<Moved> {
        let is_other = |was: &Option<String>, is: &Option<String>| match (was, is) {
            (Some(was), Some(is)) => was != is,
            _ => false,
        };
        let other_disks =
            !self.disks.is_empty() && !now.disks.is_empty() && self.disks.is_disjoint(&now.disks);
        match (is_other(&self.board, &now.board), other_disks) {
            (true, true) => Some(Moved::Copy),
            // With no disk to know it by, another system on another board is a copy too.
            (true, false) if self.disks.is_disjoint(&now.disks) => {
                Some(if is_other(&self.system, &now.system) { Moved::Copy } else { Moved::Board })
            }
            (true, false) => Some(Moved::Board),
            (false, true) => Some(Moved::Disk),
            (false, false) => is_other(&self.system, &now.system).then_some(Moved::System),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(system: &str, board: &str, disks: &[&str]) -> Machine {
        let some = |text: &str| Some(String::from(text)).filter(|it| !it.is_empty());
        Machine {
            system: some(system),
            board: some(board),
            disks: disks.iter().map(|it| String::from(*it)).collect(),
        }
    }

    #[test]
    fn a_replaced_board_a_replaced_disk_and_a_copy_are_told_apart() {
        let was = machine("s", "b", &["d1", "d2"]);
        for (now, moved) in [
            (was.clone(), None),
            (machine("s", "b", &["d2", "d3"]), None),
            (machine("s", "b2", &["d1", "d2"]), Some(Moved::Board)),
            (machine("s", "b", &["d3"]), Some(Moved::Disk)),
            (machine("s", "b2", &["d3"]), Some(Moved::Copy)),
            (machine("s2", "b", &["d1"]), Some(Moved::System)),
            // What can't be read says nothing.
            (machine("", "", &[]), None),
            (machine("s", "", &["d1"]), None),
            (machine("s", "b2", &[]), Some(Moved::Board)),
            (machine("s2", "b2", &[]), Some(Moved::Copy)),
        ] {
            assert_eq!(was.moved(&now), moved, "{now:?}");
        }
    }
}
