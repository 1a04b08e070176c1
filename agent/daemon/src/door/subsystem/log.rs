//! How much the agent writes about itself.

use std::sync::Arc;

use purlin_core::settings::Settings;

use super::{Subsystem, Work};
use crate::logging::LevelControl;

/// The log's level.
#[derive(Debug)]
pub struct Log {
    /// Sets it.
    pub level: LevelControl,
}

impl Subsystem for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        self.level.set(settings.log_level.value);
        Box::pin(async { Ok(()) })
    }

    fn read_back<'a>(&'a self, settings: &'a Settings) -> Work<'a> {
        let level = settings.log_level.value;
        let result = match self.level.is(level) {
            true => Ok(()),
            false => Err(format!("the level is not {}", level.name())),
        };
        Box::pin(async { result })
    }
}
