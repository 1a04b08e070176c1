//! What nodes tell each other, and that nobody else may.

use std::net::{SocketAddr, UdpSocket};

use purlin_core::mesh::credential::Revocations;
use purlin_mesh::identity::REVOKED;
use purlin_proto::{
    mesh::{PeerState, Peers},
    v1,
};
use purlin_tests::{Lab, Result, lab::Test, test, wait};

use crate::{
    SOON, free_port,
    rack::{Member, Rack, listener, now, peer},
};

const LIFE: u64 = 30 * 86_400;

pub fn tests() -> [Test; 2] {
    [
        test("a_list_of_revocations_goes_round_by_gossip", 90, revoked),
        test("gossip_from_outside_is_refused_and_counted", 90, outside),
    ]
}

/// A node that only has a tunnel, and knows these.
fn mesh(at: SocketAddr, peers: &[v1::Peer], key: &str) -> v1::Mesh {
    v1::Mesh {
        listeners: vec![listener("tunnel", at, "tunnel")],
        peers: peers.to_vec(),
        discovery_keys: vec![key.repeat(32)],
        ..Default::default()
    }
}

/// Until it sees just these.
fn sees(member: &Member, up: &[&str]) -> Result {
    wait::until(&format!("{} sees {up:?}", member.name), SOON, || {
        let answer = member.node.cli(&["mesh", "peers", "-o", "json"]);
        let peers: Peers = answer.and_then(|it| it.json()).map_err(|e| format!("{e:?}"))?;
        let now = peers.peers.iter().filter(|it| it.state == PeerState::Up);
        let mut now: Vec<_> = now.map(|it| it.node.as_str()).collect();
        now.sort_unstable();
        if now == up { Ok(()) } else { Err(format!("{peers:?}")) }
    })
}

fn revoked(lab: &Lab) -> Result {
    let rack = Rack::new(lab, "r1")?;
    let names = ["a", "b", "c"];
    let at = [free_port()?, free_port()?, free_port()?];
    // A row: a knows of b alone, and b of c.
    let mut members = Vec::new();
    for (n, name) in names.into_iter().enumerate() {
        let mut member = rack.member(name, now(), LIFE)?;
        let next = (n + 1) % 3;
        let peers = [peer(name, at[n]), peer(names[next], at[next])];
        member.start(&mesh(at[n], &peers, "ab"))?;
        members.push(member);
    }
    sees(&members[0], &["b", "c"])?;
    sees(&members[2], &["a", "b"])?;
    let list = Revocations { number: 3, issued: now(), nodes: vec![("z".into(), now())] };
    members[0].write(REVOKED, rack.root.revoke(&list)?)?;
    for member in &members {
        member.status_when(|it| it.identity.as_ref().is_some_and(|it| it.revocations == 3))?;
    }
    // And it is on the disk of each.
    for member in &mut members[1..] {
        member.kill()?;
        member.start_again()?;
        member.status_when(|it| it.identity.as_ref().is_some_and(|it| it.revocations == 3))?;
    }
    Ok(())
}

fn outside(lab: &Lab) -> Result {
    let rack = Rack::new(lab, "r1")?;
    let at = [free_port()?, free_port()?, free_port()?];
    let [a_at, b_at, x_at] = at;
    let (mut a, mut b) = (rack.member("a", now(), LIFE)?, rack.member("b", now(), LIFE)?);
    let both = [peer("a", a_at), peer("b", b_at)];
    a.start(&mesh(a_at, &both, "ab"))?;
    b.start(&mesh(b_at, &both, "ab"))?;
    sees(&a, &["b"])?;
    let refused = |member: &Member| -> Result<u64> {
        Ok(member.status()?.counts.gossip_refused.values().sum())
    };
    let before = refused(&a)?;
    // Whoever has a certificate of the rack and another key, and greets them all the time.
    let mut x = rack.member("x", now(), LIFE)?;
    x.start(&mesh(x_at, &[peer("x", x_at), peer("a", a_at), peer("b", b_at)], "cd"))?;
    wait::until("it is refused", SOON, || match refused(&a) {
        Ok(now) if now >= before + 2 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    x.kill()?;
    // And whoever has nothing, from next to nothing to more than a datagram of gossip.
    let before = refused(&a)?;
    let stranger = UdpSocket::bind("127.0.0.1:0")?;
    for bytes in [&[][..], &[0], &[7; 64], &[0xff; 1400], &[1; 9000]] {
        stranger.send_to(bytes, a_at)?;
    }
    wait::until("all of it is refused", SOON, || match refused(&a) {
        Ok(now) if now >= before + 4 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    println!("{:?}", a.status()?.counts.gossip_refused);
    sees(&a, &["b"])?;
    sees(&b, &["a"])?;
    Ok(())
}
