//! Connections on their way elsewhere: in network namespaces, with the kernel's packet
//! filter as `purlin mesh nft` asks for it. A client asks a virtual address and gets the
//! service, or asks a server and gets just that; and when the mesh is dead and the rules
//! are gone, connections go as they did before.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use purlin_tests::{Lab, Need, Node, Result, ensure, lab::Test, namespace::Namespace, test};

use crate::{Mesh, upstream::Upstream};

/// Who may listen at no low port, and is not the mesh.
const OTHER: &str = "nobody";

pub fn tests() -> [Test; 2] {
    let needs = ["ip", "nft", "unshare", "nsenter", "setpriv", "curl"].map(Need::Program);
    let needs = [&needs[..], &[Need::Root]].concat();
    [
        test("a_connection_to_a_virtual_address_is_redirected_to_the_service", 90, |lab| {
            intercepted(lab, "redirect")
        })
        .needs(&needs),
        test("a_connection_to_a_virtual_address_is_taken_as_it_is_to_the_service", 90, |lab| {
            intercepted(lab, "tproxy")
        })
        .needs(&needs),
    ]
}

/// A node with a mesh and a service; beside it a client's and a server's, all on their own
/// networks.
struct Rig {
    node: Namespace,
    client: Namespace,
    server: Namespace,
}

fn cable(node: &Namespace, other: &Namespace, n: u8) -> Result {
    let (name, there) = (format!("v{n}"), other.pid());
    node.ip(&["link", "add", &name, "type", "veth", "peer", "name", "eth0", "netns", &there])?;
    for (space, device, host) in [(node, name.as_str(), 1), (other, "eth0", 2)] {
        space.ip(&["addr", "add", &format!("10.78.{n}.{host}/24"), "dev", device])?;
        let six = format!("fd78:{n}::{host}/64");
        space.ip(&["addr", "add", &six, "dev", device, "nodad"])?;
        space.ip(&["link", "set", device, "up"])?;
    }
    other.ip(&["route", "add", "default", "via", &format!("10.78.{n}.1")])?;
    other.ip(&["-6", "route", "add", "default", "via", &format!("fd78:{n}::1")])
}

fn wire() -> Result<Rig> {
    let rig = Rig { node: Namespace::new()?, client: Namespace::new()?, server: Namespace::new()? };
    cable(&rig.node, &rig.client, 1)?;
    cable(&rig.node, &rig.server, 2)?;
    // So that what goes nowhere has a way at all.
    rig.node.ip(&["route", "add", "default", "via", "10.78.2.2"])?;
    rig.node.ip(&["-6", "route", "add", "default", "via", "fd78:2::2"])?;
    let script =
        "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
    let status = rig.node.command("sh").args(["-c", script]).status()?;
    ensure!(status.success(), "forwarding: {status}");
    Ok(rig)
}

/// What the unit runs: the rules of the table, or their end.
fn nft(rig: &Rig, node: &Node, arguments: &[&str]) -> Result<String> {
    let rules = node.cli(&[&["mesh", "nft"], arguments].concat())?;
    ensure!(rules.code == 0, "{rules:?}");
    let mut nft = rig.node.command("nft");
    let mut child = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("no stdin")?.write_all(rules.stdout.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "nft: {status} for\n{}", rules.stdout);
    // What they say has to be done once, for `tproxy`.
    let once = rules.stdout.lines().filter_map(|it| it.strip_prefix("# ip "));
    for line in once {
        rig.node.ip(&line.split(' ').collect::<Vec<_>>())?;
    }
    Ok(rules.stdout)
}

/// What answers at an address, seen from there.
fn curl(command: &mut Command, to: &str) -> Result<String> {
    let url = format!("http://{to}/");
    let output = command.args(["-sS", "-g", "-m", "10", &url]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().next().unwrap_or_default();
    Ok(if output.status.success() { first.into() } else { format!("{}", output.status) })
}

fn from_other(rig: &Rig) -> Command {
    let mut command = rig.node.command("setpriv");
    command.args(["--reuid", OTHER, "--clear-groups", "curl"]);
    command
}

fn intercepted(lab: &Lab, mode: &str) -> Result {
    let rig = wire()?;
    let shop = rig.node.run(|| Upstream::start("shop"))?.join().map_err(|_| "no service")??;
    let far = |address: &'static str| {
        let started = rig.server.run(move || Upstream::start_at("far", address))?;
        started.join().map_err(|_| "no server")?
    };
    let (_four, _six) = (far("10.78.2.2:80")?, far("[fd78:2::2]:80")?);
    let own = rig.node.run(|| Upstream::start_at("own", "10.78.1.1:80"))?;
    let _own = own.join().map_err(|_| "no server")??;

    let mut mesh = Mesh::in_space(lab, &rig.node)?;
    let document = |pass_through: bool| {
        format!(
            "[[mesh.listeners]]\nname = \"all\"\naddress = \"[::]:15001\"\nprotocol = \"tcp\"\n\
             intercept = {{ mode = \"{mode}\", ports = [80, 443, 15001], networks = [\"10.78.0.0/16\", \"fd78:2::/64\"], pass_through = {pass_through} }}\n\
             [[mesh.services]]\nname = \"shop\"\nprotocol = \"tcp\"\nendpoints = [{{ address = \"{}\" }}]\n\
             virtual_addresses = [\"10.99.0.1\", \"fd99::1\"]\n",
            shop.address
        )
    };
    mesh.put(&document(true))?;
    ensure!(curl(&mut rig.client.command("curl"), "10.78.2.2")? == "far", "without rules");
    let rules = nft(&rig, &mesh.node, &[])?;
    for (address, who) in
        [("10.99.0.1", "shop"), ("[fd99::1]", "shop"), ("10.78.2.2", "far"), ("[fd78:2::2]", "far")]
    {
        let answer = curl(&mut rig.client.command("curl"), address)?;
        ensure!(answer == who, "{address} from a client: {answer}\n{rules}");
        let answer = curl(&mut from_other(&rig), address)?;
        ensure!(answer == who, "{address} from this node: {answer}\n{rules}");
    }
    let before = mesh.status()?.counts;
    ensure!(before.connections == 8 && before.unmatched == 0, "each once: {before:?}");
    // Who runs as the mesh does is not taken, or it would ask itself for ever.
    ensure!(curl(&mut rig.node.command("curl"), "10.78.2.2")? == "far", "the mesh's own user");
    ensure!(mesh.status()?.counts.connections == 8, "{:?}", mesh.status()?.counts);
    // Nor what goes to this node itself, though it is in a network that is taken.
    ensure!(curl(&mut rig.client.command("curl"), "10.78.1.1")? == "own", "the node itself");
    ensure!(curl(&mut from_other(&rig), "10.78.1.1")? == "own", "the node itself");
    ensure!(mesh.status()?.counts.connections == 8, "{:?}", mesh.status()?.counts);
    // What comes to the listener itself leads nowhere.
    let direct = curl(&mut rig.client.command("curl"), "10.78.1.1:15001")?;
    ensure!(direct.starts_with("exit status"), "{direct}");
    ensure!(mesh.status()?.counts.unmatched == 1, "{:?}", mesh.status()?.counts);

    // What only has its port in common doesn't, where the kernel tells them apart.
    if mode == "redirect" {
        let answer = curl(&mut rig.client.command("curl"), "10.99.0.1:15001")?;
        ensure!(answer == "shop", "at the listener's port: {answer}");
    }

    let pid = mesh.status()?.pid;
    // Without a way through, only services are reached.
    mesh.put(&document(false))?;
    ensure!(curl(&mut rig.client.command("curl"), "10.99.0.1")? == "shop", "the service");
    let closed = curl(&mut rig.client.command("curl"), "10.78.2.2")?;
    ensure!(closed.starts_with("exit status"), "{closed}");

    // The mesh is dead, and nobody starts another one: what the unit runs then takes the
    // rules away.
    mesh.node.kill()?;
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    let refused = curl(&mut rig.client.command("curl"), "10.78.2.2")?;
    ensure!(refused.starts_with("exit status"), "the rules lead to nobody: {refused}");
    nft(&rig, &mesh.node, &["--remove"])?;
    let left = rig.node.command("nft").args(["list", "ruleset"]).output()?;
    ensure!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
    ensure!(curl(&mut rig.client.command("curl"), "10.78.2.2")? == "far", "as before");
    ensure!(curl(&mut from_other(&rig), "10.78.2.2")? == "far", "as before");
    // Again is no fault.
    nft(&rig, &mesh.node, &["--remove"]).map(drop)
}
