//! Whether an endpoint is well, by what it answers to checks: so many in a row turn it.

use alloc::string::String;
use core::time::Duration;

/// How endpoints of a service are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// From one check to the next.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Good ones in a row after which an endpoint is well.
    pub healthy_after: u32,
    /// Bad ones in a row after which it is not.
    pub unhealthy_after: u32,
}

/// What is asked of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// To accept a connection.
    Tcp,
    /// To answer a GET with a status from 200 to 399.
    Http {
        /// Path and query.
        path: String,
        /// Host; its address without one.
        host: Option<String>,
    },
    /// To answer `grpc.health.v1.Health/Check` with SERVING.
    Grpc {
        /// The service asked about; empty: the whole server.
        service: String,
    },
}

/// What is known of one endpoint, small enough for one atomic word. One that was never
/// checked is taken to be well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether it is not well.
    pub is_unhealthy: bool,
    /// Whether it was ever checked.
    pub is_known: bool,
    /// Checks in a row that say otherwise.
    pub row: u16,
}

impl Health {
    /// After a check. The first decides alone: there is nothing else to go by.
    pub fn checked(self, is_well: bool, by: &Check) -> Self {
        if !self.is_known {
            return Self { is_unhealthy: !is_well, is_known: true, row: 0 };
        }
        if is_well != self.is_unhealthy {
            return Self { row: 0, ..self };
        }
        let row = self.row.saturating_add(1);
        let enough = if is_well { by.healthy_after } else { by.unhealthy_after };
        match u32::from(row) >= enough {
            true => Self { is_unhealthy: !is_well, is_known: true, row: 0 },
            false => Self { row, ..self },
        }
    }

    /// As one word.
    pub fn to_bits(self) -> u32 {
        u32::from(self.row) | u32::from(self.is_unhealthy) << 16 | u32::from(self.is_known) << 17
    }

    /// From one word.
    pub fn from_bits(bits: u32) -> Self {
        Self { row: bits as u16, is_unhealthy: bits >> 16 & 1 == 1, is_known: bits >> 17 & 1 == 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a row of checks (`+` good, `-` bad) comes to after each: `w` well, `u` unhealthy.
    fn after(checks: &str) -> String {
        let by = Check {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_after: 2,
            unhealthy_after: 3,
        };
        let mut health = Health::default();
        let each = checks.chars().map(|it| {
            health = Health::from_bits(health.checked(it == '+', &by).to_bits());
            if health.is_unhealthy { 'u' } else { 'w' }
        });
        each.collect()
    }

    #[test]
    fn so_many_in_a_row_turn_it() {
        assert_eq!(after("++--+--+---"), "wwwwwwwwwwu");
        assert_eq!(after("+----+-++-"), "wwwuuuuuww");
    }

    #[test]
    fn the_first_decides_alone() {
        assert_eq!(after("-+"), "uu");
        assert_eq!(after("-++"), "uuw");
        assert_eq!(after("+"), "w");
    }
}
