//! Where a container serves, as its annotation `purlin.dev/services` says it:
//! `shop=8080,metrics=10.88.0.7:9090`.

use alloc::string::{String, ToString};
use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::container::Container;
use crate::settings::Impossible;

/// A port, of an address of its own or of its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Door {
    ip: Option<IpAddr>,
    port: u16,
}

impl Door {
    /// Its address on this node: where it says none, its pod's, and without one the host's
    /// network is the container's.
    pub fn of(self, container: &Container) -> SocketAddr {
        let mut ips = container.pod.iter().flat_map(|pod| &pod.ips);
        let of_pod = || ips.find_map(|ip| ip.parse().ok());
        let ip = self.ip.or_else(of_pod).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        SocketAddr::new(ip, self.port)
    }
}

impl FromStr for Door {
    type Err = Impossible;
    fn from_str(text: &str) -> Result<Self, Impossible> {
        let port = text.parse().map(|port| Self { ip: None, port });
        let whole = || text.parse().map(|it: SocketAddr| (it.ip(), it.port()));
        let door = port.or_else(|_| whole().map(|(ip, port)| Self { ip: Some(ip), port }));
        let is_one = |it: &Self| it.port > 0 && it.ip.is_none_or(|ip| !ip.is_unspecified());
        door.ok().filter(is_one).ok_or_else(|| Impossible {
            limit: "a port from 1 to 65535, or IP:PORT".into(),
            hint: "e.g. shop=8080".into(),
        })
    }
}

impl TryFrom<String> for Door {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map_err(|_| "no port and no IP:PORT")
    }
}

impl From<Door> for String {
    fn from(door: Door) -> Self {
        door.to_string()
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.port)),
            None => write!(f, "{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::container::Pod;

    #[test]
    fn a_door_is_at_its_own_address_or_its_pods_or_the_hosts() {
        let mut container = Container::default();
        let of = |text: &str, container: &Container| {
            let door: Option<Door> = text.parse().ok();
            door.map(|it| (it.to_string(), it.of(container).to_string()))
        };
        let door = |text: &str, at: &str| Some((text.into(), at.into()));
        assert_eq!(of("80", &container), door("80", "127.0.0.1:80"));
        container.pod = Some(Pod { ips: alloc::vec!["fd00::7".into()], ..Pod::default() });
        assert_eq!(of("80", &container), door("80", "[fd00::7]:80"));
        assert_eq!(of("10.0.0.1:80", &container), door("10.0.0.1:80", "10.0.0.1:80"));
        for text in ["", "0", "70000", "http", "10.0.0.1", "0.0.0.0:80", "10.0.0.1:0", "a:80"] {
            assert_eq!(of(text, &container), None, "{text}");
        }
    }
}
