//! The machine that the guest is: what QEMU is told, and what must be found.
//!
//! Five NUMA nodes, the last without CPUs; expander bridges on nodes 1 and 3 with
//! a NIC and an NVMe each; a BMC, a watchdog, a DIMM as SMBIOS tells it; room for
//! one more CPU, a DIMM and a NIC.

use std::{fs::File, time::Instant};

use purlin_tests::{
    Guest, Lab, Result,
    guest::{OWN, ROOT_BUS},
};

/// Memory of each NUMA node in MiB, all different.
pub const MEMORY_MIB: [u64; 5] = [768, 512, 384, 256, 640];
/// CPUs of each node that has some. CPU 7 is not there at first.
pub const CPUS: [&str; 4] = ["0-1", "2-3", "4-5", "6-7"];
/// The CPUs online at first.
pub const ONLINE: usize = 7;
/// Distances as in the ACPI SLIT.
pub const DISTANCES: [[u8; 5]; 5] = [
    [10, 15, 20, 25, 30],
    [15, 10, 21, 26, 31],
    [20, 21, 10, 16, 32],
    [25, 26, 16, 10, 17],
    [30, 31, 32, 17, 10],
];
/// What the HMAT says of each node, seen from `NEAREST`: latency in nanoseconds.
pub const LATENCY_NS: [u64; 5] = [80, 85, 90, 95, 300];
/// The same: bandwidth in MiB/s.
pub const BANDWIDTH_MIB_S: [u64; 5] = [20480, 19456, 18432, 17408, 5120];
/// The node whose CPUs are nearest to each node's memory.
pub const NEAREST: [usize; 5] = [0, 1, 2, 3, 3];
/// Memory-side cache of node 4, in KiB: direct-mapped, write-back, lines of 64 bytes.
pub const MEMORY_SIDE_CACHE_KIB: u64 = 16384;
/// Address of the e1000e, on node 1.
pub const E1000E: &str = "52:54:00:00:00:01";
/// Address of the virtio NIC, on node 3.
pub const VIRTIO: &str = "52:54:00:00:00:03";
/// Serial number and node of each NVMe.
pub const NVME: [(&str, i64); 2] = [("PURLIN-NVME-1", 1), ("PURLIN-NVME-3", 3)];
/// Virtual functions that the first NVMe may have.
pub const NVME_VFS: u64 = 4;
/// Serial number of the disk that may be plugged in, the drive `hot`.
pub const HOT_DISK: &str = "PURLIN-NVME-HOT";
/// Empty root ports: on node 3, and on the root bus.
pub const SPARE: [&str; 2] = ["spare3", "spare"];

const GIB: u64 = 1 << 30;

/// Boots it.
pub fn boot(lab: &Lab) -> Result<Guest> {
    for serial in NVME.map(|(serial, _)| serial).into_iter().chain([HOT_DISK]) {
        File::create(lab.dir().join(serial))?.set_len(GIB)?;
    }
    let began = Instant::now();
    let guest = Guest::boot(lab, &OWN, &[memory(), devices(lab)].concat())?;
    println!("the guest is up after {:.1} s", began.elapsed().as_secs_f64());
    Ok(guest)
}

fn memory() -> Vec<String> {
    let mut words = Words::default();
    words.add("-machine", "q35,hmat=on");
    words.add("-smp", format!("{ONLINE},maxcpus=8,sockets=2,dies=2,cores=2,threads=1"));
    let total: u64 = MEMORY_MIB.iter().sum();
    words.add("-m", format!("{total}M,slots=4,maxmem=8G"));
    for (node, size) in MEMORY_MIB.iter().enumerate() {
        words.add("-object", format!("memory-backend-ram,id=m{node},size={size}M"));
        let cpus = CPUS.get(node).map(|cpus| format!(",cpus={cpus}")).unwrap_or_default();
        let initiator = NEAREST[node];
        words
            .add("-numa", format!("node,nodeid={node},memdev=m{node}{cpus},initiator={initiator}"));
    }
    for (from, row) in DISTANCES.iter().enumerate() {
        for (to, distance) in row.iter().enumerate() {
            words.add("-numa", format!("dist,src={from},dst={to},val={distance}"));
        }
    }
    for (target, initiator) in NEAREST.iter().enumerate() {
        let entry =
            format!("hmat-lb,initiator={initiator},target={target},hierarchy=memory,data-type");
        words.add("-numa", format!("{entry}=access-latency,latency={}", LATENCY_NS[target]));
        let bandwidth = BANDWIDTH_MIB_S[target];
        words.add("-numa", format!("{entry}=access-bandwidth,bandwidth={bandwidth}M"));
    }
    words.add(
        "-numa",
        format!(
            "hmat-cache,node-id=4,size={MEMORY_SIDE_CACHE_KIB}K,level=1,associativity=direct,\
             policy=write-back,line=64"
        ),
    );
    words.0
}

fn devices(lab: &Lab) -> Vec<String> {
    let mut words = Words::default();
    for (node, bus) in [(1, 32), (3, 64)] {
        let bridge = format!("pxb-pcie,id=pxb{node},bus={ROOT_BUS},bus_nr={bus},numa_node={node}");
        words.add("-device", bridge);
    }
    let ports = [
        ("nic1", "pxb1"),
        ("nvme1", "pxb1"),
        ("nic3", "pxb3"),
        ("nvme3", "pxb3"),
        (SPARE[0], "pxb3"),
        (SPARE[1], ROOT_BUS),
    ];
    for (slot, (port, bus)) in (1..).zip(ports) {
        let link = "x-speed=16,x-width=16";
        words.add(
            "-device",
            format!("pcie-root-port,id={port},bus={bus},chassis=1,slot={slot},{link}"),
        );
    }
    // A hub each: a cable that leads nowhere.
    words.add("-netdev", "hubport,id=n1,hubid=1");
    words.add("-device", format!("e1000e,bus=nic1,netdev=n1,mac={E1000E},romfile="));
    words.add("-netdev", "hubport,id=n3,hubid=3");
    words.add("-device", format!("virtio-net-pci,bus=nic3,netdev=n3,mac={VIRTIO},romfile="));
    for (serial, node) in NVME {
        let file = lab.dir().join(serial);
        let sriov = match node {
            1 => format!(",sriov_max_vfs={NVME_VFS},sriov_vq_flexible=8,sriov_vi_flexible=4"),
            _ => String::new(),
        };
        words.add("-drive", format!("file={},if=none,id=disk{node},format=raw", file.display()));
        words.add("-device", format!("nvme-subsys,id=subsys{node}"));
        words.add(
            "-device",
            format!(
                "nvme,id=controller{node},serial={serial},bus=nvme{node},subsys=subsys{node}{sriov}"
            ),
        );
        words.add("-device", format!("nvme-ns,drive=disk{node},bus=controller{node}"));
    }
    let hot = lab.dir().join(HOT_DISK);
    words.add("-drive", format!("file={},if=none,id=hot,format=raw", hot.display()));
    words.add("-device", "ipmi-bmc-sim,id=bmc");
    words.add("-device", "isa-ipmi-kcs,bmc=bmc");
    words.add("-device", format!("i6300esb,bus={ROOT_BUS}"));
    words.add("-smbios", "type=0,vendor=Truss,version=1.25,date=07/04/2031");
    words.add("-smbios", "type=1,manufacturer=Purlin,product=Bench,version=7,serial=B-0001");
    words.add("-smbios", "type=2,manufacturer=Purlin,product=Board,serial=B-0002");
    words.add("-smbios", "type=3,manufacturer=Purlin,serial=B-0003,asset=A-0003");
    words.add(
        "-smbios",
        "type=17,loc_pfx=SLOT_,bank=BANK_7,manufacturer=Truss,serial=D-0017,asset=A-0017,\
         part=P-3200,speed=3200",
    );
    words.0
}

/// Words of QEMU's command line.
#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.extend([option.to_owned(), value.into()]);
    }
}
