//! The agent's own tasks: they have no settings, and a change under which one of them
//! fails is no good one.

use std::sync::Arc;

use purlin_core::settings::Settings;

use super::{Subsystem, Work};
use crate::tasks::Board;

/// Every named task.
#[derive(Debug)]
pub struct Agent {
    /// What is known of them.
    pub board: Board,
}

impl Subsystem for Agent {
    fn name(&self) -> &'static str {
        "agent"
    }

    fn apply(&self, _settings: Arc<Settings>) -> Work<'_> {
        Box::pin(async { Ok(()) })
    }

    fn read_back<'a>(&'a self, _settings: &'a Settings) -> Work<'a> {
        Box::pin(async { Ok(()) })
    }

    fn gate(&self, _by_hand: bool) -> Result<(), String> {
        let failing = self.board.tasks().into_iter().find(|it| !it.running && it.restarts > 0);
        failing.map_or(Ok(()), |task| {
            let error = task.last_error.unwrap_or_default();
            Err(format!("task {} has ended and waits for its restart: {error}", task.name))
        })
    }
}
