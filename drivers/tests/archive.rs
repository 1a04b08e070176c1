//! A machine reads the same from a tar as from the directory that was packed,
//! and a tar that is broken, hostile or none says so.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use expect_test::{Expect, expect};
use purlin_core::{
    inventory::{Inventory, Part},
    metric::Sampler,
};
use purlin_drivers::{Archive, MAX_UNPACKED, Node, Root};
use serde_json::Value;

mod dumps;
mod tree;

use tree::Tree;

/// Facts that no file tells, and so are not in a dump: those of uname(2), of the
/// CPU itself, and of netlink and ethtool.
const NOT_IN_FILES: [&str; 11] = [
    "/platform/architecture",
    "/platform/hypervisor",
    "/nics/autoneg",
    "/nics/driver_version",
    "/nics/permanent_mac",
    "/nics/queues",
    "/nics/rings",
    "/nics/rss",
    "/nics/firmware",
    "/nics/timestamping",
    "/nics/kind",
];

fn read(path: &Path) -> Inventory {
    purlin_drivers::inventory(&Root::open(path).expect("a dump"))
}

#[test]
fn every_dump_reads_the_same_packed_and_unpacked() {
    for dump in dumps::dumps() {
        let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let scratch = scratch.expect("a temporary directory");
        let tar = Command::new("tar").arg("xJf").arg(&dump).arg("-C").arg(scratch.path()).status();
        assert!(tar.expect("tar runs").success(), "{} unpacks", dump.display());
        assert_eq!(read(&dump), read(scratch.path()), "{}", dump.display());
    }
}

fn small() -> Tree {
    let tree = Tree::new();
    tree.pu(0, 0, 0, "0-1").pu(1, 0, 1, "0-1").node(0, "0-1", 1024, "10");
    tree.file("sys/devices/pci0000:00/0000:00:01.0/class", "0x020000\n");
    tree.file("sys/devices/pci0000:00/0000:00:01.0/net/eth0/mtu", "1500\n");
    tree.link("sys/bus/pci/devices/0000:00:01.0", "../../../devices/pci0000:00/0000:00:01.0");
    tree.link("sys/class/net/eth0", "/sys/devices/pci0000:00/0000:00:01.0/net/eth0");
    tree.link("sys/devices/pci0000:00/0000:00:01.0/net/eth0/device", "../..");
    tree.file("sys/block/sda/size", "8\n").file("proc/meminfo", "MemTotal: 1024 kB\n");
    tree
}

#[track_caller]
fn pack(tree: &Tree, arguments: &[&str]) -> Vec<u8> {
    let tar = Command::new("tar").args(arguments).current_dir(tree.at(".")).output();
    let tar = tar.expect("tar runs");
    assert!(tar.status.success(), "{tar:?}");
    tar.stdout
}

#[test]
fn a_tar_may_be_packed_in_four_ways_and_under_a_name() {
    let tree = small();
    let expected = tree.read();
    assert_eq!(expected.nics.as_ref().map(Vec::len), Some(1));
    let top = tree.at(".").canonicalize().expect("a directory");
    let name = top.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let plain = pack(&tree, &["-c", "."]);
    for (what, packed) in [
        ("plain", plain.clone()),
        ("gzip", pack(&tree, &["-cz", "proc", "sys"])),
        ("xz", pack(&tree, &["-cJ", "./proc", "sys"])),
        ("pax", pack(&tree, &["-c", "--format=pax", "proc", "sys"])),
        ("under a directory", pack(&tree, &["-cz", "-C", "..", &name])),
        ("absolute", pack(&tree, &["-cP", "--transform=s,^,/,S", "proc", "sys"])),
        ("outside", pack(&tree, &["-cP", "--transform=s,^,../../,S", "proc", "sys"])),
    ] {
        let archive = Archive::unpack(packed.as_slice()).expect(what);
        assert_eq!(purlin_drivers::inventory(&archive.into()), expected, "{what}");
    }
    match zstd(&plain) {
        Some(packed) => {
            let archive = Archive::unpack(packed.as_slice()).expect("zstd");
            assert_eq!(purlin_drivers::inventory(&archive.into()), expected);
        }
        None => println!("skipped: zstd isn't installed"),
    }
}

fn zstd(plain: &[u8]) -> Option<Vec<u8>> {
    let zstd = Command::new("zstd").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut zstd = zstd.ok()?;
    let mut input = zstd.stdin.take()?;
    let plain = plain.to_vec();
    let feed = std::thread::spawn(move || input.write_all(&plain));
    let packed = zstd.wait_with_output().ok()?.stdout;
    feed.join().ok()?.ok()?;
    Some(packed)
}

#[test]
fn a_directory_above_the_one_dump_is_taken_for_it() {
    let above = Tree::new();
    above.file("box/proc/meminfo", "MemTotal: 1024 kB\n").file("notes/readme", "");
    assert!(above.read().memory.is_some());
    above.file("other/proc/meminfo", "MemTotal: 2048 kB\n");
    assert_eq!(above.read().memory, None, "which of the two is not for us to say");
}

#[track_caller]
fn refused(packed: &[u8], expected: Expect) {
    expected.assert_eq(&Archive::unpack(packed).expect_err("a refusal").to_string());
}

#[test]
fn a_tar_that_is_cut_off_anywhere_is_refused() {
    for arguments in [["-c", "sys"], ["-cz", "sys"], ["-cJ", "sys"]] {
        let whole = pack(&small(), &arguments);
        // The last blocks of a plain one are padding.
        let end = if arguments[0] == "-c" { whole.len() / 2 } else { whole.len() - 1 };
        for cut in (0..end).step_by(97).chain([end]) {
            let error = Archive::unpack(&whole[..cut]).expect_err("a refusal").to_string();
            // Of what is shorter nobody knows what it is.
            let told = cut < 257 + 5 || error.starts_with("ends too early");
            assert!(told, "{arguments:?} cut off at {cut}: {error}");
        }
    }
}

#[test]
fn what_is_no_tar_is_said_to_be_none() {
    refused(b"", expect!["is empty"]);
    refused(&[0; 10240], expect!["is empty"]);
    refused(&[b'x'; 2000], expect!["is no tar, plain or packed by gzip, xz or zstd"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error = Root::open(file.path()).expect_err("no dump").to_string();
    assert!(error.contains(file.path().to_str().expect("UTF-8")), "{error}");
}

/// Gigabytes of zeros packed into a megabyte.
#[test]
fn what_unpacks_without_end_is_refused() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut header = tar::Header::new_ustar();
    header.set_path("proc/meminfo").expect("a path");
    header.set_size(MAX_UNPACKED * 4);
    header.set_cksum();
    packed.write_all(header.as_bytes()).expect("a header");
    for _ in 0..(MAX_UNPACKED >> 20) + 1 {
        packed.write_all(&vec![0; 1 << 20]).expect("zeros");
    }
    refused(&packed.finish().expect("a gzip"), expect!["holds more than the limit of 256 MiB"]);
}

#[test]
fn a_tree_without_end_is_refused() {
    let mut archive = Archive::default();
    let deep = "a/".repeat(2000);
    let ended = (0..1000).find_map(|i| archive.put_dir(&format!("{i}/{deep}")).err());
    expect!["has more than the limit of 524288 files"]
        .assert_eq(&ended.expect("a limit").to_string());
}

/// One part lists a directory, and another reads the files in it.
#[test]
fn what_one_has_read_fills_what_another_has_only_seen() {
    let mut seen = Archive::default();
    seen.put_file("/sys/online", Vec::new()).expect("a file");
    seen.put_file("/sys/possible", b"0-7".to_vec()).expect("a file");
    let mut read = Archive::default();
    read.put_file("/sys/online", b"0-3".to_vec()).expect("a file");
    read.put_file("/sys/possible", Vec::new()).expect("a file");
    seen.absorb(&read).expect("room");
    assert_eq!(seen.get("/sys/online").expect("a file"), &Node::File(b"0-3".to_vec()));
    assert_eq!(seen.get("/sys/possible").expect("a file"), &Node::File(b"0-7".to_vec()));
}

#[test]
fn links_stay_inside_and_end() {
    let mut archive = Archive::default();
    archive.put_file("/etc/hostname", b"inside".to_vec()).expect("a file");
    archive.put_link("/proc/up", "../../../../etc/hostname").expect("a link");
    archive.put_link("/proc/round", "round").expect("a link");
    archive.put_link("/proc/a", "b/c").expect("a link");
    archive.put_link("/proc/b", "a").expect("a link");
    archive.put_link("/proc/dir", "/etc").expect("a link");
    let root = Root::from(archive);
    assert_eq!(root.read("/proc/up").expect("a file"), "inside");
    assert_eq!(root.read("/proc/dir/hostname").expect("a file"), "inside");
    assert_eq!(root.read("/proc/dir/../etc/hostname").expect("a file"), "inside");
    assert_eq!(root.list("/proc/dir").expect("a directory"), ["hostname"]);
    let errno = |path: &str| root.read(path).expect_err("no way").raw_os_error();
    assert_eq!(errno("/proc/round"), Some(nix::libc::ELOOP));
    assert_eq!(errno("/proc/a"), Some(nix::libc::ELOOP));
    assert_eq!(errno("/etc/hostname/x"), Some(nix::libc::ENOTDIR));
    assert_eq!(errno("/nothing"), Some(nix::libc::ENOENT));
    assert!(root.exists("/proc/dir") && !root.exists("/proc/round"));
}

#[test]
fn hard_links_are_files_and_pipes_are_not() {
    let tree = Tree::new();
    tree.file("proc/first", "content");
    fs::hard_link(tree.at("proc/first"), tree.at("proc/second")).expect("a hard link");
    nix::unistd::mkfifo(&tree.at("proc/meminfo"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let archive = Archive::unpack(pack(&tree, &["-c", "proc"]).as_slice()).expect("a tar");
    let root = Root::from(archive);
    assert_eq!(root.read("/proc/first").expect("a file"), "content");
    assert_eq!(root.read("/proc/second").expect("a file"), "content");
    tree::check(
        &tree::problems_of(&purlin_drivers::inventory(&root), Part::Memory),
        expect![[r#"["/proc/meminfo: is not a plain file"]"#]],
    );
}

#[test]
fn what_is_packed_unpacks_to_the_same() {
    let packed = pack(&small(), &["-c", "proc", "sys"]);
    let archive = Archive::unpack(packed.as_slice()).expect("a tar");
    let again = archive.pack("box", Vec::new()).expect("a tar");
    let again = Archive::unpack(again.as_slice()).expect("our own tar");
    let contents = |it: &Archive| -> Vec<(String, Option<Vec<u8>>)> {
        let content = |node: &Node| match node {
            Node::File(content) => Some(content.clone()),
            Node::Link(target) => Some(target.clone().into_bytes()),
            _ => None,
        };
        it.walk().into_iter().map(|(path, node)| (path, content(node))).collect()
    };
    assert_eq!(contents(&again), contents(&archive));
}

/// Facts that change while the machine is read are read once, and so they are
/// the same too: only what no file tells is left out of the comparison.
#[test]
fn what_was_gathered_reads_as_this_machine_did() {
    let live = Root::gathering().expect("this machine");
    let mut ours = purlin_drivers::inventory(&live);
    for sampler in Sampler::ALL {
        purlin_drivers::sample(sampler, &live);
    }
    let packed = live.gathered().pack("box", Vec::new()).expect("a tar");
    let root = Root::from(Archive::unpack(packed.as_slice()).expect("our own tar"));
    let mut theirs = purlin_drivers::inventory(&root);
    // Permissions are not part of a dump.
    ours.problems.clear();
    theirs.problems.clear();
    let json = |it: &Inventory| serde_json::to_value(it).expect("JSON");
    let mut differing = Vec::new();
    differ("", &json(&ours), &json(&theirs), &mut differing);
    let told = |path: &String| !NOT_IN_FILES.iter().any(|fact| path.starts_with(fact));
    differing.retain(told);
    assert!(differing.is_empty(), "{differing:?}");
}

/// The paths at which two documents differ.
fn differ(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().for_each(|(key, a)| differ(&format!("{path}/{key}"), a, &b[key], found));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| differ(path, a, b, found));
        }
        _ if ours != theirs => found.push(path.to_owned()),
        _ => {}
    }
}
