//! What the node's agent knows of its containers. It is kept on disk, so that a mesh that
//! starts while no agent is there knows them too; a container whose cgroup is gone by then
//! is nobody.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    path::PathBuf,
};

use purlin_core::{cpuset, mesh::workload::Workload};
use purlin_drivers::cgroup::ids;
use purlin_proto::v1::LocalWorkload;

/// As many as the agent places.
pub const MAX_WORKLOADS: usize = 4096;
/// Of one container: a pod has one or two.
const MAX_ADDRESSES: usize = 16;

/// The containers, by what their connections tell.
#[derive(Debug, Default)]
pub struct Containers {
    by_cgroup: HashMap<String, Workload>,
    /// Containers of a pod share its addresses.
    by_address: HashMap<IpAddr, Vec<(Workload, String)>>,
    mounts: Vec<PathBuf>,
}

impl Containers {
    /// Those that can be; the error names the first that can't.
    pub fn checked(all: &[LocalWorkload]) -> Result<Self, String> {
        if all.len() > MAX_WORKLOADS {
            return Err(format!("{} workloads; at most {MAX_WORKLOADS}", all.len()));
        }
        let mut told = Self { mounts: ids::mounts(), ..Self::default() };
        for it in all {
            let workload = Workload::parse(&it.name);
            let workload = workload.filter(|it| !matches!(it, Workload::Unit(..)));
            let workload = workload.ok_or_else(|| format!("{:?} names no container", it.name))?;
            if !cpuset::is_below(&it.cgroup) {
                return Err(format!("{:?} is no cgroup's path", it.cgroup));
            }
            if it.addresses.len() > MAX_ADDRESSES {
                return Err(format!("{} addresses of {}", it.addresses.len(), it.name));
            }
            for address in &it.addresses {
                let ip: Result<IpAddr, _> = address.parse();
                let ip = ip.map_err(|_| format!("{address:?} is no IP address"))?.to_canonical();
                // Who has the node's own network is known by its cgroup alone: others of the
                // node have the same address.
                if !is_own(ip) {
                    let of = (workload.clone(), it.cgroup.clone());
                    told.by_address.entry(ip).or_default().push(of);
                }
            }
            told.by_cgroup.insert(it.cgroup.clone(), workload);
        }
        Ok(told)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_cgroup.len()
    }

    /// Whose a cgroup is: the container's that it is, or is in.
    pub fn at_cgroup(&self, path: &str) -> Option<&Workload> {
        let mut all = cpuset::ancestors(path).chain([path]);
        all.find_map(|it| self.by_cgroup.get(it))
    }

    /// Whose an address is, if all that have it and are still there are the same.
    pub fn at_address(&self, ip: IpAddr) -> Option<&Workload> {
        let mut there =
            self.by_address.get(&ip)?.iter().filter(|(_, cgroup)| self.is_there(cgroup));
        let (first, _) = there.next()?;
        there.all(|(it, _)| it == first).then_some(first)
    }

    fn is_there(&self, cgroup: &str) -> bool {
        self.mounts.iter().any(|mount| mount.join(&cgroup[1..]).exists())
    }
}

/// Whether an address is this node's: what goes there comes from there. Nothing is sent.
fn is_own(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, cgroup: &str, addresses: &[&str]) -> LocalWorkload {
        let addresses = addresses.iter().map(|it| (*it).into()).collect();
        LocalWorkload { name: name.into(), cgroup: cgroup.into(), addresses }
    }

    #[test]
    fn an_address_is_whose_all_its_containers_are_as_long_as_they_are_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b, c) = ("/pods/1/a", "/pods/1/b", "/pods/2/c");
        let shared = ["203.0.113.1", "2001:db8::1"];
        let mut told = Containers::checked(&[
            container("workload/shop/checkout", a, &shared),
            container("workload/shop/proxy", b, &shared),
            container("workload/shop/other", c, &["203.0.113.2", "127.0.0.1"]),
        ])
        .expect("good ones");
        told.mounts = vec![dir.path().join("none"), dir.path().into()];
        let at = |ip: &str| told.at_address(ip.parse().expect(ip)).map(ToString::to_string);
        assert_eq!(at("203.0.113.2"), None, "its container is gone");
        for cgroup in [a, b, c] {
            std::fs::create_dir_all(dir.path().join(&cgroup[1..])).expect("made");
        }
        assert_eq!(at("203.0.113.2").as_deref(), Some("workload/shop/other"));
        assert_eq!(at("127.0.0.1"), None, "everybody has it");
        assert_eq!(at("203.0.113.1"), None, "two of one address");
        std::fs::remove_dir(dir.path().join(&b[1..])).expect("gone");
        assert_eq!(at("2001:db8::1").as_deref(), Some("workload/shop/checkout"));
        let of = |path: &str| told.at_cgroup(path).map(ToString::to_string);
        assert_eq!(of("/pods/1/a").as_deref(), Some("workload/shop/checkout"));
        assert_eq!(of("/pods/1/a/system.slice/x.service"), of("/pods/1/a"));
        assert_eq!((of("/pods/1"), of("/pods/1/ab"), of("")), (None, None, None));
    }

    #[test]
    fn what_can_not_be_is_told() {
        for it in [
            container("unit/a.service", "/a", &[]),
            container("workload/a", "/a", &[]),
            container("container/a", "/../a", &[]),
            container("container/a", "", &[]),
            container("container/a", "/a", &["a"]),
            container("container/a", "/a", &["203.0.113.1"; MAX_ADDRESSES + 1]),
        ] {
            assert!(Containers::checked(std::slice::from_ref(&it)).is_err(), "{it:?}");
        }
        assert!(Containers::checked(&vec![LocalWorkload::default(); MAX_WORKLOADS + 1]).is_err());
    }
}
