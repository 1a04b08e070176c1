//! Memory slots, and errors joined to them only where one slot alone can be meant.

use std::{fs, path::PathBuf};

use expect_test::{Expect, expect};
use purlin_core::inventory::{Memory, MemoryErrors, PartData};
use purlin_drivers::{Part, Root};
use tempfile::TempDir;

const MC: &str = "sys/devices/system/edac/mc";

struct Machine {
    dir: TempDir,
    table: Vec<u8>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let machine = Self { dir, table: Vec::new() };
        machine.file("proc/meminfo", "MemTotal: 1024 kB\n")
    }

    fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path: PathBuf = self.dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
        self
    }

    /// A slot with a module of `gib`, or none.
    fn slot(mut self, slot: &str, bank: &str, gib: u16) -> Self {
        let mut area = vec![0; 0x1b];
        area[0] = 17;
        area[1] = 0x1b;
        area[2] = self.table.len().to_le_bytes()[0];
        area[0x0c..0x0e].copy_from_slice(&(gib << 10).to_le_bytes());
        (area[0x10], area[0x11]) = (1, 2);
        self.table.extend(area);
        self.table.extend(format!("{slot}\0{bank}\0\0").as_bytes());
        self
    }

    /// An array of system memory that takes 64 GiB.
    fn array(mut self, ecc: u8) -> Self {
        let mut area = [0; 0x0f];
        (area[0], area[1], area[5], area[6]) = (16, 0x0f, 3, ecc);
        area[7..11].copy_from_slice(&(64_u32 << 20).to_le_bytes());
        self.table.extend(area);
        self.table.extend([0, 0]);
        self
    }

    fn dimm(self, at: &str, label: &str, gib: u64, ce: u64, ue: u64) -> Self {
        self.file(&format!("{MC}/{at}/dimm_label"), format!("{label}\n"))
            .file(&format!("{MC}/{at}/dimm_location"), "channel 0 slot 0 \n")
            .file(&format!("{MC}/{at}/size"), format!("{}\n", gib << 10))
            .file(&format!("{MC}/{at}/dimm_ce_count"), format!("{ce}\n"))
            .file(&format!("{MC}/{at}/dimm_ue_count"), format!("{ue}\n"))
    }

    fn read(self) -> Memory {
        let table = self.table.clone();
        let machine = match table[..] {
            [] => self,
            _ => self.file("sys/firmware/dmi/tables/DMI", table),
        };
        let root = Root::dump(machine.dir.path()).expect("a dump's root");
        let (data, problems) = purlin_drivers::read(Part::Memory, &root);
        assert_eq!(problems, []);
        match data {
            Some(PartData::Memory(memory)) => memory,
            other => panic!("{other:?} is no memory"),
        }
    }

    #[track_caller]
    fn check(self, expected: Expect) {
        let memory = self.read();
        let count =
            |errors: MemoryErrors| format!("{:?} {:?}", errors.corrected, errors.uncorrected);
        let mut text = String::new();
        for dimm in memory.dimms.unwrap_or_default() {
            let slot = dimm.slot.unwrap_or_default();
            text += &format!("{slot}: {}\n", dimm.errors.map_or("not told".into(), count));
        }
        for it in memory.unjoined {
            text += &format!("{} {:?}: {}, {}\n", it.at, it.label, count(it.errors), it.why);
        }
        expected.assert_eq(&text.replace("Some(", "").replace(')', ""));
    }
}

#[test]
fn a_label_is_the_locator_alone_or_with_the_bank() {
    Machine::new()
        .slot("DIMM_A1", "NODE 1", 16)
        .slot("DIMM_A2", "NODE 1", 16)
        .slot("DIMM_B1", "NODE 2", 16)
        .slot("DIMM_B2", "NODE 2", 0)
        .dimm("mc0/dimm0", "DIMM_A1", 16, 1, 0)
        .dimm("mc0/dimm1", "NODE 1 DIMM_A2", 16, 2, 0)
        .dimm("mc1/dimm0", "Server board, DIMM-B1", 16, 3, 1)
        .check(expect![[r#"
            DIMM_A1: 1 0
            DIMM_A2: 2 0
            DIMM_B1: 3 1
            DIMM_B2: not told
        "#]]);
}

#[test]
fn a_locator_of_several_banks_needs_its_bank() {
    let machine = || {
        Machine::new().slot("DIMM 0", "P0 CHANNEL A", 16).slot("DIMM 0", "P0 CHANNEL B", 16).slot(
            "DIMM 1",
            "P0 CHANNEL B",
            16,
        )
    };
    machine()
        .dimm("mc0/dimm0", "P0 CHANNEL B DIMM 0", 16, 5, 0)
        .dimm("mc0/dimm1", "DIMM 0", 16, 6, 0)
        .check(expect![[r#"
            DIMM 0: not told
            DIMM 0: 5 0
            DIMM 1: not told
            mc0/dimm1 "DIMM 0": 6 0, its label fits several modules of the firmware's table
        "#]]);
    // A driver's DIMM#0 is the first of a channel, not the board's.
    machine().dimm("mc0/dimm0", "mc#0channel#1DIMM 1", 16, 7, 0).check(expect![[r#"
        DIMM 0: not told
        DIMM 0: not told
        DIMM 1: not told
        mc0/dimm0 "mc#0channel#1DIMM 1": 7 0, its label fits no module of the firmware's table
    "#]]);
}

#[test]
fn two_labels_for_one_slot_are_none() {
    Machine::new()
        .slot("DIMM_A1", "x", 16)
        .slot("DIMM_B1", "x", 16)
        .dimm("mc0/dimm0", "left DIMM_A1", 16, 1, 0)
        .dimm("mc0/dimm1", "right DIMM_A1", 16, 2, 0)
        .check(expect![[r#"
            DIMM_A1: not told
            DIMM_B1: not told
            mc0/dimm0 "left DIMM_A1": 1 0, several labels fit the same module
            mc0/dimm1 "right DIMM_A1": 2 0, several labels fit the same module
        "#]]);
}

#[test]
fn a_drivers_coordinates_are_the_boards_if_all_of_them_meet() {
    let machine = |gib| {
        Machine::new()
            .slot("P1-DIMMA1", "P0_Node0_Channel0_Dimm0", 16)
            .slot("P1-DIMMA2", "P0_Node0_Channel0_Dimm1", 0)
            .slot("P1-DIMMD1", "P0_Node1_Channel0_Dimm0", 16)
            .dimm("mc0/dimm0", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0", 16, 4, 0)
            .dimm("mc1/dimm0", "CPU_SrcID#0_MC#1_Chan#0_DIMM#0", gib, 5, 2)
    };
    machine(16).check(expect![[r#"
        P1-DIMMA1: 4 0
        P1-DIMMA2: not told
        P1-DIMMD1: 5 2
    "#]]);
    // One size that differs, and the board's numbers are not the driver's; the
    // sizes left are no help, since two slots have them.
    machine(8).check(expect![[r#"
        P1-DIMMA1: not told
        P1-DIMMA2: not told
        P1-DIMMD1: not told
        mc0/dimm0 "CPU_SrcID#0_MC#0_Chan#0_DIMM#0": 4 0, its label fits no module of the firmware's table
        mc1/dimm0 "CPU_SrcID#0_MC#1_Chan#0_DIMM#0": 5 2, its label fits no module of the firmware's table
    "#]]);
}

#[test]
fn a_handle_names_its_slot_and_a_lonely_size_too() {
    Machine::new()
        .slot("A", "x", 16)
        .slot("B", "x", 16)
        .slot("C", "x", 8)
        .dimm("mc0/dimm0", "unknown memory (handle: 0x0000)", 16, 8, 0)
        .dimm("mc0/dimm1", "mc#0memory#1", 8, 9, 0)
        .check(expect![[r#"
            A: 8 0
            B: not told
            C: 9 0
        "#]]);
}

#[test]
fn ranks_of_one_label_are_one_module() {
    Machine::new()
        .slot("A1", "x", 16)
        .dimm("mc0/rank0", "A1", 8, 1, 0)
        .dimm("mc0/rank1", "A1", 8, 2, 3)
        .check(expect![[r#"
            A1: 3 3
        "#]]);
}

#[test]
fn rows_count_corrected_errors_by_channel_and_others_for_all() {
    let row = format!("{MC}/mc0/csrow0");
    Machine::new()
        .slot("A1", "x", 16)
        .slot("B1", "x", 16)
        .file(&format!("{row}/ch0_dimm_label"), "A1\n")
        .file(&format!("{row}/ch1_dimm_label"), "B1\n")
        .file(&format!("{row}/ch0_ce_count"), "3\n")
        .file(&format!("{row}/ch1_ce_count"), "0\n")
        .file(&format!("{row}/ue_count"), "1\n")
        .check(expect![[r#"
            A1: 3 None
            B1: 0 None
            mc0/csrow0 None: None 1, uncorrectable errors are counted for a row of several DIMMs
        "#]]);
}

#[test]
fn without_a_table_of_slots_no_count_is_lost() {
    Machine::new().dimm("mc0/dimm0", "A1", 16, 1, 2).check(expect![[r#"
        mc0/dimm0 "A1": 1 2, the firmware's table of slots is not known
    "#]]);
}

#[test]
fn a_controller_keeps_what_no_dimm_has() {
    let at = |name| format!("{MC}/mc0/{name}");
    let memory = Machine::new()
        .file(&at("mc_name"), "Example IMC#0\n")
        .file(&at("ce_count"), "7\n")
        .file(&at("ue_count"), "0\n")
        .file(&at("ce_noinfo_count"), "2\n")
        .read();
    expect![[r#"[MemoryController { name: "mc0", kind: Some("Example IMC#0"), errors: MemoryErrors { corrected: Some(7), uncorrected: Some(0) }, noinfo: MemoryErrors { corrected: Some(2), uncorrected: None } }]"#]].assert_eq(&format!("{:?}", memory.controllers));
}

#[test]
fn arrays_add_up_and_correct_errors_only_if_all_do() {
    const NONE: u8 = 3;
    const MULTI_BIT: u8 = 6;
    let of = |all: &[u8]| {
        let memory = all.iter().fold(Machine::new(), |machine, ecc| machine.array(*ecc)).read();
        (memory.max_capacity, memory.ecc)
    };
    assert_eq!(of(&[MULTI_BIT, MULTI_BIT]), (Some(128 << 30), Some(true)));
    assert_eq!(of(&[MULTI_BIT, NONE]), (Some(128 << 30), None));
    assert_eq!(of(&[]), (None, None));
}
