//! A bus that two nodes are wired to: listens before it speaks and while it has nothing to
//! ask. Who speaks is the core's rule ([`Shared`]).
//!
//! What was heard and is no answer to us is taken for another node's. The late answer of a
//! device, or noise, is too, and costs a pause.

use std::{io, time::Duration};

use purlin_core::{
    modbus::pdu::Request,
    rack::shared::{MAKES_ITSELF_HEARD, Role, Shared, Turn},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    bus::{Ask, Bus},
    rtu::{Failure, Line},
};

/// This node's part on a bus.
#[derive(Debug)]
pub struct Sharing {
    role: Role,
    rule: Shared,
    began: Instant,
    /// When we spoke last.
    spoke: Instant,
    /// Bytes that were another's, as far as they were looked at.
    foreign: u64,
}

impl Sharing {
    /// A bus that has just been opened.
    pub fn new(role: Role) -> Self {
        let now = Instant::now();
        let rule = Shared::new(role, Duration::ZERO);
        Self { role, rule, began: now, spoke: now, foreign: 0 }
    }

    /// Whether this node has the bus.
    pub fn speaks(&self) -> bool {
        self.rule.speaks()
    }

    /// What this node is and does there, for a person.
    pub fn told(&self) -> String {
        format!("{}, {}", self.role, if self.speaks() { "speaks" } else { "listens" })
    }

    /// Whether what it is here to read is shown: a standby that listens reads nothing.
    pub fn reads(&self) -> bool {
        self.role == Role::Owner || self.speaks()
    }

    /// Listens until somebody is heard, a turn may be taken and is due, or it is time to
    /// look again; `true` if the turn may be taken now.
    pub async fn wait<P: AsyncRead + AsyncWrite + Unpin + Send>(
        &mut self,
        bus: &mut Bus,
        line: &mut Line<P>,
    ) -> io::Result<bool> {
        self.look(line);
        let until = match self.rule.next(self.began.elapsed()) {
            Turn::Listen(until) => self.began + until,
            Turn::Speak => match bus.due() {
                None => {
                    self.spoke = Instant::now();
                    return Ok(true);
                }
                Some(due) => {
                    let heard_by = self.spoke + MAKES_ITSELF_HEARD;
                    if Instant::now() >= heard_by {
                        self.spoke = Instant::now();
                        ask_anything(bus, line).await?;
                        return Ok(false);
                    }
                    due.min(heard_by)
                }
            },
        };
        line.listen(until).await?;
        self.look(line);
        Ok(false)
    }

    /// Looks whether another was heard.
    pub fn look<P: AsyncRead + AsyncWrite + Unpin + Send>(&mut self, line: &Line<P>) {
        let foreign = line.counts().foreign;
        if foreign != self.foreign {
            self.foreign = foreign;
            self.rule.heard(self.began.elapsed());
        }
    }
}

/// Makes itself heard: a read whose answer counts for nothing.
async fn ask_anything<P: AsyncRead + AsyncWrite + Unpin + Send>(
    bus: &Bus,
    line: &mut Line<P>,
) -> io::Result<()> {
    let Some(device) = bus.devices().first() else { return Ok(()) };
    let unit = device.map.unit(device.address);
    let sentinels = unit.sentinels;
    let Ok(read) = Request::read(sentinels.table, sentinels.start, sentinels.step) else {
        return Ok(());
    };
    match line.ask(&unit, &read).await {
        Err(Failure::Port(error)) => Err(error),
        _ => Ok(()),
    }
}
