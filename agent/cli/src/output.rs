//! Standard output: which form a document takes there, and how it is written.
//!
//! Everything a command shows goes through [`Output`], whole documents at a time;
//! notes about it go to standard error, so that a pipe gets the document alone.
//! JSON and YAML have the same shape: the fields of the document, after `schema`.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use clap::ValueEnum;
use serde::Serialize;

use crate::{exit::Exit, table::Width};

/// Version of what `-o json` and `-o yaml` print. Fields may be added under the same
/// number; none is taken away or given another meaning.
const SCHEMA: u32 = 1;

/// What a terminal that doesn't tell its size is taken for: a serial console.
const TERMINAL_WIDTH: u16 = 80;

/// Home, and clear from there: what `clear` does on every terminal since the VT100.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// A document as a person reads it.
pub trait Page: Serialize {
    /// The text, at most `width` wide where it can be.
    fn page(&self, width: Width) -> String;

    /// How a command ends that has shown it.
    fn exit(&self) -> Exit {
        Exit::Ok
    }
}

/// The form of a document on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs; with --watch, one document a line.
    Json,
    /// For both; with --watch, documents parted by `---`.
    Yaml,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Even into a pipe.
    Always,
    /// Not at all.
    Never,
}

/// Standard output, as this run uses it.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    color: bool,
    terminal: bool,
    width: Width,
}

impl Output {
    /// Looks at standard output and the environment, once.
    pub fn new(format: Format, color: Color) -> Self {
        choice(color).write_global();
        let color = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        let terminal = io::stdout().is_terminal();
        Self { format, color, terminal, width: width(terminal) }
    }

    /// Writes one document: `value` for programs, `page` for people.
    pub fn show<T: Serialize>(
        &self,
        value: &T,
        page: impl FnOnce(Width) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Table => self.text(&page(self.width)),
            Format::Json => write(&(json(value, serde_json::to_string_pretty)? + "\n")),
            Format::Yaml => write(&yaml(value)?),
        }
    }

    /// Writes a document that is somebody else's, with nothing of ours in it.
    pub fn bare(&self, value: &impl Serialize) -> io::Result<()> {
        match self.format {
            Format::Yaml => write(&serde_saphyr::to_string(value).map_err(io::Error::other)?),
            _ => write(&(serde_json::to_string_pretty(value).map_err(io::Error::other)? + "\n")),
        }
    }

    /// Writes one of a row of documents, over the one before where that can be done.
    pub fn replace<T: Page>(&self, document: &T) -> io::Result<()> {
        let page = document.page(self.width);
        self.clear()?;
        self.append(document, || if self.terminal { page } else { page + "\n" })
    }

    /// Writes one of a row of documents, after the one before.
    pub fn append<T: Serialize>(&self, value: &T, page: impl FnOnce() -> String) -> io::Result<()> {
        match self.format {
            Format::Table => self.text(&page()),
            Format::Json => write(&(json(value, serde_json::to_string)? + "\n")),
            Format::Yaml => write(&("---\n".to_owned() + &yaml(value)?)),
        }
    }

    /// Clears the screen, where there is one and it shows tables.
    pub fn clear(&self) -> io::Result<()> {
        let smart = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        match self.terminal && smart && self.format == Format::Table {
            true => write(CLEAR),
            false => Ok(()),
        }
    }

    /// Writes text as it is, less its colours where there are none.
    pub fn text(&self, text: &str) -> io::Result<()> {
        match self.color {
            true => write(text),
            false => write(&strip_str(text).to_string()),
        }
    }

    /// True if a person is to read it, on a terminal.
    pub fn is_screen(&self) -> bool {
        self.terminal && self.is_table()
    }

    /// True if a person is to read it.
    pub fn is_table(&self) -> bool {
        self.format == Format::Table
    }
}

/// Says something about a document on standard error, which may be gone.
pub fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "purlin: {text}");
}

fn choice(color: Color) -> ColorChoice {
    match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::AlwaysAnsi,
        Color::Never => ColorChoice::Never,
    }
}

/// `COLUMNS` if it is set, else the terminal's; a pipe has no width.
fn width(terminal: bool) -> Width {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let seen = || {
        let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
        Some(width.0)
    };
    let usable = |width: &u16| *width > 0;
    told.filter(usable)
        .or_else(|| terminal.then(|| seen().filter(usable).unwrap_or(TERMINAL_WIDTH)))
}

/// A document with its version in front.
#[derive(Serialize)]
struct Versioned<'a, T> {
    schema: u32,
    #[serde(flatten)]
    document: &'a T,
}

impl<'a, T> Versioned<'a, T> {
    fn new(document: &'a T) -> Self {
        Self { schema: SCHEMA, document }
    }
}

fn json<'a, T: Serialize>(
    value: &'a T,
    form: impl FnOnce(&Versioned<'a, T>) -> serde_json::Result<String>,
) -> io::Result<String> {
    Ok(form(&Versioned::new(value))?)
}

fn yaml<T: Serialize>(value: &T) -> io::Result<String> {
    serde_saphyr::to_string(&Versioned::new(value)).map_err(io::Error::other)
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use purlin_proto::api::Helper;

    use super::*;

    fn helper() -> Helper {
        Helper { pid: Some(1), started: 1, ..Helper::default() }
    }

    #[test]
    fn json_has_its_version_and_then_the_document() {
        let text = json(&helper(), serde_json::to_string).unwrap();
        assert_eq!(
            text,
            r#"{"schema":1,"pid":1,"started":1,"abandoned":0,"stuck_pids":[],"error":null}"#
        );
    }

    #[test]
    fn yaml_has_the_same_shape() {
        let text = yaml(&helper()).unwrap();
        assert_eq!(
            text,
            "schema: 1\npid: 1\nstarted: 1\nabandoned: 0\nstuck_pids: []\nerror: null\n"
        );
    }

    #[test]
    fn yaml_reads_back_as_what_it_was() {
        let tricky = ["yes", "0x1f", "1e3", "null", "- a", "a: b", "#", "", "\u{1b}[2J", "a\nb"];
        let text = serde_saphyr::to_string(&tricky).unwrap();
        assert_eq!(serde_saphyr::from_str::<Vec<String>>(&text).unwrap(), tricky);
    }
}
