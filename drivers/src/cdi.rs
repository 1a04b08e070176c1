//! What CDI specifications on this node offer to containers: files that drivers' own tools
//! write for container runtimes, read here to know where each device sits.
//!
//! Source: the CDI specification (github.com/cncf-tags/container-device-interface,
//! `SPEC.md`): files `*.json` and `*.yaml` in [`DIRECTORIES`], where the later directory
//! overrides the earlier one and a name that one directory has twice is nobody's. A device
//! file is joined to its PCI function by its number in `/sys/dev`, which the specification
//! tells or a uevent's `DEVNAME` does. Page: `hw-docs/pci.md`.
//!
//! What is in a file is not trusted: it brings names and never a path that is opened
//! outside of `/dev`'s links and `/sys`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use purlin_core::{
    cdi::{GPU_KIND, NIC_VF_KIND, is_name},
    inventory::CdiDevice,
};
use serde_json::Value;

use crate::{pci, probe::Probe};

/// Where runtimes look, in their order.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/run/cdi"];
/// The same, where the latter is not there.
const OLDER: &str = "/var/run/cdi";
/// Files of one directory that are looked at: a vendor has one a kind.
const MAX_FILES: usize = 64;
/// Devices of all files: 16 GPUs cut into seven, each by three names, are a third of it.
const MAX_DEVICES: usize = 1024;
/// Device files of one device, and interfaces: `all` of 16 GPUs has about fifty.
const MAX_EDITS: usize = 128;
/// Links in `/dev` that are followed: udev makes one, an administrator another.
const MAX_LINKS: usize = 4;

/// Every device of every specification but our own.
pub(crate) fn read(probe: &mut Probe<'_>) -> Vec<CdiDevice> {
    let mut all: BTreeMap<Key, Named> = BTreeMap::new();
    for dir in DIRECTORIES {
        let names = probe.names(dir).map(|names| (dir, names));
        let older = |probe: &mut Probe<'_>| Some((OLDER, probe.names(OLDER)?));
        let latter = dir == DIRECTORIES[1];
        let found = if names.is_none() && latter { older(probe) } else { names };
        let Some((dir, names)) = found else { continue };
        all.extend(directory(probe, dir, names));
    }
    // What ours name is read of the hardware itself.
    all.retain(|(kind, _), _| kind != GPU_KIND && kind != NIC_VF_KIND);
    let mut numbers = Numbers::default();
    let left_out = all.len().saturating_sub(MAX_DEVICES);
    if left_out > 0 {
        let most = format!("{left_out} devices of CDI are left out; {MAX_DEVICES} is the most");
        probe.problem(DIRECTORIES[1], most);
    }
    let devices = all.into_iter().take(MAX_DEVICES);
    devices.map(|((kind, name), it)| numbers.place(probe, kind, name, it)).collect()
}

/// What one directory offers. Two files that have the same device contradict each other.
fn directory(probe: &mut Probe<'_>, dir: &str, mut names: Vec<String>) -> BTreeMap<Key, Named> {
    names.retain(|name| Language::of(name).is_some());
    names.sort_unstable();
    if names.len() > MAX_FILES {
        probe.problem(dir, format!("has {} files; only {MAX_FILES} are read", names.len()));
    }
    let (mut all, mut twice) = (BTreeMap::new(), BTreeSet::new());
    for name in names.iter().take(MAX_FILES) {
        let path = format!("{dir}/{name}");
        let Some(text) = probe.text(&path) else { continue };
        match devices(Language::of(name).unwrap_or(Language::Json), &text) {
            Ok(devices) => {
                for (device, it) in devices {
                    if all.insert(device.clone(), it).is_some() {
                        twice.insert((device, path.clone()));
                    }
                }
            }
            Err(why) => probe.problem(&path, why),
        }
    }
    for ((kind, name), path) in twice {
        let what = format!("{kind}={name} is in another file too, so runtimes refuse it");
        probe.problem(&path, what);
        all.remove(&(kind, name));
    }
    all
}

#[derive(Clone, Copy)]
enum Language {
    Json,
    Yaml,
}

impl Language {
    /// Runtimes read no others.
    fn of(file: &str) -> Option<Self> {
        match file.rsplit_once('.')?.1 {
            "json" => Some(Self::Json),
            "yaml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

/// Kind and name.
type Key = (String, String);

/// What a device brings into a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Named {
    files: Vec<DeviceFile>,
    interfaces: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DeviceFile {
    path: String,
    /// `char/195:0`, if the file tells.
    number: Option<String>,
}

/// The devices of one file. It must not panic, whatever the text is.
fn devices(language: Language, text: &str) -> Result<Vec<(Key, Named)>, String> {
    let nonsense = |error: &dyn Display| format!("is no CDI specification: {error}");
    let spec: Value = match language {
        Language::Json => serde_json::from_str(text).map_err(|error| nonsense(&error))?,
        Language::Yaml => serde_saphyr::from_str(text).map_err(|error| nonsense(&error))?,
    };
    let kind = spec["kind"].as_str().filter(|kind| is_kind(kind));
    let kind = kind.ok_or_else(|| nonsense(&"it has no kind VENDOR/CLASS"))?;
    let common = named(&spec["containerEdits"]);
    let list = spec["devices"].as_array().ok_or_else(|| nonsense(&"it has no devices"))?;
    let mut devices = Vec::new();
    for device in list.iter().take(MAX_DEVICES) {
        // Runtimes take a number for its digits.
        let name = match &device["name"] {
            Value::Number(number) => Some(number.to_string()),
            name => name.as_str().map(str::to_owned),
        };
        let name = name.filter(|name| is_name(name));
        let name = name.ok_or_else(|| nonsense(&"a device has no name that is allowed"))?;
        let own = named(&device["containerEdits"]);
        // What all of them bring tells nothing of one, unless it brings nothing else.
        let it = if own == Named::default() { common.clone() } else { own };
        devices.push(((kind.to_owned(), name), it));
    }
    Ok(devices)
}

fn named(edits: &Value) -> Named {
    let list = |key: &str| edits[key].as_array().into_iter().flatten().take(MAX_EDITS);
    let file = |node: &Value| {
        let path = node["hostPath"].as_str().or(node["path"].as_str())?;
        let number = |key: &str| node[key].as_u64();
        let of = if node["type"].as_str() == Some("b") { "block" } else { "char" };
        let number = number("major").zip(number("minor"));
        Some(DeviceFile {
            path: path.to_owned(),
            number: number.map(|(major, minor)| format!("{of}/{major}:{minor}")),
        })
    };
    let interface = |net: &Value| net["hostInterfaceName"].as_str().map(str::to_owned);
    Named {
        files: list("deviceNodes").filter_map(file).collect(),
        interfaces: list("netDevices").filter_map(interface).collect(),
    }
}

/// `vendor.com/class`
fn is_kind(kind: &str) -> bool {
    kind.split_once('/').is_some_and(|(vendor, class)| is_name(vendor) && is_name(class))
}

/// Device files by name, read once and only if any is looked for.
#[derive(Default)]
struct Numbers(Option<BTreeMap<String, String>>);

impl Numbers {
    fn place(&mut self, probe: &mut Probe<'_>, kind: String, name: String, it: Named) -> CdiDevice {
        let mut pci = BTreeSet::new();
        for file in &it.files {
            pci.extend(self.functions(probe, file));
        }
        for interface in it.interfaces.iter().filter(|name| is_name(name)) {
            pci.extend(pci::behind(probe, &format!("/sys/class/net/{interface}")));
        }
        let nodes = it.files.into_iter().map(|file| file.path).collect();
        CdiDevice { kind, name, nodes, interfaces: it.interfaces, pci: pci.into_iter().collect() }
    }

    /// The functions behind a device file; none for one that is no hardware's.
    fn functions(&mut self, probe: &mut Probe<'_>, file: &DeviceFile) -> Vec<String> {
        if let Some(group) = file.path.strip_prefix("/dev/vfio/").filter(|it| is_number(it)) {
            let all = probe.names(&format!("/sys/kernel/iommu_groups/{group}/devices"));
            return all.into_iter().flatten().filter(|it| pci::is_address(it)).collect();
        }
        let number = file.number.clone().or_else(|| self.number(probe, &file.path));
        let at = number.map(|number| format!("/sys/dev/{number}"));
        at.and_then(|at| pci::behind(probe, &at)).into_iter().collect()
    }

    fn number(&mut self, probe: &mut Probe<'_>, path: &str) -> Option<String> {
        let name = device_name(probe, path)?;
        self.0.get_or_insert_with(|| numbers(probe)).get(&name).cloned()
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a path in `/dev` is called there, links followed: `dri/renderD128`.
fn device_name(probe: &mut Probe<'_>, path: &str) -> Option<String> {
    let mut name = path.strip_prefix("/dev/")?.to_owned();
    for _ in 0..MAX_LINKS {
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return None;
        }
        let Ok(target) = probe.root.link_target(&format!("/dev/{name}")) else { break };
        name = match target.strip_prefix('/') {
            Some(absolute) => absolute.strip_prefix("dev/")?.to_owned(),
            None => beside(&name, &target)?,
        };
    }
    Some(name)
}

/// Where a relative link leads.
fn beside(name: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => _ = parts.pop()?,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Every device file that the kernel tells: its name in `/dev`, and its number.
fn numbers(probe: &mut Probe<'_>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for class in ["char", "block"] {
        for number in probe.names(&format!("/sys/dev/{class}")).unwrap_or_default() {
            let uevent = probe.text(&format!("/sys/dev/{class}/{number}/uevent"));
            let name = uevent.as_deref().and_then(|text| {
                text.lines().find_map(|line| line.strip_prefix("DEVNAME=").map(str::to_owned))
            });
            name.map(|name| all.insert(name, format!("{class}/{number}")));
        }
    }
    all
}

/// Reads a specification of either language; for fuzzing.
pub fn parse(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for language in [Language::Json, Language::Yaml] {
        _ = devices(language, &text);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use expect_test::{Expect, expect};
    use purlin_core::inventory::Part;

    use super::*;
    use crate::Root;

    const NPUS: &str = r#"
cdiVersion: 0.6.0
kind: acme.com/npu
containerEdits:
  deviceNodes: [{path: /dev/npuctl}]
devices:
  - name: by-path
    containerEdits: {deviceNodes: [{path: /dev/npu/first}]}
  - name: "1"
    containerEdits: {deviceNodes: [{path: /dev/inside, hostPath: /dev/npu1, type: c, major: 240, minor: 1}]}
  - name: group
    containerEdits: {deviceNodes: [{path: /dev/vfio/vfio}, {path: /dev/vfio/7}]}
  - name: ctl
"#;

    const NIC: &str = r#"{"cdiVersion":"1.1.0","kind":"acme.com/nic","devices":[
        {"name":"p0","containerEdits":{"netDevices":[{"hostInterfaceName":"eth0","name":"e"}]}},
        {"name":"away","containerEdits":{"netDevices":[{"hostInterfaceName":"../eth0"}]}}]}"#;

    /// Two functions with a device file each, a group of one, an interface.
    fn machine(dir: &Path, specs: &[(&str, &str)]) -> Root {
        let file = |path: &str, text: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
            fs::write(path, text).expect("a write");
        };
        let link = |path: &str, to: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
            symlink(to, path).expect("a link");
        };
        for (number, function) in [("240:0", "0000:21:00.0"), ("240:1", "0000:a1:00.0")] {
            let minor = &number[4..];
            let device = format!("devices/pci0000:20/{function}/npu/npu{minor}");
            file(&format!("sys/{device}/uevent"), &format!("MAJOR=240\nDEVNAME=npu{minor}\n"));
            link(&format!("sys/dev/char/{number}"), &format!("../../{device}"));
        }
        link("sys/kernel/iommu_groups/7/devices/0000:a1:00.0", "../../../../devices/x");
        link("sys/class/net/eth0", "../../devices/pci0000:20/0000:22:00.0/net/eth0");
        link("dev/npu/first", "../npu0");
        specs.iter().for_each(|(path, text)| file(path, text));
        Root::dump(dir).expect("a root")
    }

    #[track_caller]
    fn check(specs: &[(&str, &str)], expected: Expect) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = machine(dir.path(), specs);
        let mut probe = Probe::new(Part::Platform, &root);
        let mut lines = Vec::new();
        for it in read(&mut probe) {
            let brings = [vec![it.full_name()], it.nodes, it.interfaces].concat().join(" ");
            let at: String = it.pci.iter().map(|address| format!(" at {address}")).collect();
            lines.push(format!("{brings}{at}\n"));
        }
        for problem in probe.finish() {
            let what: String = problem.what.lines().next().unwrap_or_default().into();
            lines.push(format!("! {}: {what}\n", problem.at));
        }
        expected.assert_eq(&lines.concat());
    }

    #[test]
    fn a_device_is_joined_to_its_function_by_number_name_group_or_interface() {
        check(
            &[("etc/cdi/npu.yaml", NPUS), ("run/cdi/nic.json", NIC)],
            expect![[r#"
                acme.com/nic=away ../eth0
                acme.com/nic=p0 eth0 at 0000:22:00.0
                acme.com/npu=1 /dev/npu1 at 0000:a1:00.0
                acme.com/npu=by-path /dev/npu/first at 0000:21:00.0
                acme.com/npu=ctl /dev/npuctl
                acme.com/npu=group /dev/vfio/vfio /dev/vfio/7 at 0000:a1:00.0
            "#]],
        );
    }

    #[test]
    fn the_later_directory_overrides_and_what_contradicts_itself_is_nobodys() {
        let one = |name: &str, path: &str| {
            format!(
                "kind: a.com/b\ndevices:\n- name: {name}\n  containerEdits: \
                 {{deviceNodes: [{{path: {path}}}]}}\n"
            )
        };
        let (old, new, twice) = (one("x", "/dev/old"), one("x", "/dev/new"), one("7", "/dev/y"));
        check(
            &[
                ("etc/cdi/a.yaml", &old),
                ("run/cdi/a.yaml", &new),
                ("run/cdi/b.yaml", &twice),
                ("run/cdi/c.yaml", &twice),
                ("run/cdi/d.yaml", "kind: [nonsense"),
                ("run/cdi/e.json", "{\"kind\":\"purlin.io/gpu\",\"devices\":[{\"name\":\"0\"}]}"),
                ("run/cdi/f.json", "{\"kind\":\"a.com/c\",\"devices\":[{\"name\":\"-\"}]}"),
                ("run/cdi/read.me", "no specification"),
            ],
            expect![[r#"
                a.com/b=x /dev/new
                ! /run/cdi/d.yaml: is no CDI specification: error: line 1 column 7: unclosed bracket '['
                ! /run/cdi/f.json: is no CDI specification: a device has no name that is allowed
                ! /run/cdi/c.yaml: a.com/b=7 is in another file too, so runtimes refuse it
            "#]],
        );
    }
}
