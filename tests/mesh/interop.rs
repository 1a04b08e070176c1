//! Clients, servers and malformed requests that nobody here wrote, through the mesh: grpcio,
//! websockets (`peer.py`), curl, h2load, and the requests that gunicorn is tested with.
//! docs/conformance.md has what came of them, and what can't be had in a test.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::Ordering::Relaxed,
    thread::sleep,
    time::Duration,
};

use purlin_tests::{Lab, Need, Result, ensure, lab::Test, process::Process, test, wait};

use crate::{Mesh, free_port, run, upstream::Upstream, web};

const SOON: Duration = Duration::from_secs(20);
/// For an answer that may not come.
const SILENCE: Duration = Duration::from_millis(700);
/// For a service to be asked, had it been.
const BEHIND: Duration = Duration::from_millis(20);

pub fn tests() -> Vec<Test> {
    let python = [
        test("grpc_of_every_kind_by_an_independent_peer", 120, grpc),
        test("websockets_by_an_independent_peer", 90, websocket),
    ];
    let python = python.map(|it| it.needs(&[Need::Is(no_peer)]));
    let corpus =
        test("requests_that_others_are_tested_with_are_judged_as_they_should_be", 180, corpus);
    let programs = ["h2load", "curl"].map(Need::Program);
    let listeners = test("every_kind_of_listener_by_independent_clients", 90, listeners);
    let rest = [corpus.needs(&[Need::Is(no_corpus)]), listeners.needs(&programs)];
    python.into_iter().chain(rest).collect()
}

pub fn python() -> String {
    env::var("PURLIN_INTEROP_PYTHON").unwrap_or("python3".into())
}

fn no_peer() -> Option<String> {
    let tried = Command::new(python()).args(["-c", "import grpc, websockets.asyncio"]).output();
    let here = tried.is_ok_and(|output| output.status.success());
    (!here).then(|| "no grpcio and websockets: start it with ./tests/run mesh".to_owned())
}

fn requests_dir() -> Option<PathBuf> {
    Some(PathBuf::from(env::var_os("PURLIN_HTTP1_REQUESTS")?)).filter(|it| it.is_dir())
}

fn no_corpus() -> Option<String> {
    let why = "no gunicorn in source: start it with ./tests/run mesh";
    requests_dir().is_none().then(|| why.to_owned())
}

/// A server of `peer.py`, and where it listens.
pub fn server(lab: &Lab, which: &str) -> Result<(Process, SocketAddr)> {
    let told = lab.dir().join(which);
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh/peer.py")).arg(which);
    let process = Process::start(command.stdin(Stdio::null()).stdout(File::create(&told)?))?;
    let port: u16 = wait::until("it listens", SOON, || {
        let told = fs::read_to_string(&told).map_err(|it| it.to_string())?;
        told.trim().parse().map_err(|_| format!("{told:?}"))
    })?;
    Ok((process, ([127, 0, 0, 1], port).into()))
}

pub fn client(which: &str, at: SocketAddr, more: &[&str]) -> Result {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mesh/peer.py").display().to_string();
    let port = at.port().to_string();
    run(&python(), &[&[script.as_str(), which, &port], more].concat()).map(drop)
}

fn grpc(lab: &Lab) -> Result {
    let (_server, address) = server(lab, "grpc-server")?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&format!(
        "[[mesh.listeners]]\nname = \"web\"\naddress = \"{at}\"\n\
         [[mesh.services]]\nname = \"echo\"\nprotocol = \"h2c\"\n\
         endpoints = [{{ address = \"{address}\" }}]\n\
         health_check = {{ kind = \"grpc\", interval_ms = 100 }}\n\
         [[mesh.routes]]\nname = \"echo\"\nkind = \"grpc\"\nlisteners = [\"web\"]\n\
         rules = [{{ matches = [{{ grpc = {{ service = \"shop.Echo\" }} }}], \
         backend_refs = [{{ name = \"echo\" }}] }}]\n"
    ))?;
    client("grpc-client", at, &[])?;
    // It is asked how it is all the while, and says that it serves.
    let status = mesh.status()?;
    ensure!(status.problems.is_empty(), "{status:?}");
    Ok(())
}

fn websocket(lab: &Lab) -> Result {
    let (_server, address) = server(lab, "ws-server")?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&web(at, &[address]).replace("hostnames = [\"shop.rack\"]\n", ""))?;
    client("ws-client", at, &[])
}

fn listeners(lab: &Lab) -> Result {
    let shop = Upstream::start("shop")?;
    let mesh = Mesh::standalone(lab)?;
    let (raw, web) = (free_port()?, free_port()?);
    mesh.put(&format!(
        "[[mesh.listeners]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\n\
         [[mesh.listeners]]\nname = \"web\"\naddress = \"{web}\"\nproxy_protocol = true\n\
         [[mesh.services]]\nname = \"shop\"\nendpoints = [{{ address = \"{}\" }}]\n\
         [[mesh.routes]]\nname = \"raw\"\nkind = \"tcp\"\nlisteners = [\"raw\"]\n\
         rules = [{{ backend_refs = [{{ name = \"shop\" }}] }}]\n\
         [[mesh.routes]]\nname = \"web\"\nlisteners = [\"web\"]\n\
         rules = [{{ backend_refs = [{{ name = \"shop\" }}] }}]\n",
        shop.address
    ))?;
    let url = format!("http://{raw}/");
    let told = run("h2load", &["--h1", "-n", "2000", "-c", "8", &url])?;
    ensure!(told.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{told}");
    let url = format!("http://{web}/");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = run("curl", &["-sS", "-m", "20", "--haproxy-protocol", version, &url])?;
        let head = answer.to_lowercase();
        ensure!(head.starts_with("shop\nget / http/1.1\r\n"), "{version}: {answer}");
        ensure!(head.contains("x-forwarded-for: 127.0.0.1"), "{version}: {answer}");
    }
    Ok(())
}

/// What gunicorn refuses and we don't, and why that is right.
const PASSED: [(&str, &str); 6] = [
    ("001", "is no whole head: there is nothing to answer yet"),
    ("006", "is longer than a limit that its test sets"),
    ("007", "has more fields than a limit that its test sets"),
    ("008", "has a field longer than a limit that its test sets"),
    ("009", "has more fields than a limit that its test sets"),
    ("040", "has an underscore in a name, which RFC 9110 (5.6.2) allows"),
];

/// What gunicorn takes and we refuse, and why that is right.
const REFUSED: [(&str, &str); 13] = [
    ("002", "0.0.0.0=5000 is no host and port (RFC 9110, 7.2)"),
    ("003", "the same"),
    ("009", "identity is no transfer coding any more (RFC 9112, 7)"),
    ("014", "a quote is no character of a query (RFC 3986, 3.4)"),
    ("025", "a second transfer coding, which we don't undo"),
    ("025_line", "the same"),
    ("028", "a space before a colon has to be refused (RFC 9112, 5.1)"),
    ("029", "identity again"),
    ("030", "identity again"),
    ("compat_obs_fold", "folded lines may be refused (RFC 9112, 5.2)"),
    ("compat_obs_fold_huge", "the same"),
    ("pp_01", "the listener takes no PROXY protocol"),
    ("pp_02", "the same"),
];

fn corpus(lab: &Lab) -> Result {
    let dir = requests_dir().ok_or("no PURLIN_HTTP1_REQUESTS")?;
    let once = Upstream::once()?;
    let mesh = Mesh::standalone(lab)?;
    let at = free_port()?;
    mesh.put(&web(at, &[once.address]).replace("hostnames = [\"shop.rack\"]\n", ""))?;
    let (passed, refused) = (BTreeMap::from(PASSED), BTreeMap::from(REFUSED));
    let (mut wrong, mut count) = (Vec::new(), [0, 0]);
    for (kind, is_valid) in [("invalid", false), ("valid", true)] {
        for (name, request) in requests(&dir.join(kind), is_valid)? {
            let before = once.requests.load(Relaxed);
            let status = ask(at, &request)?;
            sleep(BEHIND);
            let asked = once.requests.load(Relaxed) - before;
            let is_refused = asked == 0 && status.is_none_or(|it| it == 400 || it == 501);
            let exempt = if is_valid { refused.get(&*name) } else { passed.get(&*name) };
            let as_it_should = match (is_valid, exempt) {
                (false, None) => is_refused && status.is_some(),
                (true, None) => asked > 0 && status == Some(200),
                (false, Some(_)) => status.is_none() || status == Some(200),
                (true, Some(_)) => is_refused,
            };
            count[usize::from(is_valid)] += 1;
            if !as_it_should {
                wrong.push(format!("{kind} {name}: {status:?}, {asked} asked, {exempt:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    ensure!(count[0] > 50 && count[1] > 40, "{count:?} requests");
    println!("{} that are invalid, {} that are valid", count[0], count[1]);
    Ok(())
}

/// By their names. Their files have `\r\n` written out, and lines for people. One that only
/// lacks a Host is given one: without, every HTTP/1.1 request is invalid here.
fn requests(dir: &Path, is_valid: bool) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "http") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut bytes = fs::read(&path)?;
            bytes.retain(|it| *it != b'\n');
            for (written, meant) in [(r"\r\n", "\r\n"), (r"\0", "\0"), (r"\n", "\n"), (r"\t", "\t")]
            {
                bytes = replaced(&bytes, written.as_bytes(), meant.as_bytes());
            }
            if is_valid && !bytes.to_ascii_lowercase().windows(5).any(|it| it == b"host:") {
                // One has a body that looks like a request, and whose length is told.
                if name != "020" {
                    let host = b" HTTP/1.1\r\nHost: shop.rack\r\n";
                    bytes = replaced(&bytes, b" HTTP/1.1\r\n", host);
                }
            }
            found.push((name, bytes));
        }
    }
    found.sort();
    Ok(found)
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some(at) = rest.windows(from.len()).position(|it| it == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// The first answer's status; `None` if there is none.
fn ask(at: SocketAddr, request: &[u8]) -> Result<Option<u16>> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(request)?;
    let mut answer = [0; 12];
    Ok(match stream.read_exact(&mut answer) {
        Ok(()) => String::from_utf8_lossy(&answer[9..]).parse().ok(),
        Err(_) => None,
    })
}
