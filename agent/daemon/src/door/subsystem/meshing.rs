//! What the mesh is to do. Its task hands whole tables to the mesh process, and shows
//! which one is in force there. What a table does not concern goes on through it.
//!
//! A mesh that can't be reached fails a change of its own table, and no other: it runs
//! on without the agent, and whatever mends it must be possible to apply.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use prost::Message;
use purlin_core::{
    inventory::Inventory,
    mesh::{model::Listener, table::Key},
    settings::{Endpoint, Refusal, Settings},
};
use purlin_mesh::wire::SECRET;
use purlin_proto::v1;
use tokio::{sync::watch, time};

use super::{Disturbs, Found, Subsystem, Work};
use crate::{
    mesh::{Failed, Seen, Wanted},
    secret::Store,
};

/// For the mesh to take a table, and standalone to be started for it. Less than a step
/// may take, so that the reason is told.
const TAKE: Duration = Duration::from_secs(9);

/// The mesh.
#[derive(Debug)]
pub struct Meshing {
    /// Of the agent's state directory.
    pub incarnation: u64,
    /// What its task is told.
    pub wanted: watch::Sender<Wanted>,
    /// How it is.
    pub seen: watch::Receiver<Seen>,
    /// Whether the last change was one of the mesh's table.
    pub touched: AtomicBool,
    /// What documents refer to.
    pub secrets: Store,
}

impl Meshing {
    /// With the secrets that it refers to; one that is gone since the document was checked
    /// stays a reference, which opens nothing.
    fn table(&self, settings: &Settings) -> Option<v1::MeshTable> {
        let mesh = settings.mesh.value.as_ref();
        let mut mesh = mesh.and_then(|it| v1::Mesh::decode(&it.bytes[..]).ok());
        for key in mesh.iter_mut().flat_map(|it| &mut it.discovery_keys) {
            match key.strip_prefix(SECRET).map(|name| self.secrets.read(name)) {
                Some(Ok(secret)) => *key = secret,
                Some(Err(why)) => tracing::error!(why, "a secret of the mesh is gone"),
                None => {}
            }
        }
        let (generation, incarnation) = (settings.generation?, self.incarnation);
        let brokers = settings.endpoint.value.iter().chain(&settings.fallbacks.value);
        let brokers =
            brokers.filter(|it| it.tls && mesh.is_some()).map(Endpoint::authority).collect();
        Some(v1::MeshTable { generation, incarnation, mesh, brokers })
    }

    /// What is wrong with a key; never the key.
    fn refused(&self, key: &Key) -> Option<(String, &'static str, String)> {
        let hint = "put it in the node's `secrets` directory, mode 0600, or systemd's credentials";
        let Key::Secret(name) = key else {
            let limit = "secret:NAME: brokers keep documents, and a key is not for them";
            return Some(("a key".into(), limit, hint.into()));
        };
        let (value, limit) = (format!("{SECRET}{name}"), "64 hexadecimal digits");
        match self.secrets.read(name) {
            Err(why) => Some((value, limit, format!("{why}; {hint}"))),
            Ok(secret) => {
                let is_key = secret.len() == 64 && secret.bytes().all(|it| it.is_ascii_hexdigit());
                let hint = "e.g. by `openssl rand -hex 32`";
                (!is_key).then(|| (value, limit, hint.into()))
            }
        }
    }
}

impl Subsystem for Meshing {
    fn name(&self) -> &'static str {
        "mesh"
    }

    fn check(&self, settings: &Settings, _machine: &Inventory) -> Vec<Refusal> {
        let keys = settings.mesh.value.iter().flat_map(|it| &it.table.discovery_keys).enumerate();
        let refused = keys.filter_map(|(n, key)| {
            let (value, limit, hint) = self.refused(key)?;
            let path = format!("mesh.discovery_keys[{n}]");
            Some(Refusal { path, value, limit: limit.into(), hint })
        });
        refused.collect()
    }

    /// A table is put in force under way. What ends is what came in at a listener that is
    /// no more.
    fn disturbs<'a>(&'a self, now: &'a Settings, then: &'a Settings) -> Found<'a> {
        let listeners = |it: &'a Settings| {
            it.mesh.value.as_ref().map_or(&[] as &[Listener], |mesh| &mesh.table.listeners)
        };
        let (before, after) = (listeners(now), listeners(then));
        let at = |it: &&Listener| (it.address, it.protocol);
        let stays = |it: &&Listener| after.iter().any(|other| at(&other) == at(it));
        let closed = before.iter().filter(|it| !stays(it));
        let what: Vec<_> = closed
            .map(|it| format!("listener {} at {} closes: connections end", it.name, it.address))
            .collect();
        Box::pin(async { if what.is_empty() { Disturbs::Nothing } else { Disturbs::Reload(what) } })
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        let Some(table) = self.table(&settings) else { return Box::pin(async { Ok(()) }) };
        let before = self.wanted.borrow().clone();
        // The first one, at the start, is what the mesh has already or will be handed.
        let touched = before.table.is_some_and(|before| before.mesh != table.mesh);
        self.touched.store(touched, Relaxed);
        // A mesh that isn't there does nothing already.
        let may_be_away = !touched || table.mesh.is_none();
        let number = before.number + 1;
        self.wanted.send_replace(Wanted { number, table: Some(Arc::new(table)) });
        let mut seen = self.seen.clone();
        Box::pin(async move {
            let tried = seen.wait_for(|seen| seen.number >= number);
            let failed = match time::timeout(TAKE, tried).await {
                Ok(Ok(seen)) => seen.failed.clone(),
                _ => Some(Failed::Unreachable("the mesh has not taken its table in time".into())),
            };
            match failed {
                Some(Failed::Unreachable(why)) if !may_be_away => Err(why),
                Some(Failed::Refused(why)) => Err(why),
                _ => Ok(()),
            }
        })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let result = match (self.table(settings), &*self.seen.borrow()) {
            (None, _) => Ok(()),
            (Some(wanted), seen) => match (&seen.failed, seen.in_force) {
                (Some(Failed::Unreachable(_)), _) if wanted.mesh.is_none() => Ok(()),
                (Some(Failed::Unreachable(_)), _) if !self.touched.load(Relaxed) => Ok(()),
                (Some(Failed::Unreachable(why) | Failed::Refused(why)), _) => Err(why.clone()),
                // Another agent's, while there is no document.
                (None, _) if wanted.generation == 0 => Ok(()),
                (None, Some((incarnation, generation)))
                    if (incarnation, generation) == (wanted.incarnation, wanted.generation) =>
                {
                    seen.unbound.clone().map_or(Ok(()), Err)
                }
                (None, in_force) => {
                    let has = in_force.map_or("no table".into(), |(_, it)| {
                        format!("the table of generation {it}")
                    });
                    Err(format!("it has {has}"))
                }
            },
        };
        Box::pin(async { result })
    }
}

#[cfg(test)]
mod tests {
    use purlin_core::settings::Start;

    use super::*;
    use crate::{document::Format, door::judge};

    fn settings(listeners: &str) -> Settings {
        let document = format!("version = 1\n{listeners}");
        let (_, desired) =
            judge::read(Format::Toml, document.as_bytes(), None).expect("it is good");
        Settings::resolve(&Start::default(), Some(&desired))
    }

    #[test]
    fn a_key_is_a_secret_of_the_node_and_what_is_handed_over_is_the_key() {
        let state = tempfile::tempdir().expect("a directory");
        let meshing = Meshing {
            incarnation: 1,
            wanted: watch::channel(Wanted::default()).0,
            seen: watch::channel(Seen::default()).1,
            touched: false.into(),
            secrets: Store::of(state.path()),
        };
        let keyed = |key: &str| {
            settings(&format!("[mesh]\ndiscovery_keys = [\"{key}\"]\n")).of_generation(Some(3))
        };
        let refused = |key: &str| {
            let refusals = meshing.check(&keyed(key), &Inventory::default());
            let told = refusals.iter().map(|it| format!("{}: {}", it.path, it.value));
            told.collect::<Vec<_>>().join("; ")
        };
        let key = "ab".repeat(32);
        assert_eq!(refused(&key), "mesh.discovery_keys[0]: a key");
        let absent = "mesh.discovery_keys[0]: secret:rack-key";
        assert_eq!(refused("secret:rack-key"), absent);
        std::fs::create_dir(state.path().join("secrets")).expect("made");
        let file = state.path().join("secrets/rack-key");
        std::fs::write(&file, "short").expect("written");
        assert_eq!(refused("secret:rack-key"), absent);
        std::fs::write(&file, format!("{key}\n")).expect("written");
        assert_eq!(refused("secret:rack-key"), "");
        let table = meshing.table(&keyed("secret:rack-key")).expect("a table");
        assert_eq!(table.mesh.expect("a mesh").discovery_keys, vec![key.clone()]);
        let shown = format!("{:?}", keyed("secret:rack-key").rows());
        assert!(shown.contains("secret:rack-key") && !shown.contains(&key), "{shown}");
    }

    #[tokio::test]
    async fn a_listener_that_is_no_more_ends_its_connections_and_any_other_change_ends_none() {
        let meshing = Meshing {
            incarnation: 1,
            wanted: watch::channel(Wanted::default()).0,
            seen: watch::channel(Seen::default()).1,
            touched: false.into(),
            secrets: Store::of("/nowhere".as_ref()),
        };
        let listener = |name, port| {
            format!("[[mesh.listeners]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n")
        };
        let both = settings(&(listener("web", 80) + &listener("db", 81)));
        let renamed = settings(&(listener("www", 80) + &listener("db", 81)));
        let moved = settings(&(listener("web", 80) + &listener("db", 82)));
        assert_eq!(meshing.disturbs(&both, &renamed).await, Disturbs::Nothing);
        assert_eq!(meshing.disturbs(&settings(""), &both).await, Disturbs::Nothing);
        let closes = "listener db at 127.0.0.1:81 closes: connections end".to_owned();
        assert_eq!(meshing.disturbs(&both, &moved).await, Disturbs::Reload(vec![closes]));
    }
}
