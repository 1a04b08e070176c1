//! The far side: what an operator already runs.
//!
//! It is handed a load at a time, one after the other, so that what is of one node keeps
//! its order. A load is taken, or not now, or never; what is taken of it twice, because
//! an answer was lost, is the same to the far side: the same series at the same time, or
//! a line with the same number.

use purlin_daemon::http::{Poster, Refused};

use super::taken::Taken;
use crate::{args::Destination, exit::Failure};

mod influx;
mod jsonl;
mod otlp;

pub use jsonl::lines;

/// What of a load is handed on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Samples.
    Metrics,
    /// All but samples.
    Logs,
    /// All of it.
    All,
}

/// A far side.
#[derive(Debug)]
pub enum Far {
    /// OTLP over HTTP.
    Otlp(Poster, Vec<Header>),
    /// InfluxDB's line protocol over HTTP.
    Influx(Poster, Vec<Header>),
    /// JSON lines in files.
    Jsonl(jsonl::Files),
}

type Header = (&'static str, String);

impl Far {
    /// Nothing is connected yet.
    pub fn open(to: &Destination, token: Option<&str>) -> Result<Self, Failure> {
        let header = |scheme: &str| token.map(|it| ("authorization", format!("{scheme} {it}")));
        Ok(match to {
            Destination::Otlp(url) => {
                Self::Otlp(Poster::new(url.clone()), header("Bearer").into_iter().collect())
            }
            Destination::Influx(url) => {
                Self::Influx(Poster::new(url.clone()), header("Token").into_iter().collect())
            }
            Destination::Jsonl(dir) => {
                let files = jsonl::Files::open(dir);
                Self::Jsonl(
                    files
                        .map_err(|error| Failure::Failed(format!("{}: {error}", dir.display())))?,
                )
            }
        })
    }

    /// In how many parts a load is handed on.
    pub fn parts(&self) -> &'static [Part] {
        match self {
            Self::Otlp(..) => &[Part::Metrics, Part::Logs],
            _ => &[Part::All],
        }
    }

    /// Hands on a part of a load, once. How many values or lines the far side took the
    /// rest without.
    pub async fn put(&mut self, part: Part, load: &[Taken]) -> Result<u64, Refused> {
        match self {
            Self::Otlp(poster, headers) => otlp::put(poster, headers, part, load).await,
            Self::Influx(poster, headers) => influx::put(poster, headers, load).await,
            Self::Jsonl(files) => files.put(load),
        }
    }
}
