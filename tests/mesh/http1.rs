//! HTTP/1 to the letter: what an endpoint sends is what a client gets, or a 502; and how
//! bodies go there.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::Command,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use purlin_proto::mesh::Endpoints;
use purlin_tests::{Lab, Need, Result, ensure, lab::Test, test};

use crate::{Mesh, SOON, client::Connection, free_port, listener, plain, upstream::Upstream};

pub fn tests() -> [Test; 5] {
    [
        test("what_an_endpoint_may_say_is_told_and_what_it_may_not_is_502", 60, answers),
        test("bodies_go_through_and_one_that_breaks_off_is_its_senders_fault", 60, bodies),
        test("who_sends_all_before_reading_anything_gets_a_streamed_answer", 60, both_ways),
        test("cookies_that_came_apart_by_http2_go_on_as_one", 60, cookies)
            .needs(&[Need::Program("curl")]),
        test("big_answers_are_the_same_bytes_for_an_independent_client", 60, big)
            .needs(&[Need::Program("curl")]),
    ]
}

/// Of a big answer.
const BIG: usize = 5 << 20;
/// More than the sockets on the way hold.
const MUCH: usize = 48 << 20;

/// What an endpoint sends in answer to `/N`, and then closes.
const SAID: [&str; 20] = [
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n",
    "HTTP/1.0 200 OK\r\nServer: old\r\n\r\nuntil the end",
    "HTTP/1.1 200 Fine\nContent-Length: 2\n\nok",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\r\n",
    "HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n",
    // None of these is an answer.
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a",
    "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "",
    // These break off.
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
];

/// Says what is asked for, to the letter.
fn say(mut stream: TcpStream, _: &str, upstream: &Upstream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let head = head(&mut reader)?;
    upstream.requests.fetch_add(1, Relaxed);
    let path = head.split(' ').nth(1).unwrap_or_default();
    match path.trim_start_matches('/') {
        "long-head" => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\nX: {}\r\n", "a".repeat(80_000)).as_bytes())
        }
        "big" => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n");
            stream.write_all(&[head.as_bytes(), &big_body()].concat())
        }
        "big-in-chunks" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let (body, mut sizes) = (big_body(), [1, 4095, 70_000, 17].into_iter().cycle());
            let mut rest = &body[..];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
                let line = format!("{:X}\r\n", chunk.len());
                stream.write_all(&[line.as_bytes(), chunk, b"\r\n"].concat())?;
                rest = after;
            }
            stream.write_all(b"0\r\n\r\n")
        }
        "both" => {
            let mut writer = stream.try_clone()?;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
            let said = thread::spawn(move || {
                writer.write_all(head.as_bytes())?;
                writer.write_all(&vec![b'y'; MUCH - 1])?;
                Ok::<_, std::io::Error>(writer)
            });
            // Its last byte tells whether all was had.
            let had = std::io::copy(&mut reader.take(MUCH as u64), &mut std::io::sink())?;
            let ends = if had == MUCH as u64 { b"z" } else { b"n" };
            said.join().map_err(|_| std::io::Error::other("it panicked"))??.write_all(ends)
        }
        "refuses" => {
            stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n")?;
            stream.shutdown(Shutdown::Write)?;
            std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
        }
        number => {
            let number = number.parse::<usize>().unwrap_or_default();
            stream.write_all(SAID[number].as_bytes())
        }
    }
}

fn big_body() -> Vec<u8> {
    (0..BIG as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn head(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    Ok(head)
}

/// One service for whatever is asked, and the listener.
fn all(at: SocketAddr, upstream: &Upstream) -> String {
    let service = format!(
        "[[mesh.services]]\nname = \"it\"\nendpoints = [{}]\n\
         outlier_detection = {{ consecutive_failures = 0 }}\n",
        plain(upstream)
    );
    let route = "[[mesh.routes]]\nname = \"it\"\nlisteners = [\"web\"]\n\
                 rules = [{ backend_refs = [{ name = \"it\" }] }]\n";
    listener(at) + &service + route
}

/// All that is said until the end.
fn whole(at: SocketAddr, request: &str) -> Result<String> {
    let mut connection = Connection::open(at)?;
    connection.0.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    connection.0.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn answers(lab: &Lab) -> Result {
    let it = Upstream::start_with("it", "127.0.0.1:0", say)?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&all(at, &it))?;
    let ask = |method: &str, path: &str, version: &str, fields: &str| {
        let head = format!("{method} /{path} HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        whole(at, &head)
    };
    let get = |number: usize| ask("GET", &number.to_string(), "1.1", "Connection: close\r\n");
    let is = |answer: &str, status: u16, rest: &str| {
        answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with(rest)
    };
    for (number, status, rest) in [
        (0, 200, "\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"),
        (1, 200, "\r\n\r\nd\r\nuntil the end\r\n0\r\n\r\n"),
        (2, 200, "\r\n\r\nok"),
        (3, 200, "\r\n\r\nok"),
        (4, 304, "\r\n\r\n"),
        (5, 204, "\r\n\r\n"),
        (6, 200, "\r\n\r\nok"),
        (7, 200, "\r\n\r\n"),
        (8, 599, "\r\n\r\n"),
    ] {
        let answer = get(number)?;
        ensure!(is(&answer, status, rest), "{number}: {answer:?}");
        let heads = answer.to_lowercase().matches("http/1.").count();
        let lengths = answer.to_lowercase().matches("content-length").count();
        ensure!(heads == 1 && lengths <= 1, "{number}: {answer:?}");
        ensure!(!answer.contains("hop") && !answer.contains("keep-alive"), "{number}: {answer:?}");
        ensure!(answer.contains("\r\ndate: "), "{number}: {answer:?}");
    }
    ensure!(get(4)?.contains("content-length: 5\r\n"), "a 304 says what a 200 would");
    ensure!(!get(5)?.contains("content-length"), "a 204 says nothing");
    for number in 9..=17 {
        let answer = get(number)?;
        ensure!(is(&answer, 502, "\n"), "{number}: {answer:?}");
    }
    let answer = ask("GET", "long-head", "1.1", "Connection: close\r\n")?;
    ensure!(is(&answer, 502, "\n"), "{answer:?}");
    for (number, begin) in [(18, "\r\n\r\nok"), (19, "\r\n\r\n3\r\nabc\r\n")] {
        let answer = get(number)?;
        ensure!(is(&answer, 200, begin), "an answer that breaks off seems whole: {answer:?}");
    }

    // How it is asked decides, too.
    let trailers = ask("GET", "0", "1.1", "TE: trailers\r\nConnection: close, TE\r\n")?;
    ensure!(trailers.ends_with("defg\r\n0\r\nx-sum: 7\r\n\r\n"), "{trailers:?}");
    let old = ask("GET", "0", "1.0", "")?;
    ensure!(is(&old, 200, "\r\n\r\nabcdefg") && !old.contains("chunked"), "{old:?}");
    let hinted = ask("HEAD", "4", "1.1", "Connection: close\r\n")?;
    ensure!(hinted.contains("content-length: 5\r\n") && hinted.ends_with("\r\n\r\n"), "{hinted:?}");
    let of_us = ask("HEAD", "17", "1.1", "Connection: close\r\n")?;
    ensure!(is(&of_us, 502, "\r\n\r\n") && of_us.contains("content-length: "), "{of_us:?}");
    let get = "GET /3 HTTP/1.1\r\nHost: a\r\n";
    let two = whole(at, &format!("{get}\r\n{get}Connection: close\r\n\r\n"))?;
    ensure!(two.matches("\r\n\r\nok").count() == 2, "{two:?}");
    let kept = whole(
        at,
        &format!(
            "{get}\r\nGET /3 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /3 HTTP/1.0\r\n\r\n"
        ),
    )?;
    ensure!(kept.matches("\r\n\r\nok").count() == 3, "{kept:?}");
    ensure!(kept.matches("connection: keep-alive").count() == 1, "{kept:?}");
    Ok(())
}

fn bodies(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let (says, at, at_says) =
        (Upstream::start_with("it", "127.0.0.1:0", say)?, free_port()?, free_port()?);
    let mesh = Mesh::standalone(lab)?;
    mesh.put(&all(at, &shop))?;
    // The 100 comes once there is somebody to take the body, and the endpoint isn't asked.
    let mut patient = Connection::open(at)?;
    let post = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n";
    patient.0.write_all(format!("{post}Expect: 100-continue\r\n\r\n").as_bytes())?;
    let go_on = patient.answer()?;
    ensure!(go_on.status == 100, "{go_on:?}");
    let answer = patient.send("hello")?;
    ensure!(answer.status == 200 && answer.body.ends_with("\r\n\r\nhello"), "{answer:?}");
    ensure!(!answer.body.contains("expect"), "{answer:?}");
    // Trailers go on; so do small pieces, whenever they come.
    let mut slow = Connection::open(at)?;
    slow.0
        .write_all(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab")?;
    thread::sleep(Duration::from_millis(100));
    let answer = slow.send("c\r\n0\r\nX-Sum: 3\r\n\r\n")?;
    let lines = answer.body.to_lowercase();
    ensure!(answer.status == 200 && lines.contains("2\r\nab\r\n1\r\nc\r\n"), "{answer:?}");
    ensure!(lines.contains("\r\n0\r\nx-sum: 3\r\n"), "{answer:?}");
    // HTTP/1.0 may have no Host, what it becomes may not.
    let old = whole(at, "GET /a HTTP/1.0\r\n\r\n")?;
    ensure!(old.starts_with("HTTP/1.1 200 ") && old.contains("\r\nhost: \r\n"), "{old:?}");
    // An absolute target's own host is told.
    let absolute = Connection::open(at)?.send("GET http://b/x?y HTTP/1.1\r\nHost: a\r\n\r\n")?;
    ensure!(absolute.body.contains("GET /x?y HTTP/1.1\r\nhost: b\r\n"), "{absolute:?}");

    let failures = |mesh: &Mesh| -> Result<(u64, u64)> {
        let all: Endpoints = mesh.node.cli(&["mesh", "endpoints", "-o", "json"])?.json()?;
        Ok((all.endpoints[0].requests, all.endpoints[0].failures))
    };
    let before = failures(&mesh)?;
    for body in ["abc", ""] {
        let mut broken = Connection::open(at)?;
        broken.0.write_all(format!("{post}\r\n{body}").as_bytes())?;
        broken.0.shutdown(Shutdown::Write)?;
        let answer = broken.answer()?;
        ensure!(answer.status == 400 && answer.body.contains("broke off"), "{answer:?}");
    }
    let garbled =
        whole(at, "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")?;
    ensure!(garbled.starts_with("HTTP/1.1 400 "), "{garbled:?}");
    let after = failures(&mesh)?;
    ensure!(after.1 == before.1, "what clients break is the endpoint's fault: {after:?}");
    ensure!(Connection::open(at)?.get("a", "/")?.by() == "shop", "and it goes on");

    // What nobody wants of a body is passed over, so that the next request is one.
    mesh.put(&all(at, &shop).replace(
        "rules = [{ ",
        "rules = [{ matches = [{ path = { type = \"exact\", value = \"/a\" } }], ",
    ))?;
    let mut connection = Connection::open(at)?;
    let unwanted =
        connection.send("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")?;
    ensure!(unwanted.status == 404, "{unwanted:?}");
    ensure!(connection.get("a", "/a")?.by() == "shop", "the next one");
    // So it is where the body goes on by HTTP/2: to another listener, with no route to anything.
    let inner = free_port()?;
    let h2c = all(at, &shop)
        .replace(&shop.address.to_string(), &inner.to_string())
        .replace("name = \"it\"\nendpoints", "name = \"it\"\nprotocol = \"h2c\"\nendpoints");
    mesh.put(&(h2c.clone() + &listener(inner).replace("web", "inner")))?;
    let mut endless = Connection::open(at)?;
    let chunked = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = endless.send(&format!("{chunked}3\r\nabc\r\n"))?;
    ensure!(answer.status == 404, "{answer:?}");
    ensure!(endless.0.read(&mut [0])? == 0, "the connection goes on within the body");
    let whole = Connection::open(at)?.send(&format!("{chunked}3\r\nabc\r\n0\r\n\r\n"))?;
    ensure!(whole.status == 404, "{whole:?}");
    // And that breaks off, too, without the endpoint's fault.
    let to_shop = all(inner, &shop).replace("\"web\"", "\"inner\"").replace("\"it\"", "\"shop\"");
    mesh.put(&(h2c + &to_shop))?;
    ensure!(Connection::open(at)?.get("a", "/")?.by() == "shop", "over HTTP/2");
    let mut broken = Connection::open(at)?;
    broken.0.write_all(format!("{post}\r\nabc").as_bytes())?;
    broken.0.shutdown(Shutdown::Write)?;
    let answer = broken.answer()?;
    ensure!(answer.status == 400 && answer.body.contains("broke off"), "{answer:?}");
    let all_of: Endpoints = mesh.node.cli(&["mesh", "endpoints", "-o", "json"])?.json()?;
    ensure!(all_of.endpoints.iter().all(|it| it.failures == 0), "{all_of:?}");
    // An endpoint may answer before it has all of it.
    mesh.put(&all(at_says, &says))?;
    let mut early = Connection::open(at_says)?;
    early.0.write_all(b"POST /refuses HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")?;
    early.0.write_all(&[b'x'; 100_000])?;
    let began = Instant::now();
    let answer = early.answer()?;
    ensure!(answer.status == 413 && answer.body == "no\n", "{answer:?}");
    ensure!(began.elapsed() < SOON, "{:?}", began.elapsed());
    Ok(())
}

fn both_ways(lab: &Lab) -> Result {
    let it = Upstream::start_with("it", "127.0.0.1:0", say)?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&all(at, &it))?;
    let mut client = Connection::open(at)?;
    let head = format!("POST /both HTTP/1.1\r\nHost: a\r\nContent-Length: {MUCH}\r\n\r\n");
    client.0.write_all(head.as_bytes())?;
    client.0.write_all(&vec![b'x'; MUCH])?;
    let answer = client.answer()?;
    ensure!(answer.status == 200 && answer.body.len() == MUCH, "{}", answer.body.len());
    ensure!(answer.body.ends_with('z'), "the endpoint has not all of the request");
    ensure!(client.get("a", "/5")?.status == 204, "and the connection goes on");
    Ok(())
}

fn cookies(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&all(at, &shop))?;
    let url = format!("http://{at}/");
    let apart = ["-H", "Cookie: a=1", "-H", "Cookie: b=2; c=3", &url];
    let curl =
        Command::new("curl").args(["-sS", "--http2-prior-knowledge"]).args(apart).output()?;
    let seen = String::from_utf8_lossy(&curl.stdout);
    ensure!(curl.status.success() && seen.contains("\r\ncookie: a=1; b=2; c=3\r\n"), "{seen}");
    Ok(())
}

fn big(lab: &Lab) -> Result {
    let it = Upstream::start_with("it", "127.0.0.1:0", say)?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&all(at, &it))?;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for path in ["big", "big-in-chunks"] {
            let file = lab.file("got", "")?;
            let url = format!("http://{at}/{path}");
            let file = file.display().to_string();
            let arguments = ["-sS", "--fail", "--max-time", "20", version, "-o", &file, &url];
            let curl = Command::new("curl").args(arguments).output()?;
            ensure!(curl.status.success(), "{version} {path}: {curl:?}");
            ensure!(std::fs::read(&file)? == big_body(), "{version} {path} is something else");
        }
    }
    Ok(())
}
