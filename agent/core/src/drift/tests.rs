use alloc::{string::ToString, vec};

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::inventory::{Disk, Gpu, Memory, Nic, Storage, Transceiver};

const SECOND: u64 = 1000;

fn nic(name: &str, mac: Option<&str>, pci: &str) -> Nic {
    Nic {
        name: name.into(),
        physical: true,
        permanent_mac: mac.map(Into::into),
        pci: Some(pci.into()),
        ..Nic::default()
    }
}

fn nics(nics: impl IntoIterator<Item = Nic>) -> Inventory {
    Inventory { nics: Some(nics.into_iter().collect()), ..Inventory::default() }
}

fn four() -> Vec<Nic> {
    (0..4)
        .map(|n| nic(&format!("eth{n}"), Some(&format!("02::{n}")), &format!("0000:0{n}:00.0")))
        .collect()
}

fn check(before: &Inventory, after: &Inventory, expected: Expect) {
    let drift = diff(before, after);
    let mut text = String::new();
    for change in drift.changes {
        text += &format!("{change}\n");
    }
    for class in drift.unread {
        text += &format!("unread: {}\n", class.name());
    }
    expected.assert_eq(&text);
}

#[test]
fn what_moves_is_known_by_its_serial() {
    let before = nics([nic("eth0", Some("02::1"), "0000:01:00.0")]);
    let after = nics([nic("eth0", Some("02::1"), "0000:02:00.0")]);
    check(
        &before,
        &after,
        expect![[r#"
        NIC eth0 at 0000:02:00.0 moved from 0000:01:00.0 to 0000:02:00.0
    "#]],
    );
}

#[test]
fn another_serial_in_the_same_place_is_another_thing() {
    let before = nics([nic("eth0", Some("02::1"), "0000:01:00.0")]);
    let after = nics([nic("eth0", Some("02::2"), "0000:01:00.0")]);
    check(
        &before,
        &after,
        expect![[r#"
        NIC eth0 at 0000:01:00.0 vanished
        NIC eth0 at 0000:01:00.0 appeared
    "#]],
    );
}

#[test]
fn unknown_is_not_compared() {
    let known =
        nics([Nic { firmware: Some("1".into()), ..nic("eth0", Some("02::1"), "0000:01:00.0") }]);
    let less = nics([nic("eth0", None, "0000:01:00.0")]);
    check(&known, &less, expect![""]);
    check(
        &known,
        &Inventory::default(),
        expect![[r#"
        unread: NIC
    "#]],
    );
}

#[test]
fn serials_that_several_claim_are_none() {
    let disk =
        |name: &str| Disk { name: name.into(), serial: Some("0000".into()), ..Disk::default() };
    let disks = |disks| Inventory {
        storage: Some(Storage { disks, ..Storage::default() }),
        ..Inventory::default()
    };
    check(
        &disks(vec![disk("sda"), disk("sdb"), disk("sdc")]),
        &disks(vec![disk("sda"), disk("sdc")]),
        expect![[r#"
            disk sdb vanished
        "#]],
    );
}

#[test]
fn half_of_a_class_at_once_is_one_fault_of_the_reader() {
    check(
        &nics(four()),
        &nics(four().into_iter().take(2)),
        expect![[r#"
        2 of 4 of kind NIC can't be seen at once, which is likelier a reader's fault: NIC eth2 at 0000:02:00.0, NIC eth3 at 0000:03:00.0
    "#]],
    );
    check(
        &nics(four()),
        &nics(four().into_iter().take(3)),
        expect![[r#"
        NIC eth3 at 0000:03:00.0 vanished
    "#]],
    );
}

#[test]
fn memory_that_the_kernel_kept_for_itself_is_no_drift() {
    let memory = |total| Inventory {
        memory: Some(Memory { total: Some(total), ..Memory::default() }),
        ..Inventory::default()
    };
    check(&memory(8 << 30), &memory((8 << 30) - (1 << 20)), expect![""]);
    check(
        &memory(8 << 30),
        &memory(9 << 30),
        expect![[r#"
        memory: total was 8192 MiB, is 9216 MiB
    "#]],
    );
}

/// Everything that a test here takes away, as the kernel names it.
fn removed() -> Removed {
    let nics = (0..4).map(|n| (Part::Nic, format!("eth{n}")));
    nics.chain([(Part::Gpu, "0000:01:00.0".into())]).collect()
}

fn observe(watcher: &mut Watcher, inventory: &Inventory, spoke: bool, now: u64) -> Vec<String> {
    let removed = if spoke { removed() } else { Removed::new() };
    observe_removed(watcher, inventory, &removed, now)
}

fn observe_removed(
    watcher: &mut Watcher,
    inventory: &Inventory,
    removed: &Removed,
    now: u64,
) -> Vec<String> {
    let events = watcher.observe(inventory, &BTreeSet::from(Part::ALL), removed, now);
    let told = |event| match event {
        Event::Change(change) => change.to_string(),
        Event::ReaderBack(class) => format!("{} back", class.name()),
        Event::Flapping(change) => format!("{} flaps", change.title),
    };
    events.into_iter().map(told).collect()
}

fn watching(inventory: &Inventory) -> Watcher {
    let mut watcher = Watcher::default();
    assert!(observe(&mut watcher, inventory, false, 0).is_empty(), "the first read is no news");
    watcher
}

#[test]
fn gone_needs_three_misses_or_the_kernels_word() {
    let (all, three) = (nics(four()), nics(four().into_iter().take(3)));
    let gone = ["NIC eth3 at 0000:03:00.0 vanished"];
    let mut watcher = watching(&all);
    assert!(observe(&mut watcher, &three, false, 1).is_empty());
    assert!(observe(&mut watcher, &three, false, 2).is_empty() && watcher.is_unsure());
    assert_eq!(observe(&mut watcher, &three, false, 3), gone);
    assert!(!watcher.is_unsure());
    assert_eq!(observe(&mut watcher, &all, false, 4), ["NIC eth3 at 0000:03:00.0 appeared"]);
    assert_eq!(observe(&mut watcher, &three, true, 5), gone);
}

#[test]
fn the_kernels_word_makes_half_a_class_credible() {
    let mut watcher = watching(&nics(four()));
    assert_eq!(observe(&mut watcher, &nics([]), true, 1).len(), 4);
}

#[test]
fn the_kernels_word_is_about_what_it_names_and_nothing_else() {
    let one = Removed::from([(Part::Nic, "eth3".into())]);
    // The others of its part miss from a reader that fails at the same time.
    let mut watcher = watching(&nics(four()));
    let gone = ["NIC eth3 at 0000:03:00.0 vanished"];
    assert_eq!(observe_removed(&mut watcher, &nics([]), &one, 1), gone);
    let told = observe_removed(&mut watcher, &nics([]), &one, 2);
    assert!(told.len() == 1 && told[0].starts_with("3 of 3 of kind NIC can't be seen"), "{told:?}");
    let three = nics(four().into_iter().take(3));
    assert_eq!(observe(&mut watcher, &three, false, 3), ["NIC back"]);
    // The function that a NIC sits on is as good as its own name, in its own part.
    let function = |part| Removed::from([(part, "0000:02:00.0".into())]);
    let two = nics(four().into_iter().take(2));
    assert!(observe_removed(&mut watcher, &two, &function(Part::Gpu), 4).is_empty());
    let gone = ["NIC eth2 at 0000:02:00.0 vanished"];
    assert_eq!(observe_removed(&mut watcher, &two, &function(Part::Nic), 5), gone);
}

#[test]
fn a_thing_is_removed_by_the_name_it_has_now() {
    let mut watcher = watching(&nics([nic("eth0", Some("02::1"), "0000:01:00.0")]));
    let renamed = nics([nic("lan0", Some("02::1"), "0000:01:00.0")]);
    observe(&mut watcher, &renamed, false, 1);
    let told = observe(&mut watcher, &renamed, false, 2);
    assert_eq!(told, ["NIC lan0 at 0000:01:00.0: name was eth0, is lan0"]);
    let lan0 = Removed::from([(Part::Nic, "lan0".into())]);
    let told = observe_removed(&mut watcher, &nics([]), &lan0, 3);
    assert_eq!(told, ["NIC lan0 at 0000:01:00.0 vanished"]);
}

#[test]
fn a_module_is_gone_only_when_the_kernel_says_so() {
    let module = Transceiver { part: Some("EX-25G-SR".into()), ..Transceiver::default() };
    let there = Nic { transceiver: Some(module), ..nic("eth0", None, "0000:01:00.0") };
    let unread = Nic { transceiver: None, ..there.clone() };
    let empty = Nic { cage_empty: true, ..unread.clone() };
    check(&nics([there.clone()]), &nics([unread]), expect![""]);
    check(
        &nics([there]),
        &nics([empty]),
        expect![[r#"
            NIC eth0 at 0000:01:00.0: module was EX-25G-SR, is none
        "#]],
    );
}

#[test]
fn a_failing_reader_is_raised_once_and_cleared() {
    let mut watcher = watching(&nics(four()));
    assert!(observe(&mut watcher, &nics([]), false, 1).is_empty());
    assert!(watcher.is_unsure(), "seen once: it must be read again soon");
    assert_eq!(observe(&mut watcher, &nics([]), false, 2).len(), 1);
    assert!(!watcher.is_unsure());
    for now in 3..100 {
        assert!(observe(&mut watcher, &nics([]), false, now).is_empty());
    }
    assert_eq!(watcher.faults().collect::<Vec<_>>(), [Class::Nic]);
    assert_eq!(observe(&mut watcher, &nics(four()), false, 100), ["NIC back"]);
    assert_eq!(watcher.faults().count(), 0);
}

#[test]
fn a_change_is_told_when_it_holds() {
    let firmware = |version: &str| {
        nics([Nic { firmware: Some(version.into()), ..nic("eth0", None, "0000:01:00.0") }])
    };
    let mut watcher = watching(&firmware("1"));
    assert!(observe(&mut watcher, &firmware("2"), false, 1).is_empty());
    assert!(observe(&mut watcher, &firmware("1"), false, 2).is_empty() && !watcher.is_unsure());
    assert!(observe(&mut watcher, &firmware("2"), false, 3).is_empty());
    assert!(observe(&mut watcher, &firmware("3"), false, 4).is_empty());
    let told = observe(&mut watcher, &firmware("3"), false, 5);
    assert_eq!(told, ["NIC eth0 at 0000:01:00.0: firmware was 1, is 3"]);
}

#[test]
fn a_part_that_was_not_read_misses_nothing() {
    let mut watcher = watching(&nics(four()));
    let only = BTreeSet::from([Part::Cpu]);
    for now in 1..10 {
        let told = watcher.observe(&nics([]), &only, &Removed::new(), now);
        assert!(told.is_empty() && !watcher.is_unsure());
    }
}

#[test]
fn a_flapping_thing_is_bounded_for_a_week() {
    let gpu = Gpu { pci: "0000:01:00.0".into(), ..Gpu::default() };
    let with = |gpus| Inventory { gpus: Some(gpus), ..Inventory::default() };
    let (there, gone) = (with(vec![gpu]), with(vec![]));
    let mut watcher = watching(&there);
    let (week, mut told, mut flaps) = (7 * 24 * 3600, 0, 0);
    for second in 1..week {
        let inventory = if second % 2 == 0 { &there } else { &gone };
        let events = observe(&mut watcher, inventory, true, second * SECOND);
        told += events.len();
        flaps += events.iter().filter(|event| event.ends_with("flaps")).count();
    }
    assert!(told <= 7 * 24 * 7 && flaps >= 7 * 24 - 1, "{told} events, {flaps} times flapping");
}

fn reads() -> impl Strategy<Value = Vec<(Vec<bool>, bool, bool, u8)>> {
    // Which of four are there, whether the part could be read, whether the kernel
    // spoke, and a firmware version.
    let read = (proptest::collection::vec(any::<bool>(), 4), any::<bool>(), any::<bool>(), 0..3u8);
    proptest::collection::vec(read, 0..40)
}

proptest! {
    #[test]
    fn what_ends_as_it_began_leaves_nothing_outstanding(reads in reads()) {
        let firmware = |version: u8, nic: Nic| Nic { firmware: Some(version.to_string()), ..nic };
        let began = nics(four().into_iter().map(|nic| firmware(0, nic)));
        let mut watcher = watching(&began);
        let mut events = BTreeMap::<String, usize>::new();
        for (n, (there, readable, spoke, version)) in reads.iter().enumerate() {
            let left = four().into_iter().zip(there).filter(|(_, there)| **there);
            let mut now = nics(left.map(|(nic, _)| firmware(*version, nic)));
            if !readable {
                now.nics = None;
            }
            let all = BTreeSet::from(Part::ALL);
            let removed = if *spoke { removed() } else { Removed::new() };
            for event in watcher.observe(&now, &all, &removed, n as u64 * SECOND) {
                let identity = match event {
                    Event::Change(it) | Event::Flapping(it) => it.identity,
                    Event::ReaderBack(class) => class.name().to_string(),
                };
                *events.entry(identity).or_default() += 1;
            }
        }
        prop_assert!(events.values().all(|count| *count <= 7), "{events:?}");
        for n in 0..4 {
            observe(&mut watcher, &began, false, (40 + n) * SECOND);
        }
        prop_assert!(!watcher.is_unsure() && watcher.faults().count() == 0);
        // And what it holds for true is what is there.
        let fresh = watching(&began);
        let sorted = |it: &Watcher| {
            let mut macs: Vec<_> = it.known(Class::Nic).collect();
            macs.sort();
            macs
        };
        prop_assert_eq!(sorted(&watcher), sorted(&fresh));
    }
}
