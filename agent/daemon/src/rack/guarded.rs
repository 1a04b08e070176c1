//! Asking a unit that may owe an answer: the core's guard around one exchange, the same
//! on a line and through a gateway. A gateway numbers its answers, but what it puts under
//! a number is what its own line says next.

use std::{collections::BTreeMap, future::Future, time::Duration};

use purlin_core::modbus::{
    guard::{Guard, Next},
    pdu::{Answer, Exception, Request},
};
use tokio::time::Instant;

use super::{
    bus::Ask,
    rtu::{Failure, Unit},
};

/// What each unit owes.
#[derive(Debug)]
pub struct Guards {
    began: Instant,
    of: BTreeMap<u8, Guard>,
    /// Sentinels that were asked for.
    pub sentinels: u64,
}

impl Default for Guards {
    fn default() -> Self {
        Self { began: Instant::now(), of: BTreeMap::new(), sentinels: 0 }
    }
}

impl Guards {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn of(&mut self, unit: &Unit) -> &mut Guard {
        self.of.entry(unit.address).or_insert_with(|| Guard::new(unit.order))
    }

    /// Notes that a request goes out.
    pub fn asked(&mut self, unit: &Unit, request: &Request) {
        let now = self.now();
        self.of(unit).asked(request, now);
    }
}

/// A link on which one request at a time is sent and answered.
pub trait Exchange {
    /// What its units owe.
    fn guards(&mut self) -> &mut Guards;

    /// Notes the request with the guards, sends it, and listens until its answer is there or
    /// its time is up.
    fn exchange(
        &mut self,
        unit: &Unit,
        request: &Request,
    ) -> impl Future<Output = Result<Result<Answer, Exception>, Failure>> + Send;
}

impl<E: Exchange + Send> Ask for E {
    /// Asks a unit, after a sentinel if it owes an answer.
    async fn ask(&mut self, unit: &Unit, request: &Request) -> Result<Answer, Failure> {
        let guards = self.guards();
        let now = guards.now();
        match guards.of(unit).next(now, unit.sentinels) {
            Next::Ask => {}
            Next::Wait(until) => return Err(Failure::Owes(until - now)),
            Next::Sentinel(read) => {
                guards.sentinels += 1;
                // A refusal has no length to tell whose it is.
                self.exchange(unit, &read).await?.map_err(|_| Failure::NoAnswer { heard: 5 })?;
                self.guards().of(unit).answered();
            }
        }
        let answer = self.exchange(unit, request).await?;
        if let Err(exception @ (Exception::NO_PATH | Exception::NO_TARGET)) = answer {
            // The gateway's word: the unit's own may follow.
            return Err(Failure::Unreached(exception));
        }
        // What may have been an echo proves nothing: the unit's own answer may follow.
        if !request.is_answered_by_its_echo() {
            self.guards().of(unit).answered();
        }
        answer.map_err(Failure::Refused)
    }
}
