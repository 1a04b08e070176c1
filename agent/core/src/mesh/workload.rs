//! Which of a node's workloads somebody is: a name below the node's own.
//!
//! ```text
//! workload/NAMESPACE/NAME        a container of a pod
//! container/NAME                 a container without one
//! unit/NAME.service              a service of systemd's
//! unit/NAME.service/INSTANCE     one of a template, NAME@INSTANCE.service
//! ```
//!
//! A node says it of its own workloads in the header `baggage` of a CONNECT, in the words
//! that OpenTelemetry has for them and that Istio's ztunnel uses too. It says nothing of
//! the node: that is the certificate's.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{fmt, str};

use super::spiffe::is_segment;
use crate::cpuset::owner;

/// The header (W3C Baggage).
pub const HEADER: &str = "baggage";
/// The longest one that is read, in bytes: several times what ztunnel sends.
pub const MAX_BAGGAGE: usize = 2048;
/// The longest name, in bytes: a unit's (systemd.unit(5)); Kubernetes' have 63.
const MAX_NAME: usize = 255;

const NAMESPACE: &str = "k8s.namespace.name";
const SERVICE: &str = "service.name";
const CONTAINER: &str = "container.name";
const UNIT: &str = "systemd.unit.name";

/// The forms of a name, for people.
pub const FORMS: &str =
    "workload/NAMESPACE/NAME, container/NAME, unit/NAME.service or unit/NAME.service/INSTANCE";

/// A workload of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Workload {
    /// A container of a pod: the pod's namespace, and its name there.
    Pod(String, String),
    /// A container without a pod.
    Container(String),
    /// A service of systemd's, and which one of a template.
    Unit(String, Option<String>),
}

/// What a baggage says that can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonsense;

impl Workload {
    /// A container by its name, in the namespace of its pod if it is in one; `None` for
    /// names that can't stand in a SPIFFE id.
    pub fn container(namespace: Option<&str>, name: &str) -> Option<Self> {
        let named = named(name)?;
        match namespace {
            Some(namespace) => Some(Self::Pod(self::named(namespace)?, named)),
            None => Some(Self::Container(named)),
        }
    }

    /// A unit by systemd's name of it. Services alone: scopes are sessions and containers.
    pub fn unit(name: &str) -> Option<Self> {
        let name = name.strip_suffix(".service").filter(|_| name.len() <= MAX_NAME)?;
        let (name, instance) = match name.split_once('@') {
            Some((name, instance)) => (name, Some(named(instance)?)),
            None => (name, None),
        };
        Some(Self::Unit(format!("{}.service", named(name)?), instance))
    }

    /// The unit that a process of this cgroup is of, by its path below the mount. In a
    /// container it is none, whichever made that.
    pub fn of_cgroup(path: &str) -> Option<Self> {
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        if ends.clone().any(|end| owner(&path[..end]).is_some()) {
            return None;
        }
        Self::unit(path.split('/').skip(1).find(|it| !it.ends_with(".slice"))?)
    }

    /// Reads a name below a node's.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split('/').collect::<Vec<_>>()[..] {
            ["workload", namespace, name] => Self::container(Some(namespace), name),
            ["container", name] => Self::container(None, name),
            ["unit", name] => Self::unit(name).filter(|it| matches!(it, Self::Unit(_, None))),
            ["unit", name, instance] => {
                let name = name.strip_suffix(".service").filter(|it| !it.contains('@'))?;
                Self::unit(&format!("{name}@{instance}.service"))
            }
            _ => None,
        }
    }

    /// Whether a text begins as such a name does.
    pub fn is_kind(text: &str) -> bool {
        matches!(text.split('/').next(), Some("workload" | "container" | "unit"))
    }

    /// As the header has it.
    pub fn baggage(&self) -> String {
        match self {
            Self::Pod(namespace, name) => format!("{NAMESPACE}={namespace},{SERVICE}={name}"),
            Self::Container(name) => format!("{CONTAINER}={name}"),
            Self::Unit(name, None) => format!("{UNIT}={name}"),
            Self::Unit(name, Some(instance)) => {
                let name = name.strip_suffix(".service").unwrap_or(name);
                format!("{UNIT}={name}@{instance}.service")
            }
        }
    }

    /// Reads the header's values; `None` if they name no workload. What others may have to
    /// say besides is passed over.
    pub fn read<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<Self>, Nonsense> {
        let (mut said, mut length) = ([None; 4], 0);
        for value in values {
            length += value.len();
            let text = str::from_utf8(value).ok().filter(|_| length <= MAX_BAGGAGE);
            for member in text.ok_or(Nonsense)?.split(',') {
                // Without its properties.
                let member = member.split(';').next().unwrap_or_default();
                let Some((key, value)) = member.split_once('=') else { continue };
                let known = [NAMESPACE, SERVICE, CONTAINER, UNIT];
                let Some(at) = known.iter().position(|it| *it == key.trim()) else { continue };
                let value = value.trim();
                if !value.is_empty() && said[at].replace(value).is_some() {
                    return Err(Nonsense);
                }
            }
        }
        let one = match said {
            [None, None, None, None] => return Ok(None),
            [Some(namespace), Some(name), None, None] => Self::container(Some(namespace), name),
            [None, None, Some(name), None] => Self::container(None, name),
            [None, None, None, Some(name)] => Self::unit(name),
            _ => None,
        };
        one.map(Some).ok_or(Nonsense)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(namespace, name) => write!(f, "workload/{namespace}/{name}"),
            Self::Container(name) => write!(f, "container/{name}"),
            Self::Unit(name, None) => write!(f, "unit/{name}"),
            Self::Unit(name, Some(instance)) => write!(f, "unit/{name}/{instance}"),
        }
    }
}

fn named(text: &str) -> Option<String> {
    (is_segment(text) && text.len() <= MAX_NAME).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<String>, Nonsense> {
        Workload::read([text.as_bytes()].into_iter()).map(|it| it.map(|it| it.to_string()))
    }

    #[test]
    fn a_name_goes_over_in_a_baggage_and_comes_back() {
        for name in [
            "workload/shop/checkout",
            "container/checkout_1",
            "unit/checkout.service",
            "unit/app.service/blue-1",
        ] {
            let workload = Workload::parse(name).expect(name);
            assert_eq!(workload.to_string(), name);
            assert_eq!(read(&workload.baggage()), Ok(Some(name.into())));
        }
        // As ztunnel has it.
        let of_ztunnel = "k8s.cluster.name=K,k8s.namespace.name=shop,k8s.deployment.name=web,\
                          service.name=checkout,service.version=v1";
        assert_eq!(read(of_ztunnel), Ok(Some("workload/shop/checkout".into())));
        let spaced = " k8s.namespace.name = shop ; x=1 , service.name=checkout;y";
        assert_eq!(read(spaced), Ok(Some("workload/shop/checkout".into())));
    }

    #[test]
    fn who_says_nothing_of_a_workload_is_the_node_alone() {
        for text in ["", ",,", "a=b", "service.version=1", "k8s.namespace.name=,service.name="] {
            assert_eq!(read(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn what_can_not_be_a_name_is_none() {
        let long = format!("container.name={}", "x".repeat(MAX_NAME + 1));
        let endless = format!("a={},container.name=x", "x".repeat(MAX_BAGGAGE));
        for text in [
            &*long,
            &*endless,
            "container.name=..",
            "container.name=../../../b/workload/shop/checkout",
            "container.name=a/b",
            "container.name=%2e%2e",
            "container.name=a b",
            "container.name=a\u{7f}",
            "container.name=ä",
            "container.name=*",
            "container.name=a,container.name=a",
            "container.name=a,systemd.unit.name=b.service",
            "service.name=checkout",
            "k8s.namespace.name=shop",
            "k8s.namespace.name=..,service.name=checkout",
            "k8s.namespace.name=shop,service.name=spiffe://r1/node/b",
            "systemd.unit.name=session-1.scope",
            "systemd.unit.name=@.service",
            "systemd.unit.name=a@b@c.service",
        ] {
            assert_eq!(read(text), Err(Nonsense), "{text}");
        }
        assert_eq!(Workload::read([&b"container.name=\xff"[..]].into_iter()), Err(Nonsense));
        let twice = [&b"container.name=a"[..], b"container.name=b"];
        assert_eq!(Workload::read(twice.into_iter()), Err(Nonsense));
        for name in ["workload/shop", "workload/shop/a/b", "unit/a@b.service", "unit/a", "pod/x"] {
            assert_eq!(Workload::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_process_is_of_the_unit_that_its_cgroup_is_below() {
        let id = "8d0c27b5e0a9f0a3b1f1f6f6b1c9d3a4e5f60718293a4b5c6d7e8f9001122334";
        let of = |path: &str| Workload::of_cgroup(path).map(|it| it.to_string());
        let unit = |name: &str| Some(format!("unit/{name}"));
        assert_eq!(of("/system.slice/shop.service"), unit("shop.service"));
        assert_eq!(of("/system.slice/shop.service/worker/1"), unit("shop.service"));
        let template = "/system.slice/system-app.slice/app@blue.service";
        assert_eq!(of(template), unit("app.service/blue"));
        let of_a_user = "/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service";
        assert_eq!(of(of_a_user), unit("user.service/1000"));
        for path in [
            "/",
            "",
            "/init.scope",
            "/user.slice/user-1000.slice/session-3.scope",
            "/system.slice/app@a\\x2db.service",
            // A container that nobody has told of is no unit, wherever it is.
            &format!("/system.slice/docker-{id}.scope"),
            &format!("/system.slice/containerd.service/pod1/{id}"),
            &format!("/system.slice/docker-{id}.scope/system.slice/shop.service"),
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
