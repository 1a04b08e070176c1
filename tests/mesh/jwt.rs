//! Tokens: who shows a good one gets through, on the node that he comes to and on the one
//! that he asks, and nobody else does. They are issued by PyJWT (`issuer.py`).

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use purlin_proto::{mesh::Why, v1};
use purlin_tests::{Lab, Need, Result, ensure, lab::Test, process::Process, test};
use serde_json::{Value, json};

use crate::{
    Mesh, SOON,
    client::{Answer, Connection},
    free_port,
    interop::{client, python, server},
    rack::now,
    tunnel::Pair,
    upstream::Upstream,
};

pub fn tests() -> Vec<Test> {
    let all = [
        test("a_request_needs_a_token_that_its_issuer_has_signed", 120, needed),
        test("keys_rotate_by_a_document_and_nobody_is_refused", 120, rotated),
        test("a_token_is_looked_at_again_by_the_node_that_is_asked", 120, through),
        test("grpc_clients_are_told_of_tokens_by_their_statuses", 120, grpc),
    ];
    all.into_iter().map(|it| it.needs(&[Need::Is(no_issuer)])).collect()
}

fn no_issuer() -> Option<String> {
    let script = "import grpc, jwt, cryptography";
    let tried = Command::new(python()).args(["-c", script]).output();
    let here = tried.is_ok_and(|output| output.status.success());
    (!here).then(|| "no PyJWT and grpcio: start it with ./tests/run mesh".to_owned())
}

/// Who issues tokens.
struct Issuer {
    _process: Process,
    stream: Mutex<BufReader<UnixStream>>,
}

const ISSUER: &str = "https://id.example/realms/plant";

impl Issuer {
    fn start() -> Result<Self> {
        let mut command = Command::new(python());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh/issuer.py"));
        let (ours, its) = UnixStream::pair()?;
        ours.set_read_timeout(Some(SOON))?;
        command.stdin(OwnedFd::from(its.try_clone()?)).stdout(OwnedFd::from(its));
        let process = Process::start(&mut command)?;
        Ok(Self { _process: process, stream: Mutex::new(BufReader::new(ours)) })
    }

    fn ask(&self, asked: &Value) -> Result<String> {
        let mut stream = self.stream.lock().map_err(|_| "a panic before")?;
        writeln!(stream.get_mut(), "{asked}")?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        ensure!(!line.is_empty(), "nothing for {asked}");
        Ok(line.trim_end().to_owned())
    }

    fn jwks(&self, keys: &[&str]) -> Result<String> {
        self.ask(&json!({ "jwks": keys }))
    }

    fn token(&self, key: &str, claims: Value) -> Result<String> {
        self.ask(&json!({ "key": key, "claims": claims }))
    }
}

/// As they should be, less what stands in the other.
fn claims(other: Value) -> Value {
    let now = now();
    let mut claims = json!({
        "iss": ISSUER, "aud": ["shop", "other"], "sub": "ada", "iat": now, "nbf": now,
        "exp": now + 600, "scope": "orders.read orders.write",
    });
    for (name, value) in other.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    claims
}

/// A shop where orders are for whoever may read them, and all else is for everybody.
fn shop(at: SocketAddr, endpoint: SocketAddr, jwks: &str) -> String {
    format!(
        "[[mesh.jwt_issuers]]\nname = \"plant\"\nissuer = \"{ISSUER}\"\naudiences = [\"shop\"]\n\
         jwks = '''{jwks}'''\n\
         [[mesh.listeners]]\nname = \"web\"\naddress = \"{at}\"\nzone = \"floor\"\n\
         [[mesh.services]]\nname = \"shop\"\nendpoints = [{{ address = \"{endpoint}\" }}]\n\
         [[mesh.routes]]\nname = \"shop\"\nlisteners = [\"web\"]\nzones = [\"floor\"]\n\
         [[mesh.routes.rules]]\nbackend_refs = [{{ name = \"shop\" }}]\n\
         [[mesh.routes.rules]]\nmatches = [{{ path = {{ value = \"/orders\" }} }}]\n\
         jwt = {{ issuers = [\"plant\"], claims = [{{ name = \"scope\", values = [\"orders.read\"] }}] }}\n\
         backend_refs = [{{ name = \"shop\" }}]\n"
    )
}

fn get(at: SocketAddr, token: &str) -> Result<Answer> {
    let head = format!("GET /orders HTTP/1.1\r\nHost: shop.rack\r\nAuthorization: Bearer {token}");
    Ok(Connection::open(at)?.send(&format!("{head}\r\n\r\n"))?)
}

fn challenge(answer: &Answer) -> &str {
    let named = answer.head.lines().find_map(|it| it.strip_prefix("www-authenticate: "));
    named.unwrap_or_default()
}

fn needed(lab: &Lab) -> Result {
    let (upstream, issuer) = (Upstream::start("shop")?, Issuer::start()?);
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    let keys = ["ES256-1", "ES384-1", "EdDSA-1", "RS256-1", "RS512-1", "PS256-1", "PS384-1"];
    mesh.put(&shop(at, upstream.address, &issuer.jwks(&keys)?))?;
    ensure!(crate::get(at, "shop.rack", "/public")?.by() == "shop", "a rule without a token");
    for key in keys {
        let token = issuer.token(key, claims(json!({})))?;
        // The second one is known already.
        for _ in 0..2 {
            let answer = get(at, &token)?;
            ensure!((answer.status, answer.by()) == (200, "shop"), "{key}: {answer:?}");
            ensure!(answer.body.contains(&token), "it goes on: {answer:?}");
        }
    }
    let good = issuer.token("ES256-1", claims(json!({})))?;
    let other = |header: &str, claims: Value| {
        let (key, other) = header.split_once('/').unwrap_or((header, ""));
        match other {
            "" => issuer.token(key, claims),
            other => issuer.ask(&json!({ "key": key, "claims": claims, "as": other })),
        }
    };
    let (front, mac) = good.rsplit_once('.').ok_or("no signature")?;
    let (header, payload) = front.split_once('.').ok_or("no header")?;
    let forged = other("ES256-9", claims(json!({ "sub": "eve" })))?;
    let forged_payload = forged.split('.').nth(1).ok_or("no payload")?;
    let critical = json!({ "key": "ES256-1", "claims": claims(json!({})), "header": { "crit": ["x"], "x": 1 } });
    let before = upstream.requests.load(Relaxed);
    for (what, token, error) in [
        (
            "expired",
            other("ES256-1", claims(json!({ "exp": now() - 120 })))?,
            "the token has expired",
        ),
        (
            "early",
            other("ES256-1", claims(json!({ "nbf": now() + 600 })))?,
            "the token is not good yet",
        ),
        (
            "for ever",
            other("ES256-1", claims(json!({ "exp": null })))?,
            "the token is no signed JWT",
        ),
        ("aud", other("ES256-1", claims(json!({ "aud": "bank" })))?, "another audience"),
        (
            "iss",
            other("ES256-1", claims(json!({ "iss": "https://evil.example" })))?,
            "of no issuer",
        ),
        ("kid", other("ES256-2", claims(json!({})))?, "no key of the token's kid"),
        ("none", other("ES256-1/none", claims(json!({})))?, "no key of the token's kid"),
        ("HS256", other("RS256-1/HS256", claims(json!({})))?, "no key of the token's kid"),
        ("RS for PS", other("PS256-1/RS256", claims(json!({})))?, "no key of the token's kid"),
        ("crit", issuer.ask(&critical)?, "the token is no signed JWT"),
        ("payload", format!("{header}.{forged_payload}.{mac}"), "signature is wrong"),
        ("unsigned", format!("{header}.{payload}."), "signature is wrong"),
        ("nonsense", "a.b.c".into(), "the token is no signed JWT"),
        ("none at all", String::new(), "the token is no signed JWT"),
        ("long", format!("{good}{}", "A".repeat(9000)), "the token is no signed JWT"),
    ] {
        let answer = get(at, &token)?;
        let challenge = challenge(&answer);
        ensure!(answer.status == 401 && answer.body.contains(error), "{what}: {answer:?}");
        ensure!(
            challenge.starts_with("Bearer realm=\"mesh\", error=\"invalid_token\", error_desc")
                && challenge.contains(error),
            "{what}: {challenge}"
        );
    }
    for header in ["", "Authorization: Basic YTpi\r\n"] {
        let request = format!("GET /orders HTTP/1.1\r\nHost: shop.rack\r\n{header}\r\n");
        let answer = Connection::open(at)?.send(&request)?;
        let is_plain = challenge(&answer) == "Bearer realm=\"mesh\"";
        ensure!(answer.status == 401 && is_plain, "{answer:?}");
    }
    let twice = format!("Authorization: Bearer {good}\r\n").repeat(2);
    let request = format!("GET /orders HTTP/1.1\r\nHost: shop.rack\r\n{twice}\r\n");
    ensure!(Connection::open(at)?.send(&request)?.status == 401, "two tokens");
    let poor = other("ES256-1", claims(json!({ "scope": "orders.write" })))?;
    let answer = get(at, &poor)?;
    ensure!(answer.status == 403, "{answer:?}");
    ensure!(challenge(&answer).ends_with("error=\"insufficient_scope\""), "{answer:?}");
    ensure!(upstream.requests.load(Relaxed) == before, "none of them got through");

    let counted = mesh.status()?.counts.tokens_refused;
    let count = |why: &str| counted.get(why).copied().unwrap_or_default();
    ensure!(count("missing") == 2 && count("expired") == 1, "{counted:?}");
    ensure!(count("unknown key") == 4 && count("wrong signature") == 2, "{counted:?}");
    ensure!(count("without the claims") == 1, "{counted:?}");
    let shown = mesh.node.cli(&["mesh", "show"])?.stdout;
    ensure!(shown.contains("token: expired"), "{shown}");
    told(&mesh, &good)?;
    let log = mesh.node.log()?;
    ensure!(!log.contains(mac) && !log.contains(&poor), "no token is in the log");
    Ok(())
}

/// `why` says what is needed, and whether it is there.
fn told(mesh: &Mesh<'_>, good: &str) -> Result {
    let why = |header: &str| -> Result<String> {
        let url = "http://shop.rack/orders";
        let answer = mesh.node.cli(&["mesh", "why", url, "-H", header, "-o", "json"])?;
        Ok(answer.json::<Why>()?.outcome)
    };
    let needed = "with a token of plant, scope orders.read";
    let outcome = why(&format!("Authorization: Bearer {good}"))?;
    ensure!(outcome == format!("goes to shop, {needed}"), "{outcome}");
    let outcome = why("Authorization: Bearer a.b.c")?;
    ensure!(outcome.starts_with("answered with 401: the token is no signed JWT"), "{outcome}");
    let outcome = why("X-Other: 1")?;
    ensure!(outcome.starts_with("answered with 401: a token is needed"), "{outcome}");
    ensure!(outcome.ends_with(needed), "{outcome}");
    let routes = mesh.node.cli(&["mesh", "routes"])?.stdout;
    ensure!(routes.contains("token of plant"), "{routes}");
    Ok(())
}

fn rotated(lab: &Lab) -> Result {
    let (upstream, issuer) = (Upstream::start("shop")?, Arc::new(Issuer::start()?));
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&shop(at, upstream.address, &issuer.jwks(&["ES256-1"])?))?;
    let (old, new) =
        (issuer.token("ES256-1", claims(json!({})))?, issuer.token("ES256-2", claims(json!({})))?);
    ensure!(get(at, &new)?.status == 401, "its key is not there yet");
    // Clients with either key that is good at the time, and never stop.
    let (shown, stop) = (Arc::new(Mutex::new(old.clone())), Arc::new(AtomicBool::new(false)));
    let asking = (0..2).map(|_| {
        let (shown, stop) = (shown.clone(), stop.clone());
        thread::spawn(move || {
            let mut wrong = Vec::new();
            let mut done = 0;
            while !stop.load(Relaxed) {
                let token = shown.lock().map(|it| it.clone()).unwrap_or_default();
                match get(at, &token) {
                    Ok(answer) if answer.status == 200 => done += 1,
                    other => wrong.push(format!("{other:?}")),
                }
            }
            (done, wrong)
        })
    });
    let asking: Vec<_> = asking.collect();
    mesh.put(&shop(at, upstream.address, &issuer.jwks(&["ES256-1", "ES256-2"])?))?;
    ensure!(get(at, &new)?.status == 200, "both are good");
    *shown.lock().map_err(|_| "a panic")? = new.clone();
    thread::sleep(crate::rack::SOME_TIME);
    mesh.put(&shop(at, upstream.address, &issuer.jwks(&["ES256-2"])?))?;
    for _ in 0..8 {
        let gone = get(at, &old)?;
        ensure!(gone.status == 401, "what was known of it is forgotten: {gone:?}");
    }
    stop.store(true, Relaxed);
    for client in asking {
        let (done, wrong) = client.join().map_err(|_| "a panic")?;
        ensure!(done > 20 && wrong.is_empty(), "{done} answered, wrong: {wrong:?}");
    }
    // What it has on disk is enough.
    let node = &mesh.node;
    let answer = node.cli(&["config", "show"])?.stdout;
    ensure!(answer.contains("mesh.jwt_issuers.plant"), "{answer}");
    Ok(())
}

fn through(lab: &Lab) -> Result {
    let rack = crate::rack::Rack::new(lab, "r1")?;
    let mut pair = Pair::of(&rack)?;
    let issuer = Issuer::start()?;
    pair.mesh.jwt_issuers = vec![v1::JwtIssuer {
        name: "plant".into(),
        issuer: ISSUER.into(),
        audiences: vec!["shop".into()],
        jwks: issuer.jwks(&["ES256-1"])?,
    }];
    let scope = v1::JwtClaim { name: "scope".into(), values: vec!["orders.read".into()] };
    let path = |value: &str| v1::PathMatch { r#type: None, value: value.into() };
    let anybody = || crate::rack::allow("spiffe://r1/node/*");
    pair.mesh.services[0].allow = vec![
        v1::Allow { paths: vec![path("/public")], ..anybody() },
        v1::Allow {
            paths: vec![path("/orders")],
            jwt: Some(v1::Jwt { issuers: vec!["plant".into()], claims: vec![scope] }),
            ..anybody()
        },
    ];
    pair.start()?;
    let good = issuer.token("ES256-1", claims(json!({})))?;
    let poor = issuer.token("ES256-1", claims(json!({ "scope": "orders" })))?;
    let at = pair.web;
    ensure!(crate::get(at, "shop.rack", "/public")?.by() == "shop", "what needs no token");
    ensure!(crate::get(at, "shop.rack", "/else")?.status == 403, "what no rule opens");
    let without = crate::get(at, "shop.rack", "/orders")?;
    ensure!(without.status == 401, "{without:?}");
    ensure!(challenge(&without) == "Bearer realm=\"mesh\"", "{without:?}");
    for (token, status) in [(&good, 200), (&poor, 403), (&format!("{good}A"), 401)] {
        let answer = get(at, token)?;
        ensure!(answer.status == status, "{status}: {answer:?}");
    }
    let (a, b) = (pair.a.status()?.counts, pair.b.status()?.counts);
    let count = |of: &purlin_proto::mesh::Counts| of.tokens_refused.values().sum::<u64>();
    ensure!((count(&a), count(&b), b.denied) == (0, 3, 1), "{a:?} {b:?}");
    // Cold, by what is on disk.
    pair.b.kill()?;
    pair.b.start_again()?;
    ensure!(get(at, &good)?.status == 200, "after a restart");
    Ok(())
}

fn grpc(lab: &Lab) -> Result {
    let (_server, endpoint) = server(lab, "grpc-server")?;
    let (mesh, issuer) = (Mesh::standalone(lab)?, Issuer::start()?);
    let at = free_port()?;
    let document = shop(at, endpoint, &issuer.jwks(&["ES256-1"])?)
        .replace("name = \"shop\"\nendpoints", "name = \"shop\"\nprotocol = \"h2c\"\nendpoints")
        .replace("name = \"shop\"\nlisteners", "name = \"shop\"\nkind = \"grpc\"\nlisteners")
        .replace("path = { value = \"/orders\" }", "grpc = { service = \"shop.Echo\" }");
    mesh.put(&document)?;
    let good = issuer.token("ES256-1", claims(json!({})))?;
    let poor = issuer.token("ES256-1", claims(json!({ "scope": "orders.write" })))?;
    client("grpc-tokens", at, &[&good, &poor])
}
