//! A request from node to node: a mesh where the client is, one where the service is, and
//! mutual TLS between them. Both are on the first CPU, and are counted apart.

use std::{
    fs,
    net::SocketAddr,
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use purlin_core::mesh::credential::Revocations;
use purlin_mesh::{
    identity::{
        self,
        authority::{Authority, ROOT_LIFE_S},
    },
    keep,
};
use purlin_proto::v1;
use purlin_tests::{Lab, Node, Result, node::binary, process::Process};

use crate::proxies::{free_port, listens, pid_of};

/// A certificate's life in a rack.
const LIFE_S: u64 = 30 * 86_400;

/// Both sides.
pub struct Tunnel {
    /// Where clients ask.
    pub http: SocketAddr,
    /// Where the clients are, and where the service is.
    pub pids: [u32; 2],
    _processes: [Process; 2],
}

impl Tunnel {
    /// To something that both meshes take for an endpoint of the second one.
    pub fn start(lab: &Lab, upstream: SocketAddr) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let root = Authority::make("r1", now - 3600, ROOT_LIFE_S)?;
        let (http, tunnel) = (free_port()?, free_port()?);
        let service = v1::Service {
            name: "up".into(),
            endpoints: vec![v1::Endpoint {
                address: upstream.to_string(),
                node: Some("b".into()),
                ..Default::default()
            }],
            allow: vec![v1::Allow {
                principals: vec!["spiffe://r1/node/a".into()],
                ..Default::default()
            }],
            ..Default::default()
        };
        let route = v1::Route {
            name: "web".into(),
            listeners: vec!["web".into()],
            rules: vec![v1::Rule {
                backend_refs: vec![v1::BackendRef { name: "up".into(), weight: None }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let listener = |name: &str, at: SocketAddr, protocol: &str| v1::Listener {
            name: name.into(),
            address: at.to_string(),
            protocol: Some(protocol.into()),
            ..Default::default()
        };
        let peer =
            |node: &str, at: SocketAddr| v1::Peer { node: node.into(), address: at.to_string() };
        let shared = v1::Mesh {
            services: vec![service],
            peers: vec![peer("a", free_port()?), peer("b", tunnel)],
            ..Default::default()
        };
        let of_a = v1::Mesh {
            listeners: vec![listener("web", http, "http")],
            routes: vec![route],
            ..shared.clone()
        };
        let of_b = v1::Mesh { listeners: vec![listener("tunnel", tunnel, "tunnel")], ..shared };
        let b = start(lab, &root, "b", of_b, now)?;
        listens(tunnel)?;
        let a = start(lab, &root, "a", of_a, now)?;
        listens(http)?;
        Ok(Self { http, pids: [pid_of(&a), pid_of(&b)], _processes: [a, b] })
    }
}

/// A mesh alone, from a disk that has a table and who it is.
fn start(lab: &Lab, root: &Authority, name: &str, mesh: v1::Mesh, now: u64) -> Result<Process> {
    let mut node = Node::standalone(lab, &format!("tunnel-{name}"))?;
    node.run_with(&["taskset", "-c", "0"], &binary()?);
    let dir = node.dir().join("home/state/purlin/mesh");
    fs::create_dir_all(dir.join(identity::DIR))?;
    let none = Revocations::default();
    let files = [
        (identity::RACK, root.certificate_pem().into_bytes()),
        (identity::NODE, root.make_node(name, now - 60, LIFE_S, &none)?.into_bytes()),
    ];
    for (file, bytes) in files {
        keep::replace(&dir.join(identity::DIR).join(file), 0o600, &bytes)?;
    }
    keep::store(
        &dir,
        &v1::MeshTable { generation: 1, incarnation: 1, mesh: Some(mesh), brokers: Vec::new() },
    )?;
    let mut command = node.command(&[]);
    command.arg("mesh").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Process::start(&mut command)
}
