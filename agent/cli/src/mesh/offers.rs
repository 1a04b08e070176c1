//! `purlin mesh offer` and `purlin mesh offers`: endpoints that nodes offer of themselves.

use purlin_proto::mesh::{OfferAsked, Offered, Offers};

use super::json;
use crate::{
    args::OfferArgs,
    client::{Client, DEADLINE},
    exit::{Ended, Exit},
    output::{Output, Page},
    table::{self, Column::*, Width},
};

/// `purlin mesh offer`
pub async fn offer(args: &OfferArgs, client: &Client, output: &Output) -> Ended {
    let asked = OfferAsked {
        service: args.service.clone(),
        address: args.address.clone(),
        weight: args.weight,
        source: None,
        undo: args.undo,
    };
    let offers: Offers = client.post("/v1/offers", json(&asked)?, DEADLINE).await?;
    output.show(&offers, |width| offers.page(width))?;
    Ok(Exit::Ok)
}

impl Page for Offers {
    fn page(&self, width: Width) -> String {
        let header = [
            Left("NODE"),
            Left("SERVICE"),
            Whole("ENDPOINT"),
            Right("WEIGHT"),
            Left("FROM"),
            Left("STATE"),
        ];
        let row = |it: &Offered| {
            vec![
                if it.node.is_empty() { "this one".into() } else { it.node.clone() },
                it.service.clone(),
                it.address.clone(),
                it.weight.to_string(),
                it.source.clone(),
                it.unused.as_ref().map_or("used".into(), |why| format!("not used: {why}")),
            ]
        };
        match self.offers.is_empty() {
            true => "no node offers any endpoint\n".into(),
            false => table::columns(&header, self.offers.iter().map(row), width),
        }
    }
}
