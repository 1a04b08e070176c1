//! Who may ask what of the agent over its socket.
//!
//! The kernel tells who is at the other end: the user, and the groups that the process had
//! when it connected. root and the agent's own user are admins; a group makes others
//! viewers, technicians or admins. What a request needs is said by one table, [`needed`],
//! and refused in one place, [`authorize`].

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use nix::unistd::{Gid, Group, Uid};
use purlin_proto::api;
use tokio::net::{UnixStream, unix::UCred};

use super::{Access, Failure, failure};
use crate::boot::RoleGroups;

/// What somebody may do; each may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// What can be undone: try, confirm and revert a document, acknowledge an alarm, accept
    /// the hardware, bring records of another node.
    Technician,
    /// What can't be: throw records away, stand in for a container runtime.
    Admin,
}

impl Role {
    const ALL: [Role; 3] = [Role::Viewer, Role::Technician, Role::Admin];

    fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Technician => "technician",
            Role::Admin => "admin",
        }
    }
}

/// What changes nothing, though it is no GET.
pub(super) const ASKS_ONLY: [&str; 3] =
    ["/v1/config/plan", "/v1/link/test", "/v1/placement/what-if"];
/// What a technician may do; with a slash at its end, whatever is below.
const TECHNICIANS: [&str; 10] = [
    "/v1/alarms/",
    "/v1/rack/identify",
    "/v1/config",
    "/v1/config/confirm",
    "/v1/config/revert",
    "/v1/hardware/baseline",
    "/v1/placement/pause",
    "/v1/placement/repack",
    "/v1/placement/resume",
    "/v1/queue/import",
];
/// Only a plan unless it is told to apply it.
const REPACK: &str = "/v1/placement/repack";

/// The role that a request needs. What nobody has thought of is an admin's.
fn needed(method: &Method, path: &str, query: Option<&str>) -> Role {
    let is_plan = path == REPACK && !query.is_some_and(|query| query.contains("apply=true"));
    if method == Method::GET || ASKS_ONLY.contains(&path) || is_plan {
        return Role::Viewer;
    }
    let is_technicians =
        TECHNICIANS.iter().any(|it| path == *it || it.ends_with('/') && path.starts_with(it));
    if is_technicians { Role::Technician } else { Role::Admin }
}

/// Groups that give roles.
#[derive(Clone, Debug)]
pub struct Roles {
    /// In the order of [`Role::ALL`]; without a number where the machine has no such group.
    groups: [(String, Option<u32>); 3],
}

impl Roles {
    /// Looks the groups up, once.
    pub fn new(names: &RoleGroups) -> Self {
        let find = |name: &String| {
            let group = Group::from_name(name).ok().flatten();
            (name.clone(), group.map(|group| group.gid.as_raw()))
        };
        Self { groups: [find(&names.viewer), find(&names.technician), find(&names.admin)] }
    }

    /// The role of who is at the other end, and why; nothing if they have none.
    fn of(&self, peer: &Peer) -> Option<(Role, String)> {
        let cred = peer.cred.as_ref()?;
        if cred.uid() == 0 || cred.uid() == Uid::effective().as_raw() {
            return Some((Role::Admin, "root and the agent's own user are".into()));
        }
        let has = |gid: u32| cred.gid() == gid || peer.groups.contains(&gid);
        let by_group = Role::ALL.into_iter().zip(&self.groups).rev().find_map(|(role, group)| {
            let (name, gid) = group;
            has((*gid)?).then(|| (role, format!("by group {name}")))
        });
        by_group.or_else(|| {
            has(Gid::effective().as_raw())
                .then(|| (Role::Viewer, "by the agent's own group".into()))
        })
    }

    /// Who that is here, for themselves to see.
    pub(super) fn view(&self, peer: &Peer) -> api::You {
        let (role, why) = match self.of(peer) {
            Some((role, why)) => (role.name(), why),
            None => ("none", "by no group".into()),
        };
        api::You { uid: peer.cred.as_ref().map(UCred::uid), role: role.into(), why }
    }

    /// Why they may not, and what would let them.
    fn refusal(&self, peer: &Peer, needed: Role) -> Option<Failure> {
        let has = self.of(peer).map(|(role, _)| role);
        if has >= Some(needed) {
            return None;
        }
        let is = has.map_or("has no role", |has| match has {
            Role::Viewer => "is viewer",
            Role::Technician => "is technician",
            Role::Admin => "is admin",
        });
        let (group, gid) = &self.groups[needed as usize];
        let missing = if gid.is_none() { ", which this machine has not" } else { "" };
        Some(failure(
            StatusCode::FORBIDDEN,
            format!(
                "uid {} {is} here, and this needs {}: be in group {group}{missing} (usermod -aG \
                 {group} NAME, and log in anew), or try sudo",
                peer.uid(),
                needed.name()
            ),
        ))
    }
}

/// Lets a request through whose sender has the role for it.
pub(super) async fn authorize(
    State(access): State<Access>,
    request: Request,
    next: Next,
) -> Response {
    let needed = needed(request.method(), request.uri().path(), request.uri().query());
    let refusal = match request.extensions().get::<Peer>() {
        Some(peer) => access.roles.refusal(peer, needed),
        None => access.roles.refusal(&Peer::default(), needed),
    };
    match refusal {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    cred: Option<UCred>,
    groups: Vec<u32>,
}

impl Peer {
    /// As the kernel tells it.
    pub fn of(stream: &UnixStream) -> Self {
        use std::os::fd::AsFd;
        let groups = purlin_drivers::peer_groups(stream.as_fd()).unwrap_or_default();
        Self { cred: stream.peer_cred().ok(), groups }
    }

    /// For the record.
    pub fn name(&self) -> String {
        format!("uid {} (local)", self.uid())
    }

    fn uid(&self) -> String {
        self.cred.as_ref().map_or("unknown".into(), |peer| peer.uid().to_string())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_each_request_needs() {
        let document = super::super::openapi();
        let document = serde_json::to_value(&document).expect("it is JSON");
        let paths = document["paths"].as_object().expect("it has paths");
        let mut table = String::new();
        for (path, methods) in paths {
            for method in methods.as_object().expect("methods").keys() {
                let method: Method = method.to_uppercase().parse().expect("a method");
                if method != Method::GET {
                    let needed = needed(&method, path, Some("apply=true"));
                    table.push_str(&format!("{:<10} {method} {path}\n", needed.name()));
                }
            }
        }
        expect![[r#"
            technician POST /v1/alarms/{id}
            technician POST /v1/config
            technician POST /v1/config/confirm
            viewer     POST /v1/config/plan
            technician POST /v1/config/revert
            technician POST /v1/hardware/baseline
            viewer     POST /v1/link/test
            admin      POST /v1/placement/containers
            admin      DELETE /v1/placement/containers/{id}
            technician POST /v1/placement/pause
            technician POST /v1/placement/repack
            technician POST /v1/placement/resume
            viewer     POST /v1/placement/what-if
            technician POST /v1/queue/import
            admin      POST /v1/queue/purge
            technician POST /v1/rack/identify
        "#]]
        .assert_eq(&table);
        assert_eq!(needed(&Method::POST, REPACK, Some("budget_mib=7")), Role::Viewer, "a plan");
        assert_eq!(needed(&Method::DELETE, "/v1/tomorrow", None), Role::Admin);
    }

    #[tokio::test]
    async fn who_runs_the_agent_is_admin_and_who_is_not_told_by_the_kernel_is_nobody() {
        let names = ["no-such-a", "no-such-b", "no-such-c"].map(str::to_owned);
        let [viewer, technician, admin] = names;
        let roles = Roles::new(&RoleGroups { viewer, technician, admin });
        let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
        let this = Peer::of(&ours);
        assert_eq!(roles.of(&this).map(|(role, _)| role), Some(Role::Admin));
        assert!(roles.refusal(&this, Role::Admin).is_none());
        let (_, why) = roles.refusal(&Peer::default(), Role::Viewer).expect("refused");
        let why = &why.error;
        assert!(why.contains("group no-such-a, which this machine has not"), "{why}");
    }
}
