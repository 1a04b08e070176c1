//! One-time tokens: handed out, and spent by the first node that uses them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use purlin_core::trust::selects;
use purlin_daemon::{
    enrol::{
        Chain, certificate,
        token::{self, SECRET_BYTES},
    },
    trust,
};
use purlin_proto::v1::EnrolToken;
use serde::{Deserialize, Serialize};

use super::{FLEET, make_dir, now, read, write_new};
use crate::{
    args::TokenCommand,
    exit::{Ended, Exit, Failure},
    output::{Output, Page},
    table::{self, Column::*, Width},
    units,
};

const DIR: &str = "tokens";
/// Of the id: enough that none is made twice.
const ID_BYTES: usize = 8;

/// Whom a token let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spent {
    pub node: String,
    pub unix_s: u64,
    /// The certificate that it was spent for, PEM.
    pub certificate: String,
}

impl Spent {
    pub fn chain(&self) -> Result<Chain, String> {
        certificate::chain(self.certificate.as_bytes())
    }
}

/// A token that was handed out.
pub struct Token {
    dir: PathBuf,
    pub token: EnrolToken,
}

impl Token {
    /// The token of that id.
    pub fn find(authority: &Path, id: &str) -> Result<Self, String> {
        let dir = authority.join(DIR);
        // It came from a stranger, and becomes a path.
        let is_id = id.len() == 2 * ID_BYTES && id.bytes().all(|b| b.is_ascii_hexdigit());
        let path = dir.join(format!("{id}.token"));
        if !is_id || !path.exists() {
            return Err("no such token was handed out".into());
        }
        let token = token::parse(&read(&path)?)?;
        Ok(Self { dir, token })
    }

    /// Whom it let in, if it is spent.
    pub fn spent(&self) -> Result<Option<Spent>, String> {
        let path = self.spent_file();
        if !path.exists() {
            return Ok(None);
        }
        let spent = serde_json::from_str(&read(&path)?);
        spent.map(Some).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Spends it, once: whoever is later is refused.
    pub fn spend(&self, node: &str, chain: &Chain) -> Result<(), String> {
        let certificate = certificate::pem(chain);
        let spent = Spent { node: node.into(), unix_s: now(), certificate };
        let text = serde_json::to_string(&spent).map_err(|error| error.to_string())?;
        write_new(&self.spent_file(), &text, 0o600)
    }

    fn spent_file(&self) -> PathBuf {
        self.dir.join(format!("{}.spent", self.token.id))
    }

    fn row(&self) -> Result<Row, String> {
        let spent = self.spent()?;
        let state = match &spent {
            Some(_) => "spent",
            None if self.token.expires_unix_s <= now() => "expired",
            None => "open",
        };
        Ok(Row {
            id: self.token.id.clone(),
            node: self.token.node.clone(),
            state,
            until_unix_s: self.token.expires_unix_s,
            by: spent.as_ref().map(|it| it.node.clone()),
        })
    }
}

#[derive(Serialize)]
struct Row {
    id: String,
    /// For whom it is.
    node: String,
    state: &'static str,
    until_unix_s: u64,
    /// Who spent it.
    by: Option<String>,
}

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<Row>,
}

impl Page for Tokens {
    fn page(&self, width: Width) -> String {
        if self.tokens.is_empty() {
            return "no token was handed out: `purlin fleet token make`\n".into();
        }
        let heads = [Whole("token"), Left("for"), Left("state"), Whole("until"), Left("spent by")];
        let rows = self.tokens.iter().map(|row| {
            let until = units::time(row.until_unix_s * 1000);
            let by = row.by.clone().unwrap_or_default();
            vec![row.id.clone(), row.node.clone(), row.state.into(), until, by]
        });
        table::columns(&heads, rows, width)
    }
}

/// `purlin fleet token …`
pub fn run(command: &TokenCommand, output: &Output) -> Ended {
    match command {
        TokenCommand::Make { authority, node, lasts } => {
            let made = make(authority, node, lasts.as_secs()).map_err(Failure::Failed)?;
            output.text(&format!("{made}\n"))?;
        }
        TokenCommand::List { authority } => {
            let page = Tokens { tokens: list(authority).map_err(Failure::Failed)? };
            output.show(&page, |width| page.page(width))?;
        }
        TokenCommand::Revoke { authority, id } => {
            let token = Token::find(authority, id).map_err(Failure::Failed)?;
            let path = token.dir.join(format!("{id}.token"));
            let gone = fs::remove_file(&path);
            gone.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
            output.text(&format!("Token {id} lets nobody in any more.\n"))?;
        }
    }
    Ok(Exit::Ok)
}

pub fn make(authority: &Path, node: &str, lasts_s: u64) -> Result<String, String> {
    let ca = certificate::chain(read(&authority.join("ca.pem"))?.as_bytes())?;
    let fleet = read(&authority.join(FLEET)).map_err(|why| {
        format!("{why}; it holds the fleet's name, for an authority that is older write it there")
    })?;
    let token = EnrolToken {
        id: hex::encode(trust::random::<ID_BYTES>()?),
        secret: trust::random::<SECRET_BYTES>()?.to_vec().into(),
        fleet: fleet.trim().into(),
        node: node.into(),
        authority: certificate::pin(&ca[0])?.into(),
        expires_unix_s: now() + lasts_s,
    };
    let text = token::write(&token);
    let dir = authority.join(DIR);
    make_dir(&dir)?;
    write_new(&dir.join(format!("{}.token", token.id)), &text, 0o600)?;
    Ok(text)
}

fn list(authority: &Path) -> Result<Vec<Row>, String> {
    let files = fs::read_dir(authority.join(DIR)).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let ids = names.filter_map(|name| name.strip_suffix(".token").map(str::to_owned));
    let mut rows =
        ids.map(|id| Token::find(authority, &id)?.row()).collect::<Result<Vec<_>, String>>()?;
    rows.sort_by_key(|row| row.until_unix_s);
    Ok(rows)
}

/// Whether it is for that node.
pub fn is_for(token: &EnrolToken, node: &str) -> bool {
    selects(&token.node, node)
}
