//! Which buses a node has, as the configuration wants them.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{
    serial::{BAUD, Form},
    shared::Role,
};
use crate::settings::Refusal;

/// Buses of one node: a chassis has no more sockets.
const MAX_BUSES: usize = 16;
/// Devices of one bus: an RS-485 segment carries no more (TIA-485, 32 unit loads of a
/// quarter each).
const MAX_DEVICES: usize = 128;
/// Addresses of devices (SL 2.2); 0 is everybody.
const MAX_ADDRESS: u32 = 247;

/// A bus as it stands in a document, unchecked.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/desired.proto")]
pub struct Draft {
    pub port: String,
    pub baud: Option<u32>,
    pub form: Option<String>,
    pub role: Option<String>,
    /// Address and map, by the device's name.
    pub devices: BTreeMap<String, (u32, String)>,
}

/// A bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// Its name on this node.
    pub name: String,
    /// Where it is.
    pub port: Port,
    /// Instead of what its first device's map says.
    pub baud: Option<u32>,
    /// The same.
    pub form: Option<Form>,
    /// What this node is on it, if another is wired to it too.
    pub role: Option<Role>,
    /// What is on it.
    pub devices: Vec<Device>,
}

/// Where a bus is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// A serial port's path.
    Serial(String),
    /// A gateway, `host:port`.
    Tcp(String),
    /// A NUT server, `host:port`, which tells its UPSes itself.
    Nut(String),
    /// A GNSS receiver's serial port, by its path.
    Nmea(String),
}

/// A device on a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name on its bus.
    pub name: String,
    /// Its address.
    pub address: u8,
    /// The name of its map.
    pub map: String,
}

/// Checks every bus; `maps` are those that there are.
pub fn check(
    drafts: &BTreeMap<String, Draft>,
    maps: &[&str],
    refusals: &mut Vec<Refusal>,
) -> Vec<Bus> {
    let mut refuse = |path: String, value: String, limit: String, hint: &str| {
        refusals.push(Refusal { path, value, limit, hint: hint.into() });
    };
    if drafts.len() > MAX_BUSES {
        let (value, limit) = (drafts.len().to_string(), format!("at most {MAX_BUSES}"));
        refuse("rack.buses".into(), value, limit, "put more devices on each bus");
    }
    let mut buses = Vec::new();
    for (name, draft) in drafts {
        let path = format!("rack.buses.{name}");
        let port = port(&draft.port);
        if port.is_none() {
            refuse(
                format!("{path}.port"),
                draft.port.clone(),
                "/dev/…, tcp://HOST:PORT, nut://HOST:PORT or nmea:///dev/…".into(),
                "name the port under /dev/serial/by-path: that stays with its socket",
            );
        }
        if let Some(baud) = draft.baud.filter(|baud| !BAUD.contains(baud)) {
            let limit = format!("{} to {}", BAUD.start(), BAUD.end());
            refuse(format!("{path}.baud"), baud.to_string(), limit, "it is in bits a second");
        }
        let form = match draft.form.as_deref().map(str::parse::<Form>) {
            Some(Err(_)) => {
                let value = draft.form.clone().unwrap_or_default();
                let limit = "one of 8N1, 8N2, 8E1, 8E2, 8O1, 8O2".into();
                refuse(format!("{path}.form"), value, limit, "data bits, parity, stop bits");
                None
            }
            form => form.and_then(Result::ok),
        };
        let role = match draft.role.as_deref().map(str::parse::<Role>) {
            Some(Err(())) => {
                let value = draft.role.clone().unwrap_or_default();
                let hint = "of two nodes on one bus one owns it, and the other stands by";
                refuse(format!("{path}.role"), value, "owner or standby".into(), hint);
                None
            }
            role => role.and_then(Result::ok),
        };
        if role.is_some() && !matches!(port, Some(Port::Serial(_)) | None) {
            let hint = "who speaks is told by listening, which only a serial line lets";
            refuse(format!("{path}.role"), draft.port.clone(), "for a bus of /dev/…".into(), hint);
        }
        let tells_itself = match port {
            Some(Port::Nut(_)) => Some("a NUT server tells itself which UPSes it serves"),
            Some(Port::Nmea(_)) => Some("a GNSS receiver is alone on its port"),
            _ => None,
        };
        if let Some(hint) = tells_itself {
            if !draft.devices.is_empty() {
                let (value, limit) = (draft.devices.len().to_string(), "none".into());
                refuse(format!("{path}.devices"), value, limit, hint);
            }
        } else if !(1..=MAX_DEVICES).contains(&draft.devices.len()) {
            let (value, limit) = (draft.devices.len().to_string(), format!("1 to {MAX_DEVICES}"));
            refuse(format!("{path}.devices"), value, limit, "a bus is read for its devices");
        }
        let mut devices: Vec<Device> = Vec::new();
        for (device, (address, map)) in &draft.devices {
            let path = format!("{path}.devices.{device}");
            let taken = devices.iter().find(|other| u32::from(other.address) == *address);
            if let Some(other) = taken {
                let hint = "two devices at one address answer at once, and neither is heard";
                let limit = format!("another than that of {}", other.name);
                refuse(format!("{path}.address"), address.to_string(), limit, hint);
            } else if !(1..=MAX_ADDRESS).contains(address) {
                let limit = format!("1 to {MAX_ADDRESS}");
                refuse(format!("{path}.address"), address.to_string(), limit, "0 is everybody");
            }
            if !maps.contains(&map.as_str()) {
                let limit = format!("one of {}", maps.join(", "));
                refuse(format!("{path}.map"), map.clone(), limit, "`purlin driver list` has them");
            }
            let address = u8::try_from(*address).unwrap_or_default();
            devices.push(Device { name: device.clone(), address, map: map.clone() });
        }
        if let Some(port) = port {
            let (name, baud) = (name.clone(), draft.baud);
            buses.push(Bus { name, port, baud, form, role, devices });
        }
    }
    buses
}

fn port(text: &str) -> Option<Port> {
    let printable = text.len() <= 255 && text.chars().all(|c| c.is_ascii_graphic());
    let address = |address: &str| {
        let (host, port) = address.rsplit_once(':')?;
        let port = port.parse::<u16>().is_ok_and(|port| port != 0);
        (printable && !host.is_empty() && port).then(|| address.into())
    };
    let path = |path: &str| (printable && path.starts_with("/dev/")).then(|| path.into());
    match text.split_once("://") {
        Some(("tcp", rest)) => address(rest).map(Port::Tcp),
        Some(("nut", rest)) => address(rest).map(Port::Nut),
        Some(("nmea", rest)) => path(rest).map(Port::Nmea),
        _ => path(text).map(Port::Serial),
    }
}

impl core::fmt::Display for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Port::Serial(path) => f.write_str(path),
            Port::Tcp(address) => write!(f, "tcp://{address}"),
            Port::Nut(address) => write!(f, "nut://{address}"),
            Port::Nmea(path) => write!(f, "nmea://{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn bus(port: &str, devices: &[(&str, u32, &str)]) -> Draft {
        let devices = devices.iter().map(|&(name, at, map)| (name.into(), (at, map.into())));
        Draft { port: port.into(), devices: devices.collect(), ..Draft::default() }
    }

    #[test]
    fn every_reason_is_told_at_once() {
        let mut drafts = BTreeMap::new();
        let devices = [("a", 0, "x"), ("b", 7, "psu"), ("c", 7, "psu")];
        let shelf = Draft { baud: Some(300), form: Some("7E1".into()), ..bus("ttyUSB0", &devices) };
        drafts.insert("shelf".into(), shelf);
        drafts.insert("empty".into(), bus("tcp://gateway:0", &[]));
        let ups = bus("nut://hall:3493", &[("x", 1, "psu")]);
        drafts.insert("ups".into(), Draft { role: Some("owner".into()), ..ups });
        let both = Draft { role: Some("both".into()), ..bus("/dev/ttyS2", &[("x", 1, "psu")]) };
        drafts.insert("both".into(), both);
        drafts.insert("time".into(), bus("nmea://ttyS1", &[]));
        let mut refusals = Vec::new();
        check(&drafts, &["psu", "ups"], &mut refusals);
        let lines: Vec<_> = (refusals.iter())
            .map(|it| format!("{}: {} (may be {}; {})", it.path, it.value, it.limit, it.hint))
            .collect();
        expect![[r#"
            rack.buses.both.role: both (may be owner or standby; of two nodes on one bus one owns it, and the other stands by)
            rack.buses.empty.port: tcp://gateway:0 (may be /dev/…, tcp://HOST:PORT, nut://HOST:PORT or nmea:///dev/…; name the port under /dev/serial/by-path: that stays with its socket)
            rack.buses.empty.devices: 0 (may be 1 to 128; a bus is read for its devices)
            rack.buses.shelf.port: ttyUSB0 (may be /dev/…, tcp://HOST:PORT, nut://HOST:PORT or nmea:///dev/…; name the port under /dev/serial/by-path: that stays with its socket)
            rack.buses.shelf.baud: 300 (may be 1200 to 921600; it is in bits a second)
            rack.buses.shelf.form: 7E1 (may be one of 8N1, 8N2, 8E1, 8E2, 8O1, 8O2; data bits, parity, stop bits)
            rack.buses.shelf.devices.a.address: 0 (may be 1 to 247; 0 is everybody)
            rack.buses.shelf.devices.a.map: x (may be one of psu, ups; `purlin driver list` has them)
            rack.buses.shelf.devices.c.address: 7 (may be another than that of b; two devices at one address answer at once, and neither is heard)
            rack.buses.time.port: nmea://ttyS1 (may be /dev/…, tcp://HOST:PORT, nut://HOST:PORT or nmea:///dev/…; name the port under /dev/serial/by-path: that stays with its socket)
            rack.buses.time.devices: 0 (may be 1 to 128; a bus is read for its devices)
            rack.buses.ups.role: nut://hall:3493 (may be for a bus of /dev/…; who speaks is told by listening, which only a serial line lets)
            rack.buses.ups.devices: 1 (may be none; a NUT server tells itself which UPSes it serves)"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn a_bus_is_a_port_or_a_gateway() {
        let mut drafts = BTreeMap::new();
        drafts.insert("a".into(), bus("/dev/serial/by-path/pci-0", &[("x", 200, "psu")]));
        drafts.insert("b".into(), bus("tcp://10.0.0.7:502", &[("x", 1, "psu")]));
        drafts.insert("c".into(), bus("nut://127.0.0.1:3493", &[]));
        drafts.insert("d".into(), bus("nmea:///dev/ttyS1", &[]));
        let mut refusals = Vec::new();
        let buses = check(&drafts, &["psu"], &mut refusals);
        assert_eq!(refusals, []);
        let ports: Vec<_> = buses.iter().map(|bus| bus.port.to_string()).collect();
        assert_eq!(
            ports,
            [
                "/dev/serial/by-path/pci-0",
                "tcp://10.0.0.7:502",
                "nut://127.0.0.1:3493",
                "nmea:///dev/ttyS1"
            ]
        );
    }
}
