//! Network interfaces as rows and sections.

use purlin_core::inventory::{
    AlarmLimits, Fec, Inventory, Lane, LinkModes, Media, Neighbour, Nic, NicSriov, Part, Power,
    Queues, Rdma, Rings, Rss, SwitchPort, Transceiver, Vf,
};

use super::{Row, Section, UNKNOWN, join, or_unknown, plural, row, told, yes_no};

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
        nic.transceiver.as_ref().map(module),
        nic.neighbours.first().map(neighbour),
    ];
    row(Part::Nic, &nic.name, nic.node, join(words))
}

pub(super) fn link_state(nic: &Nic) -> String {
    let state = nic.state.as_deref().unwrap_or("state unknown");
    match nic.speed_mbit {
        Some(mbit) => format!("{state} {}", speed(mbit)),
        None => state.into(),
    }
}

fn speed(mbit: u32) -> String {
    match mbit {
        mbit if mbit >= 1000 && mbit % 1000 == 0 => format!("{} Gbit/s", mbit / 1000),
        mbit => format!("{mbit} Mbit/s"),
    }
}

fn nic_section(nic: &Nic) -> Section {
    let mut facts = Facts(Vec::new());
    facts.add("kind", &nic.kind);
    facts.add("state", link_state(nic));
    facts.add("MAC", told(&nic.mac));
    facts.add("MTU", or_unknown(nic.mtu.map(|mtu| format!("{mtu} B"))));
    facts.maybe("port", nic.port.as_ref().map(switch_port));
    if nic.physical {
        physical(nic, &mut facts);
    }
    Section { title: nic.name.clone(), facts: facts.0 }
}

fn physical(nic: &Nic, facts: &mut Facts) {
    facts.add("permanent MAC", told(&nic.permanent_mac));
    facts.add("carrier", yes_no(nic.carrier));
    facts.add("duplex", told(&nic.duplex));
    facts.add("autonegotiation", yes_no(nic.autoneg));
    facts.maybe("link modes", nic.link_modes.as_ref().map(link_modes));
    facts.maybe("FEC", nic.fec.as_ref().map(fec));
    facts.maybe("link went down", nic.carrier_down_count.map(times));
    facts.maybe("CRC errors", nic.rx_crc_errors);
    facts.add("driver", told(&nic.driver));
    facts.maybe("driver version", nic.driver_version.as_ref());
    facts.add("firmware", told(&nic.firmware));
    facts.add("PCI", nic.pci.clone().unwrap_or_else(|| "none".into()));
    facts.add("node", or_unknown(nic.node));
    facts.add("queues", or_unknown(nic.queues.as_ref().map(queues)));
    facts.add("rings", or_unknown(nic.rings.as_ref().map(rings)));
    facts.maybe("RSS", nic.rss.as_ref().map(rss));
    facts.add("interrupts", interrupts(nic));
    if let Some(sriov) = &nic.sriov {
        virtual_functions(sriov, facts);
    }
    facts.maybe(
        "VF",
        nic.vf_of.as_ref().map(|of| format!("{} of {}", or_unknown(of.index), of.pci)),
    );
    for device in &nic.rdma {
        facts.add("RDMA", rdma(device));
    }
    let clock = nic.ptp.as_ref();
    facts.maybe("PTP clock", clock.map(|it| join([Some(it.device.clone()), it.clock.clone()])));
    facts.maybe("timestamps", Some(nic.timestamping.join(", ")).filter(|all| !all.is_empty()));
    if let Some(it) = &nic.transceiver {
        transceiver(it, facts);
    }
    facts.maybe("module", nic.cage_empty.then_some("none"));
    for it in &nic.neighbours {
        facts.add("neighbour", neighbour_in_full(it));
    }
}

/// The facts of a section. What can't apply to an interface is left out.
struct Facts(Vec<(String, String)>);

impl Facts {
    fn add(&mut self, name: &str, value: impl ToString) {
        self.0.push((name.into(), value.to_string()));
    }

    fn maybe(&mut self, name: &str, value: Option<impl ToString>) {
        self.0.extend(value.map(|value| (name.into(), value.to_string())));
    }
}

fn times(count: u64) -> String {
    if count == 1 { "once".into() } else { format!("{count} times") }
}

fn switch_port(port: &SwitchPort) -> String {
    let stands_for = match (port.pf, port.vf, port.sf) {
        (Some(pf), Some(vf), _) => Some(format!("stands for VF {vf} of PF {pf}")),
        (Some(pf), _, Some(sf)) => Some(format!("stands for subfunction {sf} of PF {pf}")),
        (Some(pf), ..) => Some(format!("stands for PF {pf}")),
        _ => None,
    };
    let name = port.name.clone().unwrap_or_else(|| "name unknown".into());
    join([Some(format!("{name} of switch {}", port.switch)), stands_for])
}

fn link_modes(modes: &LinkModes) -> String {
    match (modes.supported.as_slice(), modes.advertised.as_slice()) {
        (supported, []) => format!("{}; offers none", supported.join(" ")),
        (supported, advertised) if supported == advertised => supported.join(" "),
        (supported, advertised) => {
            format!("{}; offers {}", supported.join(" "), advertised.join(" "))
        }
    }
}

fn fec(fec: &Fec) -> String {
    let configured = match (fec.auto, fec.configured.as_slice()) {
        (Some(true), _) => "the NIC chooses".into(),
        (_, []) => "none configured".into(),
        (_, names) => format!("configured {}", names.join(" ")),
    };
    match &fec.active {
        Some(active) => format!("{active}, {configured}"),
        None => format!("inactive, {configured}"),
    }
}

fn queues(queues: &Queues) -> String {
    let of = |count: Option<u32>, max: Option<u32>, what: &str| {
        let most = max.map(|max| format!(" (at most {max})")).unwrap_or_default();
        let count = count.filter(|count| *count > 0 || max.is_some_and(|max| max > 0))?;
        Some(format!("{count} {what}{most}"))
    };
    join([
        of(queues.combined, queues.combined_max, "combined"),
        of(queues.rx, queues.rx_max, "rx"),
        of(queues.tx, queues.tx_max, "tx"),
    ])
}

fn rings(rings: &Rings) -> String {
    let of = |size: Option<u32>, max: Option<u32>, what: &str| {
        let most = max.map(|max| format!(" (at most {max})")).unwrap_or_default();
        Some(format!("{what} {}{most}", size?))
    };
    join([of(rings.rx, rings.rx_max, "rx"), of(rings.tx, rings.tx_max, "tx")])
}

fn rss(rss: &Rss) -> String {
    let key = if rss.key == 0 { "no key".into() } else { format!("key of {} B", rss.key) };
    let function = rss.function.clone().unwrap_or_else(|| "hash unknown".into());
    format!("{function}, table of {}, {key}", rss.table)
}

fn interrupts(nic: &Nic) -> String {
    let off = match nic.irqs_off_node {
        Some(0) => Some("all handled on its node".into()),
        Some(off) => Some(format!("{off} handled off its node")),
        None => None,
    };
    match nic.irqs.len() {
        0 => UNKNOWN.into(),
        count => join([Some(count.to_string()), off]),
    }
}

fn virtual_functions(sriov: &NicSriov, facts: &mut Facts) {
    facts.add("VFs", format!("{} of {}", or_unknown(sriov.enabled), sriov.total));
    for vf in &sriov.vfs {
        facts.add(&format!("VF {}", vf.index), virtual_function(vf));
    }
}

fn virtual_function(vf: &Vf) -> String {
    let flag = |flag: Option<bool>, yes: &str, no: &str| {
        flag.map(|flag| if flag { yes.to_owned() } else { no.to_owned() })
    };
    let words = [
        vf.pci.as_ref().map(|pci| format!("at {pci}")),
        vf.mac.clone(),
        vf.vlan.filter(|vlan| *vlan > 0).map(|vlan| format!("VLAN {vlan}")),
        flag(vf.trust, "trusted", "not trusted"),
        flag(vf.spoof_check, "spoof check", "no spoof check"),
    ];
    Some(join(words)).filter(|all| !all.is_empty()).unwrap_or_else(|| UNKNOWN.into())
}

fn rdma(device: &Rdma) -> String {
    join([
        Some(device.name.clone()),
        device.link_layer.clone(),
        device.state.clone(),
        device.uverbs.clone(),
    ])
}

/// A module in few words: `QSFP28 100GBASE-LR4 of Example Optics`.
fn module(it: &Transceiver) -> String {
    let what = it.compliance.first().map(|name| format!(" {name}")).unwrap_or_default();
    let by = it.vendor.as_ref().map(|vendor| format!(" of {vendor}")).unwrap_or_default();
    format!("{}{what}{by}", it.form)
}

fn neighbour(it: &Neighbour) -> String {
    let who = it.system_name.as_ref().unwrap_or(&it.chassis);
    format!("to {who} port {}", it.port)
}

fn neighbour_in_full(it: &Neighbour) -> String {
    join([
        Some(neighbour(it).trim_start_matches("to ").into()),
        it.port_description.as_ref().map(|text| format!("\"{text}\"")),
        it.vlan.map(|vlan| format!("VLAN {vlan}")),
        Some(format!("chassis {}", it.chassis)),
        it.system_description.clone(),
        Some(it.addresses.join(" ")).filter(|all| !all.is_empty()),
    ])
}

fn transceiver(it: &Transceiver, facts: &mut Facts) {
    facts.add("module", join([Some(module(it)), it.media.map(media), it.connector.clone()]));
    let revision = it.revision.as_ref().map(|revision| format!("revision {revision}"));
    let serial = it.serial.as_ref().map(|serial| format!("serial {serial}"));
    let made = it.date.as_ref().map(|date| format!("made {date}"));
    let oui = it.oui.as_ref().map(|oui| format!("OUI {oui}"));
    let identity = join([it.part.clone(), revision, serial, made, oui]);
    facts.add("module part", if identity.is_empty() { UNKNOWN.into() } else { identity });
    let mut reach: Vec<String> =
        it.lengths.iter().map(|length| format!("{} m {}", length.metres, length.over)).collect();
    reach.extend(it.wavelength_nm.map(|nm| format!("{nm} nm")));
    reach.extend(it.rate_mbd.map(|rate| format!("{rate} MBd")));
    facts.maybe("module reach", Some(reach.join(", ")).filter(|all| !all.is_empty()));
    measured(it, facts);
    for wrong in &it.wrong_checksums {
        facts.add("module checksum", format!("wrong: {wrong}"));
    }
    for flag in &it.flags {
        facts.add("module alarm", flag);
    }
}

fn media(media: Media) -> String {
    match media {
        Media::Optical => "optical",
        Media::PassiveCopper => "passive copper",
        Media::ActiveCopper => "active copper",
        Media::TwistedPair => "twisted pair",
    }
    .into()
}

fn measured(it: &Transceiver, facts: &mut Facts) {
    let limits = it.thresholds.as_ref();
    let value = |value: f64, unit: &str, limits: Option<&AlarmLimits>| {
        let alarm = limits.map(|it| format!(" (alarm {} to {})", it.low_alarm, it.high_alarm));
        format!("{value} {unit}{}", alarm.unwrap_or_default())
    };
    let celsius = it.temperature_c.map(|c| value(c, "°C", limits.map(|it| &it.temperature_c)));
    let volt = it.supply_v.map(|v| value(v, "V", limits.map(|it| &it.supply_v)));
    facts.maybe("module temperature", celsius);
    facts.maybe("module supply", volt);
    facts.maybe(
        "calibration",
        it.externally_calibrated.map(|it| if it { "external" } else { "internal" }),
    );
    for (number, it) in it.lanes.iter().enumerate() {
        facts.add(&format!("lane {}", number + 1), lane(it));
    }
    let Some(limits) = limits.filter(|_| !it.lanes.is_empty()) else { return };
    let range = |it: &AlarmLimits| format!("{} to {}", it.low_alarm, it.high_alarm);
    let (rx, tx) = (range(&limits.rx_power_mw), range(&limits.tx_power_mw));
    let bias = range(&limits.bias_ma);
    facts.add("lane alarms", format!("rx {rx} mW, tx {tx} mW, bias {bias} mA"));
}

fn lane(lane: &Lane) -> String {
    let power = |what: &str, power: &Option<Power>| {
        let power = power.as_ref()?;
        let dbm = power.dbm.map_or("no light".into(), |dbm| format!("{dbm} dBm"));
        Some(format!("{what} {} mW ({dbm})", power.mw))
    };
    join([
        power("rx", &lane.rx_power),
        power("tx", &lane.tx_power),
        lane.bias_ma.map(|bias| format!("bias {bias} mA")),
    ])
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use purlin_core::inventory::{Length, Thresholds};

    use super::*;

    fn check(nics: Vec<Nic>, expected: Expect) {
        let inventory = Inventory { nics: Some(nics), ..Inventory::default() };
        let mut text = String::new();
        for row in rows(&inventory) {
            text += &format!("{} | {}\n", row.name, row.what);
        }
        for section in sections(&inventory) {
            text += &format!("{}\n", section.title);
            for (name, value) in section.facts {
                text += &format!("  {name}: {value}\n");
            }
        }
        expected.assert_eq(&text);
    }

    fn power(mw: f64, dbm: f64) -> Option<Power> {
        Some(Power { mw, dbm: Some(dbm) })
    }

    #[test]
    fn a_nic_of_which_little_is_known_says_so() {
        let physical =
            Nic { name: "eth0".into(), kind: "physical".into(), physical: true, ..Nic::default() };
        let bridge = Nic { name: "br0".into(), kind: "bridge".into(), ..Nic::default() };
        check(
            vec![physical, bridge],
            expect![[r#"
            eth0 | state unknown
            virtual | 1 interface
            eth0
              kind: physical
              state: state unknown
              MAC: unknown
              MTU: unknown
              permanent MAC: unknown
              carrier: unknown
              duplex: unknown
              autonegotiation: unknown
              driver: unknown
              firmware: unknown
              PCI: none
              node: unknown
              queues: unknown
              rings: unknown
              interrupts: unknown
            br0
              kind: bridge
              state: state unknown
              MAC: unknown
              MTU: unknown
        "#]],
        );
    }

    #[test]
    fn a_nic_of_which_all_is_known_shows_it() {
        let names = |names: &[&str]| names.iter().map(|it| (*it).into()).collect::<Vec<String>>();
        let limits =
            |low_alarm, high_alarm| AlarmLimits { low_alarm, high_alarm, ..AlarmLimits::default() };
        let transceiver = Transceiver {
            form: "SFP".into(),
            vendor: Some("Example".into()),
            part: Some("EX-25G-SR".into()),
            serial: Some("SN1".into()),
            connector: Some("LC".into()),
            media: Some(Media::Optical),
            compliance: names(&["25GBASE-SR"]),
            lengths: vec![Length { over: "OM3".into(), metres: 70.0 }],
            wavelength_nm: Some(850.0),
            rate_mbd: Some(25_750),
            wrong_checksums: names(&["CC_EXT is 0x01, its bytes make 0x02"]),
            temperature_c: Some(31.5),
            lanes: vec![Lane {
                rx_power: Some(Power { mw: 0.0, dbm: None }),
                tx_power: power(0.5012, -3.0),
                bias_ma: Some(7.0),
            }],
            thresholds: Some(Thresholds {
                temperature_c: limits(-5.0, 75.0),
                rx_power_mw: limits(0.05, 1.7),
                ..Thresholds::default()
            }),
            flags: names(&["rx power low alarm"]),
            externally_calibrated: Some(false),
            ..Transceiver::default()
        };
        let neighbour = Neighbour {
            chassis: "02:00:00:00:00:07".into(),
            port: "swp7".into(),
            system_name: Some("leaf-3".into()),
            vlan: Some(100),
            addresses: names(&["192.0.2.9"]),
            ttl_s: 120,
            ..Neighbour::default()
        };
        let nic = Nic {
            name: "ens1".into(),
            kind: "physical".into(),
            physical: true,
            state: Some("up".into()),
            speed_mbit: Some(25_000),
            driver: Some("mlx5_core".into()),
            pci: Some("0000:41:00.0".into()),
            node: Some(1),
            port: Some(SwitchPort {
                switch: "c2f1".into(),
                name: Some("p0".into()),
                ..SwitchPort::default()
            }),
            link_modes: Some(LinkModes {
                supported: names(&["10000baseT/Full", "25000baseSR/Full"]),
                advertised: names(&["25000baseSR/Full"]),
            }),
            fec: Some(Fec {
                auto: Some(false),
                configured: names(&["RS", "BASER"]),
                active: Some("RS".into()),
            }),
            queues: Some(Queues {
                combined: Some(16),
                combined_max: Some(63),
                ..Queues::default()
            }),
            rings: Some(Rings { rx: Some(1024), rx_max: Some(8192), ..Rings::default() }),
            rss: Some(Rss { table: 128, key: 40, function: Some("toeplitz".into()) }),
            irqs: vec![purlin_core::inventory::Irq::default(); 17],
            irqs_off_node: Some(3),
            sriov: Some(NicSriov {
                total: 8,
                enabled: Some(1),
                vfs: vec![Vf {
                    index: 0,
                    pci: Some("0000:41:00.2".into()),
                    vlan: Some(7),
                    trust: Some(false),
                    spoof_check: Some(true),
                    ..Vf::default()
                }],
            }),
            rdma: vec![Rdma { name: "mlx5_0".into(), ..Rdma::default() }],
            transceiver: Some(transceiver),
            neighbours: vec![neighbour],
            ..Nic::default()
        };
        check(
            vec![nic],
            expect![[r#"
            ens1 | mlx5_core, up 25 Gbit/s, at 0000:41:00.0, SFP 25GBASE-SR of Example, to leaf-3 port swp7
            ens1
              kind: physical
              state: up 25 Gbit/s
              MAC: unknown
              MTU: unknown
              port: p0 of switch c2f1
              permanent MAC: unknown
              carrier: unknown
              duplex: unknown
              autonegotiation: unknown
              link modes: 10000baseT/Full 25000baseSR/Full; offers 25000baseSR/Full
              FEC: RS, configured RS BASER
              driver: mlx5_core
              firmware: unknown
              PCI: 0000:41:00.0
              node: 1
              queues: 16 combined (at most 63)
              rings: rx 1024 (at most 8192)
              RSS: toeplitz, table of 128, key of 40 B
              interrupts: 17, 3 handled off its node
              VFs: 1 of 8
              VF 0: at 0000:41:00.2, VLAN 7, not trusted, spoof check
              RDMA: mlx5_0
              module: SFP 25GBASE-SR of Example, optical, LC
              module part: EX-25G-SR, serial SN1
              module reach: 70 m OM3, 850 nm, 25750 MBd
              module temperature: 31.5 °C (alarm -5 to 75)
              calibration: internal
              lane 1: rx 0 mW (no light), tx 0.5012 mW (-3 dBm), bias 7 mA
              lane alarms: rx 0.05 to 1.7 mW, tx 0 to 0 mW, bias 0 to 0 mA
              module checksum: wrong: CC_EXT is 0x01, its bytes make 0x02
              module alarm: rx power low alarm
              neighbour: leaf-3 port swp7, VLAN 100, chassis 02:00:00:00:00:07, 192.0.2.9
        "#]],
        );
    }
}
