//! Those who are compared, each on the first CPU, before one nginx on the second.

use std::{
    env,
    ffi::OsStr,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use purlin_tests::{Lab, Node, Result, ensure, node::binary, process::Process, wait};

const SOON: Duration = Duration::from_secs(20);
/// What a request gets.
const BODY_BYTES: usize = 1024;
/// What a download gets.
pub const FILE_MIB: u64 = 128;

/// What is asked for.
pub struct Upstream {
    pub http: SocketAddr,
    _process: Process,
}

impl Upstream {
    pub fn start(lab: &Lab) -> Result<Self> {
        let http = free_port()?;
        let dir = lab.dir().join("upstream");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("small"), "x".repeat(BODY_BYTES))?;
        fs::File::create(dir.join("large"))?.set_len(FILE_MIB << 20)?;
        let server = format!(
            "server {{ listen {http}; root {}; keepalive_requests 100000000; sendfile on; \
             access_log off; }}",
            dir.display()
        );
        let process = nginx(lab, "upstream", &server, "1")?;
        listens(http)?;
        Ok(Self { http, _process: process })
    }
}

/// One of those who are compared.
pub struct Proxy {
    pub name: &'static str,
    pub http: SocketAddr,
    /// Where bytes are passed on, if it does that.
    pub tcp: Option<SocketAddr>,
    pub pid: u32,
}

pub struct Proxies {
    proxies: Vec<Proxy>,
    _processes: Vec<Process>,
    node: Node,
}

impl Proxies {
    pub fn start(lab: &Lab, upstream: &Upstream) -> Result<Self> {
        let (haproxy, nginx, naive) =
            (haproxy(lab, upstream)?, proxy(lab, upstream)?, naive(upstream)?);
        let (ours, node) = ours(lab, upstream)?;
        let (mut proxies, mut processes) = (vec![ours], Vec::new());
        for (proxy, process) in [haproxy, nginx, naive] {
            proxies.push(proxy);
            processes.push(process);
        }
        Ok(Self { proxies, _processes: processes, node })
    }

    pub fn all(&self) -> Vec<&Proxy> {
        self.proxies.iter().collect()
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        // The mesh ends with its agent where that is told to stop, and outlives its death.
        if let Err(error) = self.node.stop() {
            eprintln!("the agent did not stop: {error:?}");
        }
    }
}

fn ours(lab: &Lab, upstream: &Upstream) -> Result<(Proxy, Node)> {
    let (http, tcp) = (free_port()?, free_port()?);
    let mut node = Node::standalone(lab, "node")?;
    // It has a worker for each CPU that it may use.
    node.run_with(&["taskset", "-c", "0"], &binary()?);
    node.set("PURLIN_TEST__CONFIRM_AFTER_MS", "100");
    node.start()?;
    let at = upstream.http;
    let document = format!(
        "[[mesh.listeners]]\nname = \"web\"\naddress = \"{http}\"\n\
         [[mesh.listeners]]\nname = \"raw\"\naddress = \"{tcp}\"\nprotocol = \"tcp\"\n\
         [[mesh.services]]\nname = \"up\"\nendpoints = [{{ address = \"{at}\" }}]\n\
         [[mesh.routes]]\nname = \"web\"\nlisteners = [\"web\"]\n\
         rules = [{{ backend_refs = [{{ name = \"up\" }}] }}]\n\
         [[mesh.routes]]\nname = \"raw\"\nkind = \"tcp\"\nlisteners = [\"raw\"]\n\
         rules = [{{ backend_refs = [{{ name = \"up\" }}] }}]\n"
    );
    let file = lab.file("mesh.toml", document)?;
    let answer = node.cli(&["config", "apply", &file.display().to_string()])?;
    ensure!(answer.code == 0, "{answer:?}");
    listens(http)?;
    let status: purlin_proto::mesh::Status = node.json(&["mesh", "show"])?;
    Ok((Proxy { name: "Purlin", http, tcp: Some(tcp), pid: status.pid }, node))
}

fn haproxy(lab: &Lab, upstream: &Upstream) -> Result<(Proxy, Process)> {
    let (http, tcp) = (free_port()?, free_port()?);
    let at = upstream.http;
    // `splice-auto` does not splice.
    let text = format!(
        "global\n nbthread 1\n maxconn 4500\n\
         defaults\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n\
         frontend web\n mode http\n bind {http}\n default_backend web\n\
         backend web\n mode http\n http-reuse always\n server s {at}\n\
         listen raw\n mode tcp\n bind {tcp}\n option splice-request\n option splice-response\n \
         server s {at}\n"
    );
    let file = lab.file("haproxy.cfg", text)?;
    let process =
        pinned("0", [OsStr::new("haproxy"), "-db".as_ref(), "-f".as_ref(), file.as_ref()])?;
    listens(http)?;
    Ok((Proxy { name: "HAProxy", http, tcp: Some(tcp), pid: pid_of(&process) }, process))
}

fn proxy(lab: &Lab, upstream: &Upstream) -> Result<(Proxy, Process)> {
    let http = free_port()?;
    let at = upstream.http;
    let server = format!(
        "upstream up {{ server {at}; keepalive 128; keepalive_requests 100000000; }} \
         server {{ listen {http}; keepalive_requests 100000000; keepalive_timeout 300s; \
         access_log off; location / {{ proxy_pass http://up; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; }} }}"
    );
    let process = nginx(lab, "proxy", &server, "0")?;
    listens(http)?;
    Ok((Proxy { name: "nginx", http, tcp: None, pid: pid_of(&process) }, process))
}

fn naive(upstream: &Upstream) -> Result<(Proxy, Process)> {
    let http = free_port()?;
    let (listen, at) = (http.to_string(), upstream.http.to_string());
    let exe = env::current_exe()?;
    let process = pinned("0", [exe.as_os_str(), "naive".as_ref(), listen.as_ref(), at.as_ref()])?;
    listens(http)?;
    Ok((Proxy { name: "hyper-util", http, tcp: None, pid: pid_of(&process) }, process))
}

/// One process, which does it all.
fn nginx(lab: &Lab, name: &str, server: &str, cpu: &str) -> Result<Process> {
    let dir = lab.dir().join(format!("nginx-{name}"));
    fs::create_dir_all(&dir)?;
    let text = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log; \
         worker_rlimit_nofile 16000; events {{ worker_connections 8000; }} \
         http {{ client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; \
         uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; {server} }}",
        dir.display()
    );
    let file = dir.join("conf");
    fs::write(&file, text)?;
    let (prefix, log) = (dir.as_os_str(), dir.join("error.log"));
    let arguments = ["nginx".as_ref(), "-p".as_ref(), prefix, "-c".as_ref(), file.as_ref()];
    let error = ["-e".as_ref(), log.as_os_str()];
    pinned(cpu, arguments.into_iter().chain(error))
}

fn pinned<'a>(cpu: &str, command: impl IntoIterator<Item = &'a OsStr>) -> Result<Process> {
    let mut taskset = Command::new("taskset");
    taskset.args(["-c", cpu]).args(command);
    Process::start(taskset.stdin(Stdio::null()).stdout(Stdio::null()))
}

/// `taskset` becomes what it starts.
pub fn pid_of(process: &Process) -> u32 {
    process.pid().as_raw().cast_unsigned()
}

pub fn listens(at: SocketAddr) -> Result {
    wait::until("it listens", SOON, || {
        TcpStream::connect(at).map(drop).map_err(|error| error.to_string())
    })
}

pub fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
