//! Endpoints that nodes offer of themselves: they are reached from other nodes, and only
//! where the document lets them.

use std::{net::SocketAddr, time::Instant};

use purlin_proto::{
    mesh::{Endpoints, OfferAsked, Offered, Offers},
    v1,
};
use purlin_tests::{Lab, Result, ensure, lab::Test, test, wait};

use crate::{
    SOON,
    client::get,
    free_port,
    rack::{Member, Rack, listener, now, peer, route, service},
    upstream::Upstream,
};

const LIFE: u64 = 30 * 86_400;

pub fn tests() -> [Test; 2] {
    [
        test("what_a_node_offers_is_reached_by_the_others_and_gone_with_it", 120, offered),
        test("a_record_that_nobody_of_the_rack_vouches_for_is_refused_and_counted", 90, foreign),
    ]
}

/// Nodes that all name the service `shop` and no endpoint of it; `a` has clients.
struct Trio {
    nodes: [Member; 3],
    meshes: [v1::Mesh; 3],
    web: SocketAddr,
}

impl Trio {
    fn new(lab: &Lab) -> Result<(Self, Rack<'_>)> {
        let rack = Rack::new(lab, "r1")?;
        let names = ["a", "b", "c"];
        let tunnels = [free_port()?, free_port()?, free_port()?];
        let web = free_port()?;
        let shop = v1::Service { endpoints_from: vec!["b".into()], ..service("shop", "http", &[]) };
        let mesh = |n: usize| v1::Mesh {
            listeners: vec![listener("tunnel", tunnels[n], "tunnel")],
            services: vec![shop.clone()],
            // `c` is heard of by gossip alone.
            peers: names
                .into_iter()
                .zip(tunnels)
                .map(|(it, at)| peer(it, at))
                .take(2 + n / 2)
                .collect(),
            discovery_keys: vec!["cd".repeat(32)],
            ..Default::default()
        };
        let mut meshes = [mesh(0), mesh(1), mesh(2)];
        meshes[0].listeners.push(listener("web", web, "http"));
        meshes[0].routes = vec![route("shop", "http", "web")];
        let member = |name| rack.member(name, now(), LIFE);
        let nodes = [member("a")?, member("b")?, member("c")?];
        Ok((Self { nodes, meshes, web }, rack))
    }

    /// Until `a` is answered like that.
    fn gets(&self, status: u16, by: &str) -> Result<Instant> {
        wait::until(&format!("{status} by {by}"), SOON, || {
            let answer = get(self.web, "shop.rack", "/").map_err(|e| format!("{e:?}"))?;
            match answer.status == status && (by.is_empty() || answer.by() == by) {
                true => Ok(Instant::now()),
                false => Err(format!("{answer:?}")),
            }
        })
    }

    fn offers(&self, n: usize) -> Result<Vec<Offered>> {
        Ok(self.nodes[n].node.cli(&["mesh", "offers", "-o", "json"])?.json::<Offers>()?.offers)
    }

    fn offer(&self, n: usize, arguments: &[&str]) -> Result {
        let answer = self.nodes[n].node.cli(&[&["mesh", "offer"], arguments].concat())?;
        ensure!(answer.code == 0, "{answer:?}");
        Ok(())
    }

    fn containers(&self, n: usize, addresses: &[SocketAddr]) -> Result {
        let offer = |at: &SocketAddr| OfferAsked {
            service: "shop".into(),
            address: at.to_string(),
            source: Some("container shop/web-0/app".into()),
            ..Default::default()
        };
        let all: Vec<_> = addresses.iter().map(offer).collect();
        self.nodes[n].hand_over("/v1/offers", &serde_json::to_vec(&all)?)
    }
}

fn offered(lab: &Lab) -> Result {
    let (mut trio, rack) = Trio::new(lab)?;
    let (shop, other, foe) =
        (Upstream::start("shop")?, Upstream::start("other")?, Upstream::start("foe")?);
    for n in 0..3 {
        let mesh = trio.meshes[n].clone();
        trio.nodes[n].start(&mesh)?;
    }
    trio.gets(503, "")?;
    let (at, other_at) = (shop.address.to_string(), other.address.to_string());
    trio.offer(1, &["shop", &at])?;
    let began = Instant::now();
    println!("by hand: reached after {:?}", trio.gets(200, "shop")? - began);
    // What the document doesn't let a node add is not added, and the reason is told.
    trio.offer(2, &["shop", &foe.address.to_string()])?;
    let of_c = wait::until("the offer of c is known to a", SOON, || {
        let offers = trio.offers(0).map_err(|e| format!("{e:?}"))?;
        offers.into_iter().find(|it| it.node == "c").ok_or_else(|| "not yet".into())
    })?;
    let why = of_c.unused.as_deref();
    ensure!(why == Some("the service's endpoints_from does not name the node"), "{of_c:?}");
    // Beside it what a container has, until that is gone.
    trio.containers(1, &[other.address])?;
    trio.offer(1, &["--undo", "shop", &at])?;
    let expected = (format!("b/{other_at}"), "record of b: container shop/web-0/app".to_owned());
    wait::until("a knows the container's alone", SOON, || {
        let shown = trio.nodes[0].node.cli(&["mesh", "endpoints", "-o", "json"]);
        let shown = shown.and_then(|it| it.json::<Endpoints>()).map_err(|e| format!("{e:?}"))?;
        let found = shown.endpoints.into_iter().map(|it| (it.address, it.origin));
        let found: Vec<_> = found.collect();
        if found == [expected.clone()] { Ok(()) } else { Err(format!("{found:?}")) }
    })?;
    trio.gets(200, "other")?;
    let why = trio.nodes[0].node.cli(&["mesh", "why", "http://shop.rack/"])?.stdout;
    ensure!(why.contains("record of b"), "{why}");
    let own = trio.nodes[1].node.cli(&["mesh", "endpoints"])?.stdout;
    ensure!(own.contains("container shop/web-0/app") && !own.contains("record"), "{own}");

    // From cold, with nobody to tell: what was known last is on disk.
    for node in &mut trio.nodes {
        node.kill()?;
    }
    trio.nodes[0].start_again()?;
    let shown: Endpoints = trio.nodes[0].node.cli(&["mesh", "endpoints", "-o", "json"])?.json()?;
    ensure!(shown.endpoints.len() == 1, "{shown:?}");
    trio.nodes[1].start_again()?;
    trio.gets(200, "other")?;
    trio.nodes[2].start_again()?;

    trio.containers(1, &[])?;
    trio.gets(503, "")?;
    // Revoked, its word counts no more.
    trio.offer(1, &["shop", &at, "--weight", "50"])?;
    trio.gets(200, "shop")?;
    let revoked = purlin_core::mesh::credential::Revocations {
        number: 1,
        issued: now(),
        nodes: vec![("b".into(), now() + 60)],
    };
    trio.nodes[0].write(purlin_mesh::identity::REVOKED, rack.root.revoke(&revoked)?)?;
    trio.gets(503, "")?;
    let of_b: Vec<_> = trio.offers(0)?.into_iter().filter(|it| it.node == "b").collect();
    let why: Vec<_> = of_b.iter().map(|it| it.unused.as_deref()).collect();
    ensure!(why == [Some("revoked certificate")], "{of_b:?}");
    ensure!(foe.requests.load(std::sync::atomic::Ordering::Relaxed) == 0, "c was asked");
    Ok(())
}

/// A node of another rack of this name, and one that trusts both and passes on what it says.
fn foreign(lab: &Lab) -> Result {
    let (rack, other) = (Rack::new(lab, "r1")?, Rack::new(lab, "r1")?);
    let names = ["a", "c", "x"];
    let tunnels = [free_port()?, free_port()?, free_port()?];
    let member = |rack: &Rack<'_>, name| rack.member(name, now(), LIFE);
    let [mut a, mut c, mut x] = [member(&rack, "a")?, member(&rack, "c")?, member(&other, "x")?];
    let both = rack.root.certificate_pem() + &other.root.certificate_pem();
    for it in [&c, &x] {
        it.write(purlin_mesh::identity::RACK, &both)?;
    }
    let shop = v1::Service { endpoints_from: vec!["*".into()], ..service("shop", "http", &[]) };
    let all = names.into_iter().zip(tunnels);
    let all: Vec<_> =
        all.map(|(name, at)| (listener("tunnel", at, "tunnel"), peer(name, at))).collect();
    for (member, (tunnel, _)) in [&mut a, &mut c, &mut x].into_iter().zip(&all) {
        member.start(&v1::Mesh {
            listeners: vec![tunnel.clone()],
            services: vec![shop.clone()],
            peers: all.iter().map(|(_, peer)| peer.clone()).collect(),
            discovery_keys: vec!["cd".repeat(32)],
            ..Default::default()
        })?;
    }
    let foe = Upstream::start("foe")?;
    let offer = ["mesh", "offer", "shop", &foe.address.to_string()];
    ensure!(x.node.cli(&offer)?.code == 0, "{offer:?}");
    let endpoints = |of: &Member| -> Result<Endpoints> {
        of.node.cli(&["mesh", "endpoints", "-o", "json"])?.json()
    };
    wait::until("who trusts both believes it", SOON, || match endpoints(&c) {
        Ok(shown) if shown.endpoints.len() == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let refused = |it: &purlin_proto::mesh::Status| {
        it.counts.records_refused.get("foreign certificate").is_some_and(|count| *count > 0)
    };
    a.status_when(refused)?;
    let shown = a.node.cli(&["mesh", "show"])?.stdout;
    ensure!(shown.contains("service record: foreign certificate"), "{shown}");
    ensure!(endpoints(&a)?.endpoints.is_empty(), "it adds nothing");
    let offers: Offers = a.node.cli(&["mesh", "offers", "-o", "json"])?.json()?;
    ensure!(offers.offers.iter().all(|it| it.node != "x"), "{offers:?}");
    ensure!(foe.requests.load(std::sync::atomic::Ordering::Relaxed) == 0, "it was asked");
    Ok(())
}
