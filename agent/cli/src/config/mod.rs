//! `purlin config`: the settings in force, the documents they come from, and their
//! trials.
//!
//! A document goes to the agent as it was written; nothing here reads it. What is
//! said of it is what the agent said ([`page`]).

use purlin_daemon::{
    boot,
    document::{descriptor, schema},
    offline,
};
use purlin_proto::api::{self, Plan, Verdict};

use crate::{
    args::{ConfigCommand, Global},
    client::{Body, Client, DEADLINE},
    document,
    exit::{Ended, Exit, Failure},
    output::{Format, Output, Page, note},
    watch,
};

mod page;
mod trial;

pub use self::page::applied;

/// `purlin config …`
pub async fn run(command: &ConfigCommand, global: &Global, output: &Output) -> Ended {
    match command {
        ConfigCommand::Default => print_default(output),
        ConfigCommand::Schema => {
            let schema = schema::of(&descriptor("Desired"));
            output.text(&format!("{schema:#}\n"))?;
            Ok(Exit::Ok)
        }
        ConfigCommand::Show { generation: None } => {
            let client = Client::find(global)?;
            let fetch = async || client.get_or_read("/v1/config", offline::config).await;
            watch::show(output, None, fetch).await
        }
        ConfigCommand::Show { generation } => {
            let document = generation_of(&Client::find(global)?, *generation).await?;
            output.show(&document, |_| {
                format!("# {}\n\n{}", applied(&document.applied), toml(&document))
            })?;
            Ok(Exit::Ok)
        }
        ConfigCommand::Export { generation } => {
            let document = generation_of(&Client::find(global)?, *generation).await?;
            match global.output {
                Format::Table => output.text(&toml(&document))?,
                Format::Json | Format::Yaml => output.bare(&document.document)?,
            }
            Ok(Exit::Ok)
        }
        ConfigCommand::History => {
            let client = Client::find(global)?;
            let fetch = async || client.get_or_read("/v1/config/history", offline::history).await;
            watch::show(output, None, fetch).await
        }
        ConfigCommand::Diff => {
            let client = Client::find(global)?;
            let fetch = async || client.get::<api::Diff>("/v1/config/diff").await;
            watch::show(output, None, fetch).await
        }
        ConfigCommand::Plan { file, written } => {
            let body = document::read(file, written.format)?;
            let planned =
                Client::find(global)?.post::<Plan>("/v1/config/plan", body, DEADLINE).await;
            show(output, planned)
        }
        ConfigCommand::Try { file, written, timeout, manner } => {
            let body = document::read(file, written.format)?;
            let client = Client::find(global)?;
            let offered = trial::offer(&client, body, *timeout, manner).await;
            show(output, offered)
        }
        ConfigCommand::Apply { file, written, manner } => {
            let body = document::read(file, written.format)?;
            let client = Client::find(global)?;
            show(output, trial::apply(&client, body, manner).await)
        }
        ConfigCommand::Confirm { anyway } => {
            let path = format!("/v1/config/confirm?anyway={anyway}");
            let client = Client::find(global)?;
            show(output, client.post::<Verdict>(&path, Body::default(), DEADLINE).await)
        }
        ConfigCommand::Revert => {
            let client = Client::find(global)?;
            let undone: Result<Verdict, _> =
                client.post("/v1/config/revert", Body::default(), trial::REVERT_DEADLINE).await;
            let verdict = undone?;
            output.show(&verdict, |width| verdict.page(width))?;
            Ok(Exit::Ok)
        }
    }
}

fn print_default(output: &Output) -> Ended {
    output.text(&boot::default_file())?;
    Ok(Exit::Ok)
}

async fn generation_of(client: &Client, generation: Option<u64>) -> Result<api::Document, Failure> {
    let path = match generation {
        Some(number) => format!("/v1/config/document?generation={number}"),
        None => "/v1/config/document".into(),
    };
    match (client.get::<api::Document>(&path).await, client.boot()) {
        (Ok(answer), _) => Ok(answer.document),
        (Err(Failure::Unreachable(it)), Some(boot)) => {
            note(&format!("the agent can't be reached ({}); this is what is on disk", it.found));
            offline::document(boot, generation).map_err(Failure::Failed)
        }
        (Err(failure), _) => Err(failure),
    }
}

/// A document as TOML; it was read from one tree of tables, so that it is one.
fn toml(document: &api::Document) -> String {
    toml::to_string(&document.document).unwrap_or_default()
}

/// Shows what became of an offer; a program gets the reasons for a refusal as a
/// document too.
fn show<T: Page>(output: &Output, offered: Result<T, Failure>) -> Ended {
    match offered {
        Ok(document) => {
            output.show(&document, |width| document.page(width))?;
            Ok(document.exit())
        }
        Err(Failure::Refused(error)) if !output.is_table() => {
            output.show(&error, |_| String::new())?;
            Ok(Exit::Refused)
        }
        Err(failure) => Err(failure),
    }
}
