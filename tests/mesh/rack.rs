//! Meshes of one rack, each with a certificate, without an agent: their tables are put
//! where they start from, or handed over their sockets as an agent does.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost::Message;
use purlin_core::mesh::credential::Revocations;
use purlin_mesh::{
    identity::{
        self,
        authority::{Authority, ISSUER_LIFE_S, ROOT_LIFE_S},
    },
    keep,
};
use purlin_proto::{mesh::Status, v1};
use purlin_tests::{Lab, Node, Result, ensure, process::Process, wait};

use crate::SOON;

/// A rack's root.
pub struct Rack<'l> {
    lab: &'l Lab,
    pub root: Authority,
}

/// A node of a rack, and its mesh while that runs.
pub struct Member {
    pub node: Node,
    pub name: String,
    process: Option<Process>,
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

impl<'l> Rack<'l> {
    pub fn new(lab: &'l Lab, id: &str) -> Result<Self> {
        Ok(Self { lab, root: Authority::make(id, now() - 86_400 * 365, ROOT_LIFE_S)? })
    }

    /// A node with a certificate that was made then, for so long.
    pub fn member(&self, name: &str, made: u64, life_s: u64) -> Result<Member> {
        let node = Node::standalone(self.lab, name)?;
        let member = Member { node, name: name.into(), process: None };
        let none = Revocations::default();
        member.write(identity::RACK, self.root.certificate_pem())?;
        member.write(identity::NODE, self.root.make_node(name, made, life_s, &none)?)?;
        Ok(member)
    }

    /// The same with an issuer.
    pub fn issuing_member(&self, name: &str, life_s: u64) -> Result<Member> {
        let member = self.member(name, now(), life_s)?;
        let none = Revocations::default();
        let issuer = self.root.make_issuer(name, now() - 3600, ISSUER_LIFE_S, &none)?;
        member.write(identity::ISSUER, issuer.pem())?;
        Ok(member)
    }
}

impl Member {
    fn dir(&self) -> PathBuf {
        self.node.dir().join("home/state/purlin/mesh")
    }

    /// A file of its identity.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result {
        let dir = self.dir().join(identity::DIR);
        fs::create_dir_all(&dir)?;
        Ok(keep::replace(&dir.join(name), 0o600, bytes.as_ref())?)
    }

    /// Starts its mesh with a table.
    pub fn start(&mut self, mesh: &v1::Mesh) -> Result {
        let table = v1::MeshTable {
            generation: 1,
            incarnation: 1,
            mesh: Some(mesh.clone()),
            brokers: Vec::new(),
        };
        fs::create_dir_all(self.dir())?;
        keep::store(&self.dir(), &table)?;
        self.start_again()
    }

    /// Starts its mesh from its disk.
    pub fn start_again(&mut self) -> Result {
        let log = self.node.dir().with_extension("log");
        let log = fs::File::options().create(true).append(true).open(log)?;
        let mut command = self.node.command(&[]);
        command.arg("mesh").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(Process::start(&mut command)?);
        self.status_when(|_| true).map(drop)
    }

    pub fn kill(&mut self) -> Result {
        self.process.take().map_or(Ok(()), |process| process.kill())
    }

    pub fn process(&self) -> Result<&Process> {
        Ok(self.process.as_ref().ok_or("it doesn't run")?)
    }

    /// Hands another table over.
    pub fn put(&self, generation: u64, mesh: &v1::Mesh) -> Result {
        let table = v1::MeshTable {
            generation,
            incarnation: 1,
            mesh: Some(mesh.clone()),
            brokers: Vec::new(),
        };
        self.hand_over("/v1/table", &table.encode_to_vec())
    }

    /// Hands something over its socket, as an agent does.
    pub fn hand_over(&self, path: &str, body: &[u8]) -> Result {
        let mut socket = UnixStream::connect(self.node.dir().join("home/run/purlin/mesh.sock"))?;
        socket.set_read_timeout(Some(SOON))?;
        let length = body.len();
        write!(
            socket,
            "PUT {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )?;
        socket.write_all(body)?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(())
    }

    pub fn status(&self) -> Result<Status> {
        let answer = self.node.cli(&["mesh", "show", "-o", "json"])?;
        ensure!(matches!(answer.code, 0 | 2), "{answer:?}");
        answer.json()
    }

    /// Its status once that is so.
    pub fn status_when(&self, is_it: impl Fn(&Status) -> bool) -> Result<Status> {
        wait::until(&format!("the mesh of {}", self.name), SOON, || {
            let status = self.status().map_err(|e| format!("{e:?}"))?;
            if is_it(&status) { Ok(status) } else { Err(format!("{status:?}")) }
        })
    }
}

pub fn listener(name: &str, address: SocketAddr, protocol: &str) -> v1::Listener {
    let (name, address) = (name.into(), address.to_string());
    v1::Listener { name, address, protocol: Some(protocol.into()), ..Default::default() }
}

/// A service with endpoints on nodes, open to the whole rack.
pub fn service(name: &str, protocol: &str, endpoints: &[(&str, SocketAddr)]) -> v1::Service {
    let endpoint = |(node, address): &(&str, SocketAddr)| v1::Endpoint {
        address: address.to_string(),
        node: Some((*node).into()),
        ..Default::default()
    };
    v1::Service {
        name: name.into(),
        protocol: Some(protocol.into()),
        endpoints: endpoints.iter().map(endpoint).collect(),
        allow: vec![allow("spiffe://r1/node/*")],
        ..Default::default()
    }
}

pub fn allow(principal: &str) -> v1::Allow {
    v1::Allow { principals: vec![principal.into()], ..Default::default() }
}

/// A route to a service of its own name.
pub fn route(name: &str, kind: &str, at: &str) -> v1::Route {
    let rule = v1::Rule {
        backend_refs: vec![v1::BackendRef { name: name.into(), weight: None }],
        ..Default::default()
    };
    let hostnames = if kind == "http" { vec![format!("{name}.rack")] } else { Vec::new() };
    v1::Route {
        name: name.into(),
        kind: Some(kind.into()),
        listeners: vec![at.into()],
        hostnames,
        rules: vec![rule],
        ..Default::default()
    }
}

pub fn peer(node: &str, address: SocketAddr) -> v1::Peer {
    v1::Peer { node: node.into(), address: address.to_string() }
}

/// Between two looks at what has to come about by itself.
pub const SOME_TIME: Duration = Duration::from_millis(100);
