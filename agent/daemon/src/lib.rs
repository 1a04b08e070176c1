//! The agent.

#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use purlin_core::inventory::Inventory;
use purlin_proto::api;

/// What the agent (and every command that must find it) needs to start.
pub mod boot {
    use super::*;
    /// Resolved start-up settings.
    #[derive(Clone, Debug)]
    pub struct Boot {
        /// Socket of the local API.
        pub socket: PathBuf,
        /// State directory.
        pub state_dir: PathBuf,
    }
    impl Boot {
        /// Reads `/etc/purlin/purlin.toml` or `file`, then the environment.
        /// The error lists every reason.
        pub fn load(_file: Option<&Path>) -> Result<Self, Vec<api::Refusal>> {
            todo!()
        }
    }
    /// The whole file with comments and defaults, for `purlin config default`.
    pub fn default_file() -> String {
        todo!()
    }
}

/// What can be told from the state directory when the agent is dead.
pub mod offline {
    use super::*;
    /// `purlin queue show`
    pub fn queue(_boot: &boot::Boot) -> Result<api::Queue, String> {
        todo!()
    }
    /// `purlin config show`
    pub fn config(_boot: &boot::Boot) -> Result<api::Config, String> {
        todo!()
    }
    /// `purlin config history`
    pub fn history(_boot: &boot::Boot) -> Result<api::History, String> {
        todo!()
    }
}

/// The helper process.
pub mod helper {
    use super::*;
    /// `purlin helper`: serves requests on standard input, a socket, until it closes.
    pub fn main() -> ExitCode {
        todo!()
    }
    /// Reads the whole machine (or the dump at `root`) through a helper process,
    /// each part under a deadline.
    pub async fn inventory(_root: Option<&Path>) -> Inventory {
        todo!()
    }
}

/// `purlin agent`: runs until a signal. Prints its own errors.
pub fn main(_config: Option<&Path>) -> ExitCode {
    todo!()
}
