//! Renews this node's certificate at half of its life: by its own issuer, or by that of the
//! first node that has one. Nobody outside the rack is asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hyper::Method;
use tokio::time;

use crate::{
    control::Control,
    identity::{self, Identity},
    tunnel,
};

/// Between two looks at whether it is time.
const LOOK: Duration = Duration::from_secs(1);
/// After an attempt that failed; it doubles, as half of a life is left.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(600);

/// Keeps the certificate good, for ever.
pub async fn run(control: &Control) {
    let mut again = AGAIN;
    loop {
        time::sleep(LOOK).await;
        let identity = control.owner().keeper.identity().cloned();
        let Some(identity) = identity.filter(|it| it.is_to_be_renewed()) else { continue };
        match renew(control, &identity).await {
            Ok(()) => {
                tracing::info!(id = identity.id, "the certificate was renewed");
                control.owner().renewal_failed(None);
                again = AGAIN;
            }
            Err(why) => {
                tracing::warn!(why, ?again, "the certificate can't be renewed");
                control.owner().renewal_failed(Some(why));
                time::sleep(again).await;
                again = (again * 2).min(AGAIN_AT_MOST);
            }
        }
    }
}

async fn renew(control: &Control, identity: &Arc<Identity>) -> Result<(), String> {
    let (request, key) = identity::request()?;
    let chain = match identity.answer_own(&request) {
        Some(chain) => chain?,
        None => ask(control, identity, &request).await?,
    };
    let mut owner = control.owner();
    owner.keeper.renew(&chain, &key)?;
    owner.look_who();
    // Else it would be asked for over and over.
    match owner.keeper.identity().is_some_and(|it| it.is_to_be_renewed()) {
        true => Err("the one that came is due already: the issuer's clock is behind".into()),
        false => Ok(()),
    }
}

/// Asks one node after the other.
async fn ask(
    control: &Control,
    identity: &Arc<Identity>,
    request: &[u8],
) -> Result<Vec<u8>, String> {
    let peers: BTreeMap<_, _> = {
        let owner = control.owner();
        let named = owner.live().table.peers.iter().map(|it| (it.node.clone(), it.address));
        named.chain(owner.live().members.addresses()).collect()
    };
    let mut last = "mesh.peers names no other node".to_owned();
    for (node, address) in peers.iter().filter(|(node, _)| **node != identity.node) {
        let what = (Method::POST, "/v1/certificate");
        let asked = tunnel::client::ask(identity.clone(), node, *address, what, request.into());
        match asked.await {
            Ok(chain) => return Ok(chain),
            Err(error) => last = format!("{node}: {error}"),
        }
    }
    Err(format!("no node has an issuer that answers: {last}"))
}
