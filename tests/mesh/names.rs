//! Names of services, asked for by BIND's `dig`: what there is, what there isn't, and what
//! is none of the mesh's business.

use std::net::{SocketAddr, UdpSocket};

use purlin_tests::{Lab, Need, Result, ensure, lab::Test, test};

use crate::{Mesh, free_port, run};

pub fn tests() -> [Test; 1] {
    let names = test("names_of_services_are_answered_and_no_others", 60, names);
    [names.needs(&[Need::Program("dig")])]
}

/// What `dig` prints of a question; an answer has one line a record.
fn dig(at: SocketAddr, question: &[&str]) -> Result<String> {
    let (server, port) = (format!("@{}", at.ip()), at.port().to_string());
    let all = [&[&server, "-p", &port, "+tries=1", "+time=5"][..], question].concat();
    run("dig", &all)
}

fn names(lab: &Lab) -> Result {
    let mesh = Mesh::standalone(lab)?;
    let (dns, web, any) = (free_port()?, free_port()?, free_port()?);
    let many: Vec<_> = (1..=16).map(|n| format!("\"fd99:1::{n}\"")).collect();
    let service = |name: &str, what: &str, listener: &str| {
        format!(
            "[[mesh.services]]\nname = \"{name}\"\n{what}\n\
             [[mesh.routes]]\nname = \"{name}\"\nlisteners = [\"{listener}\"]\nhostnames = [\"{name}.mesh\"]\n\
             rules = [{{ backend_refs = [{{ name = \"{name}\" }}] }}]\n"
        )
    };
    mesh.put(
        &(format!(
            "[[mesh.listeners]]\nname = \"dns\"\naddress = \"{dns}\"\nprotocol = \"dns\"\n\
             [[mesh.listeners]]\nname = \"web\"\naddress = \"{web}\"\n\
             [[mesh.listeners]]\nname = \"any\"\naddress = \"0.0.0.0:{}\"\n\
             [[mesh.listeners]]\nname = \"in\"\naddress = \"127.0.0.9:{}\"\nzone = \"floor\"\n",
            any.port(),
            web.port()
        ) + &service("shop", "", "web")
            + &service("bank.eu", "", "any")
            + &service("old", "virtual_addresses = [\"10.99.0.7\", \"fd99::7\"]", "web")
            + &service("many", &format!("virtual_addresses = [{}]", many.join(", ")), "web")),
    )?;
    let status = |answer: &str| {
        let line = answer.split("status: ").nth(1).and_then(|it| it.split(',').next());
        line.unwrap_or("none").to_owned()
    };

    ensure!(dig(dns, &["+short", "shop.mesh", "A"])? == "127.0.0.1\n", "the egress listener");
    ensure!(dig(dns, &["+short", "SHOP.Mesh", "A"])? == "127.0.0.1\n", "in any case");
    ensure!(dig(dns, &["+short", "bank.eu.mesh"])? == "127.0.0.1\n", "the address that was asked");
    ensure!(dig(dns, &["+short", "old.mesh"])? == "10.99.0.7\n", "what it declares");
    ensure!(dig(dns, &["+short", "old.mesh", "AAAA"])? == "fd99::7\n", "and of IPv6");
    let found = dig(dns, &["shop.mesh", "A"])?;
    ensure!(status(&found) == "NOERROR" && found.contains("flags: qr aa rd;"), "{found}");
    ensure!(!found.contains("WARNING: Message parser"), "{found}");

    // There, without an address of that kind, or only as a name above others: not unknown.
    for question in
        [["shop.mesh", "AAAA"], ["shop.mesh", "MX"], ["eu.mesh", "A"], ["shop.mesh", "TYPE65"]]
    {
        let answer = dig(dns, &question)?;
        ensure!(status(&answer) == "NOERROR" && answer.contains("ANSWER: 0"), "{answer}");
        ensure!(answer.contains("hostmaster.mesh. 1 3600 600 86400 5"), "{answer}");
    }
    let unknown = dig(dns, &["none.mesh"])?;
    ensure!(status(&unknown) == "NXDOMAIN" && unknown.contains("SOA"), "{unknown}");
    for elsewhere in ["example.org", "mesh.org", "shopmesh"] {
        let answer = dig(dns, &[elsewhere])?;
        ensure!(status(&answer) == "REFUSED" && answer.contains("AUTHORITY: 0"), "{answer}");
    }

    // Sixteen addresses are more than 512 bytes with a long enough question, and dig goes on
    // over TCP by itself.
    let all = dig(dns, &["+short", "many.mesh", "AAAA"])?;
    ensure!(all.lines().count() == 16, "{all}");
    let over_tcp = dig(dns, &["+tcp", "+short", "shop.mesh", "many.mesh", "AAAA"])?;
    ensure!(over_tcp.lines().count() == 17, "both questions: {over_tcp}");

    // What is no query gets nothing, and the next one is answered.
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for garbage in [&b""[..], b"x", &[0xff; 100], &[0; 2000]] {
        socket.send_to(garbage, dns)?;
    }
    ensure!(dig(dns, &["+short", "shop.mesh"])? == "127.0.0.1\n", "it goes on");
    let counts = mesh.status()?.counts;
    ensure!(counts.names.get("no such name") == Some(&1), "{counts:?}");
    ensure!(counts.names.get("refused") == Some(&3), "{counts:?}");
    ensure!(counts.names.get("malformed") == Some(&1), "{counts:?}");
    Ok(())
}
