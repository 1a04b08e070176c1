//! Network interfaces: small machines made up for one trait each, interfaces
//! made in a network namespace of the test's own, and this machine compared
//! with `ip` and `ethtool`.

mod tree;

use std::{collections::BTreeMap, os::fd::AsRawFd, process::Command, time::Duration};

use expect_test::expect;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};
use purlin_core::inventory::{Nic, Problem};
use purlin_drivers::{Root, lldp::Listener, nic};
use serde_json::Value;

use tree::{Tree, check};

const CARD: &str = "sys/devices/pci0000:40/0000:40:01.0/0000:41:00.0";
const FUNCTIONS: &str = "sys/bus/pci/devices";

impl Tree {
    /// A PCI function with node 1.
    fn function(&self, dir: &str) -> &Self {
        let address = dir.rsplit('/').next().expect("an address");
        self.files(dir, &[("numa_node", "1")])
            .link(&format!("{FUNCTIONS}/{address}"), &format!("../../../{}", &dir[4..]))
    }

    /// An interface under `parent`, with its index and more files.
    fn interface(&self, parent: &str, name: &str, index: u32, files: &[(&str, &str)]) -> &Self {
        let dir = format!("{parent}/net/{name}");
        let index = index.to_string();
        self.files(&dir, &[("ifindex", &index), ("iflink", &index), ("type", "1")]);
        self.files(&dir, files);
        self.link(&format!("sys/class/net/{name}"), &format!("../../{}", &dir[4..]));
        if !parent.contains("/virtual") {
            self.link(&format!("{dir}/device"), "../..");
        }
        self
    }
}

fn read(tree: &Tree) -> BTreeMap<String, Nic> {
    let (nics, problems) = nic::read(&tree.root());
    assert_eq!(problems, Vec::<Problem>::new());
    nics.expect("the interfaces").into_iter().map(|nic| (nic.name.clone(), nic)).collect()
}

const VIRTUAL: &str = "sys/devices/virtual";

#[test]
fn physical_is_what_has_a_device_whatever_its_name() {
    let tree = Tree::new();
    tree.function(CARD)
        .interface(CARD, "veth0", 1, &[])
        .interface(VIRTUAL, "eth0", 2, &[("iflink", "9")])
        .interface(VIRTUAL, "eth1", 3, &[("bridge/bridge_id", "8000.0")])
        .interface(VIRTUAL, "eth2", 4, &[("bonding/mode", "802.3ad 4")])
        .interface(VIRTUAL, "eth3", 5, &[("uevent", "INTERFACE=eth3\nDEVTYPE=vxlan")])
        .interface(VIRTUAL, "eth4", 6, &[("tun_flags", "0x1002")])
        .interface(VIRTUAL, "eth5", 7, &[("iflink", "1"), ("lower_veth0/x", "")])
        .interface(VIRTUAL, "eth6", 8, &[])
        .interface(VIRTUAL, "eth7", 9, &[("type", "772")])
        .file("proc/net/vlan/eth5", "eth5  VID: 5\n")
        .file("sys/class/net/bonding_masters", "eth2\n");
    let kinds: Vec<String> =
        read(&tree).into_values().map(|nic| format!("{} {}", nic.name, nic.kind)).collect();
    check(
        &kinds,
        expect![[
            r#"["eth0 veth", "eth1 bridge", "eth2 bond", "eth3 vxlan", "eth4 tun", "eth5 vlan", "eth6 virtual", "eth7 loopback", "veth0 physical"]"#
        ]],
    );
    let physical: Vec<String> =
        read(&tree).into_values().filter(|nic| nic.physical).map(|nic| nic.name).collect();
    assert_eq!(physical, ["veth0"]);
}

#[test]
fn a_representor_stands_for_a_function_and_the_uplink_is_the_port() {
    let tree = Tree::new();
    let port = |name| [("phys_switch_id", "c2f1"), ("phys_port_name", name)];
    tree.function(CARD)
        .interface(CARD, "ens1np0", 1, &port("p0"))
        .interface(CARD, "ens1npf0vf3", 2, &port("pf0vf3"))
        .interface(CARD, "en1", 3, &port("c1pf0sf88"));
    let ports: Vec<_> = read(&tree)
        .into_values()
        .map(|nic| {
            let port = nic.port.expect("a port");
            (nic.name, nic.kind, nic.physical, port.pf, port.vf, port.sf)
        })
        .collect();
    check(
        &ports,
        expect![[
            r#"[("en1", "representor", false, Some(0), None, Some(88)), ("ens1np0", "physical", true, None, None, None), ("ens1npf0vf3", "representor", false, Some(0), Some(3), None)]"#
        ]],
    );
}

#[test]
fn functions_know_each_other() {
    let tree = Tree::new();
    let vf = "sys/devices/pci0000:40/0000:40:01.0/0000:41:00.5";
    tree.function(CARD)
        .function(vf)
        .files(CARD, &[("sriov_totalvfs", "8"), ("sriov_numvfs", "2")])
        .link(&format!("{CARD}/virtfn0"), "../0000:41:00.4")
        .link(&format!("{CARD}/virtfn1"), "../0000:41:00.5")
        .link(&format!("{vf}/physfn"), "../0000:41:00.0")
        .interface(CARD, "pf", 1, &[])
        .interface(vf, "vf", 2, &[]);
    let nics = read(&tree);
    let sriov = nics["pf"].sriov.as_ref().expect("virtual functions");
    assert_eq!((sriov.total, sriov.enabled), (8, Some(2)));
    let vfs: Vec<_> = sriov.vfs.iter().map(|vf| (vf.index, vf.pci.as_deref())).collect();
    assert_eq!(vfs, [(0, Some("0000:41:00.4")), (1, Some("0000:41:00.5"))]);
    let of = nics["vf"].vf_of.as_ref().expect("a physical function");
    assert_eq!((of.pci.as_str(), of.index), ("0000:41:00.0", Some(1)));
    assert_eq!((&nics["pf"].vf_of, &nics["vf"].sriov), (&None, &None));
}

#[test]
fn a_virtio_nic_has_the_node_and_the_interrupts_of_its_function() {
    let tree = Tree::new();
    let virtio = format!("{CARD}/virtio0");
    tree.function(CARD).interface(&virtio, "eth0", 1, &[]);
    tree.node(0, "0-3", 1024, "10 20").node(1, "4-7", 1024, "20 10");
    for (irq, cpus) in [(30, "5"), (31, "0"), (32, "0-7"), (33, "")] {
        tree.file(&format!("{CARD}/msi_irqs/{irq}"), "msix\n")
            .file(&format!("proc/irq/{irq}/effective_affinity_list"), format!("{cpus}\n"))
            .file(&format!("proc/irq/{irq}/node"), "1\n");
    }
    let nic = &read(&tree)["eth0"];
    assert_eq!((nic.pci.as_deref(), nic.node), (Some("0000:41:00.0"), Some(1)));
    assert_eq!((nic.irqs.len(), nic.irqs_off_node), (4, Some(1)));
    assert_eq!(nic.irqs[0].node, Some(1));

    // What one interrupt does not tell, the count can't.
    tree.file(&format!("{CARD}/msi_irqs/34"), "msix\n");
    assert_eq!(read(&tree)["eth0"].irqs_off_node, None);
}

#[test]
fn a_function_may_have_rdma_and_a_clock() {
    let tree = Tree::new();
    let port = |number: u32, layer, state| {
        let dir = format!("{CARD}/infiniband/mlx5_0/ports/{number}");
        tree.files(&dir, &[("link_layer", layer), ("state", state)]);
    };
    port(1, "InfiniBand", "1: DOWN");
    port(2, "Ethernet", "4: ACTIVE");
    tree.function(CARD)
        .files(&format!("{CARD}/infiniband_verbs/uverbs7"), &[("ibdev", "mlx5_0")])
        .files(&format!("{CARD}/ptp/ptp3"), &[("clock_name", "mlx5_ptp")])
        .interface(
            CARD,
            "ens1",
            1,
            &[("dev_port", "1"), ("queues/rx-0/x", ""), ("queues/tx-0/x", "")],
        );
    let nic = &read(&tree)["ens1"];
    check(
        &(&nic.rdma, &nic.ptp, &nic.queues),
        expect![[
            r#"([Rdma { name: "mlx5_0", uverbs: Some("uverbs7"), link_layer: Some("Ethernet"), state: Some("ACTIVE") }], Some(Ptp { device: "ptp3", clock: Some("mlx5_ptp") }), Some(Queues { rx: Some(1), tx: Some(1), combined: None, rx_max: None, tx_max: None, combined_max: None }))"#
        ]],
    );
}

#[test]
fn a_link_tells_its_state_and_its_errors() {
    let tree = Tree::new();
    let up = [
        ("carrier", "1"),
        ("duplex", "full"),
        ("speed", "25000"),
        ("carrier_down_count", "3"),
        ("statistics/rx_crc_errors", "17"),
    ];
    // What a kernel shows of a link that has no signal.
    let down = [("carrier", "0"), ("duplex", "unknown"), ("speed", "-1")];
    tree.function(CARD).interface(CARD, "up", 1, &up).interface(CARD, "down", 2, &down);
    let nics = read(&tree);
    let nic = &nics["up"];
    assert_eq!((nic.carrier, nic.duplex.as_deref()), (Some(true), Some("full")));
    assert_eq!((nic.speed_mbit, nic.carrier_down_count), (Some(25_000), Some(3)));
    assert_eq!(nic.rx_crc_errors, Some(17));
    let nic = &nics["down"];
    assert_eq!((nic.carrier, &nic.duplex, nic.speed_mbit), (Some(false), &None, None));
}

#[test]
fn what_networkd_heard_is_a_neighbour() {
    let tree = Tree::new();
    let mut kept = (FRAME.len() as u64).to_le_bytes().to_vec();
    kept.extend(FRAME);
    tree.function(CARD).interface(CARD, "ens1", 7, &[]).file("run/systemd/netif/lldp/7", kept);
    let neighbours = &read(&tree)["ens1"].neighbours;
    let told: Vec<_> =
        neighbours.iter().map(|it| (it.chassis.as_str(), it.port.as_str())).collect();
    assert_eq!(told, [("02:00:00:00:00:07", "swp7")]);
}

/// From a switch, for 100 s.
const FRAME: &[u8] = b"\x01\x80\xc2\x00\x00\x0e\x02\0\0\0\0\x07\x88\xcc\
    \x02\x07\x04\x02\0\0\0\0\x07\x04\x05\x05swp7\x06\x02\0\x64\0\0";

/// Says that the test runs in a namespace that it may change.
const INSIDE: &str = "PURLIN_TEST_INSIDE";

/// Runs the test called `test` in network and mount namespaces of its own.
fn in_namespace(test: &str, inside: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let unshare = |flags: &str| {
        let mut command = Command::new("unshare");
        command.arg(flags);
        command
    };
    let may =
        |flags: &&&str| unshare(flags).arg("true").output().is_ok_and(|it| it.status.success());
    let Some(flags) = ["-nm", "-rnm"].iter().find(may) else {
        println!("skipped: no namespace may be made here");
        return;
    };
    let output = unshare(flags)
        .args(["sh", "-c", "mount -t sysfs sysfs /sys && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare");
    let (out, err) = (output.stdout, output.stderr);
    println!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
    assert!(output.status.success(), "it failed in its namespace, see above");
}

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).output().expect("ip").status.success()
}

fn live() -> BTreeMap<String, Nic> {
    let (nics, problems) = nic::read(&Root::live().expect("the live root"));
    assert_eq!(problems, Vec::<Problem>::new());
    nics.expect("the interfaces").into_iter().map(|nic| (nic.name.clone(), nic)).collect()
}

#[test]
fn interfaces_without_hardware_are_told_by_the_kernels_word() {
    in_namespace("interfaces_without_hardware_are_told_by_the_kernels_word", || {
        let mut made = vec![("lo", "loopback")];
        for (name, kind, rest) in [
            ("eth0", "veth", " peer name eth1"),
            ("eth2", "bridge", ""),
            ("eth3", "macvlan", " link eth0"),
            ("eth4", "vxlan", " id 7 dstport 4789"),
            ("eth5", "vlan", " link eth0 id 5"),
            ("eth6", "bond", ""),
            ("eth7", "dummy", ""),
        ] {
            let how = match rest.strip_prefix(" link eth0") {
                Some(rest) => format!("link add link eth0 name {name} type {kind}{rest}"),
                None => format!("link add {name} type {kind}{rest}"),
            };
            if ip(&how) {
                made.push((name, kind));
            } else {
                println!("skipped: this kernel has no {kind}");
            }
        }
        if ip("tuntap add dev eth8 mode tap") {
            made.push(("eth8", "tun"));
        }
        let nics = live();
        for (name, kind) in &made {
            assert_eq!(nics[*name].kind, *kind, "{name}");
            assert!(!nics[*name].physical, "{name}");
        }
        assert!(made.len() > 3, "too little could be made: {made:?}");
        compare_with_ip(&nics);
    });
}

#[test]
fn a_listener_hears_its_neighbour_until_its_time_is_up() {
    in_namespace("a_listener_hears_its_neighbour_until_its_time_is_up", || {
        assert!(ip("link add near type veth peer name far"));
        assert!(ip("link set near up") && ip("link set far up"));
        let near = Nic { physical: true, ..live()["near"].clone() };
        let mut listener = Listener::new().expect("a packet socket");
        assert_eq!(listener.poll(Duration::ZERO), []);
        assert_eq!(listener.join(&[near.clone(), near]), [""; 0]);
        send("far", FRAME);
        send("far", b"\x01\x80\xc2\x00\x00\x0e\x02\0\0\0\0\x07\x88\xcc\x02\x07\x04");

        // The frame went through when `sendto` came back: veth has no queue of
        // its own, but its receiver may run on another CPU.
        let heard = (0..100).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            listener.poll(Duration::from_secs(5)).pop()
        });
        let (name, neighbour) = heard.expect("a neighbour within a second");
        assert_eq!((name.as_str(), neighbour.port.as_str()), ("near", "swp7"));
        assert_eq!(listener.poll(Duration::from_secs(104)).len(), 1);
        assert_eq!(listener.poll(Duration::from_secs(105)), []);
    });
}

fn send(interface: &str, frame: &[u8]) {
    let to = nix::ifaddrs::getifaddrs()
        .expect("the addresses")
        .filter(|it| it.interface_name == interface)
        .find_map(|it| it.address?.as_link_addr().copied())
        .expect("a link address");
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).expect("a socket");
    sendto(socket.as_raw_fd(), frame, &to, MsgFlags::empty()).expect("a frame sent");
}

#[test]
fn this_machine_reads_as_ip_and_ethtool_say() {
    let nics = live();
    compare_with_ip(&nics);
    for nic in nics.values().filter(|nic| nic.physical) {
        compare_with_ethtool(nic);
    }
}

fn compare_with_ip(nics: &BTreeMap<String, Nic>) {
    let Ok(output) = Command::new("ip").args(["-j", "-d", "link"]).output() else {
        println!("skipped: no ip");
        return;
    };
    let links: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    // Others may make and remove interfaces here meanwhile.
    let both = links.iter().filter_map(|link| Some((nics.get(link["ifname"].as_str()?)?, link)));
    let mut compared = 0;
    for (nic, link) in both {
        let name = &nic.name;
        assert_eq!(nic.ifindex.map(u64::from), link["ifindex"].as_u64(), "{name}");
        assert_eq!(nic.mtu.map(u64::from), link["mtu"].as_u64(), "{name}");
        let state = link["operstate"].as_str().map(str::to_lowercase);
        assert_eq!(nic.state, state, "{name}");
        let mac = link["address"].as_str().filter(|mac| *mac != "00:00:00:00:00:00");
        assert_eq!(nic.mac.as_deref(), mac, "{name}");
        if let Some(kind) = link["linkinfo"]["info_kind"].as_str() {
            assert_eq!(nic.kind, kind, "{name}");
        }
        compared += 1;
    }
    assert!(compared > 0, "nothing was compared");
    println!("{compared} interfaces agree with ip");
}

fn ethtool(flag: &str, interface: &str) -> Option<String> {
    let output = Command::new("ethtool").args([flag, interface]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The values after each `name:`, in order.
fn values<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let value = |line: &'a str| line.trim().strip_prefix(name)?.strip_prefix(':').map(str::trim);
    text.lines().filter_map(value).collect()
}

fn compare_with_ethtool(nic: &Nic) {
    let Some(driver) = ethtool("-i", &nic.name) else {
        println!("skipped: no ethtool");
        return;
    };
    let one = |value: &Option<String>| value.clone().unwrap_or_default();
    assert_eq!(values(&driver, "driver"), [one(&nic.driver)]);
    assert_eq!(values(&driver, "version"), [one(&nic.driver_version)]);
    assert_eq!(values(&driver, "firmware-version"), [one(&nic.firmware)]);
    assert_eq!(values(&driver, "bus-info"), [one(&nic.pci)]);
    let permanent = ethtool("-P", &nic.name).expect("ethtool");
    assert_eq!(values(&permanent, "Permanent address"), [one(&nic.permanent_mac)]);

    // The maximum comes first, then the setting; "n/a" where there is none.
    let pair = |max: Option<u32>, now: Option<u32>| {
        [max, now].map(|it| it.map_or("n/a".into(), |it: u32| it.to_string()))
    };
    if let Some(rings) = &nic.rings {
        let told = ethtool("-g", &nic.name).expect("ethtool");
        assert_eq!(values(&told, "RX"), pair(rings.rx_max, rings.rx));
        assert_eq!(values(&told, "TX"), pair(rings.tx_max, rings.tx));
    }
    let queues = nic.queues.as_ref().expect("the queues");
    if queues.combined.is_some() {
        let told = ethtool("-l", &nic.name).expect("ethtool");
        assert_eq!(values(&told, "Combined"), pair(queues.combined_max, queues.combined));
    }
    let told = ethtool("-T", &nic.name).expect("ethtool");
    for what in &nic.timestamping {
        assert!(told.contains(what.as_str()), "{what} is not in {told}");
    }
    println!("{} agrees with ethtool: {nic:#?}", nic.name);
}
