//! Asks who keeps this machine's clock how they do: chronyd, and ptp4l.
//!
//! A node without either is one whose kernel alone tells whether the clock was set.

mod chronyd;
mod ptp4l;

use purlin_core::{chrony::Tracking, metric::Point};
use purlin_proto::api;

/// Asks both.
#[derive(Debug, Default)]
pub struct Asker {
    number: u32,
    ptp4l: ptp4l::Asker,
}

impl Asker {
    /// What they say now, within two seconds.
    pub async fn ask(&mut self) -> Said {
        self.number = self.number.wrapping_add(1);
        Said { chronyd: chronyd::ask(self.number).await, ptp4l: self.ptp4l.ask().await }
    }
}

/// What they said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    chronyd: Option<Tracking>,
    ptp4l: Option<ptp4l::Said>,
}

impl Said {
    /// Whether one of them follows somebody's true time; `None` if nobody tells.
    pub fn is_synchronized(&self) -> Option<bool> {
        let chronyd = self.chronyd.as_ref().map(Tracking::is_synchronized);
        let ptp4l = self.ptp4l.and_then(|it| it.is_synchronized());
        chronyd.into_iter().chain(ptp4l).reduce(|one, other| one || other)
    }

    /// chronyd, for people and machines.
    pub fn service(&self) -> Option<api::TimeService> {
        self.chronyd.as_ref().map(chronyd::view)
    }

    /// The same of ptp4l.
    pub fn ptp(&self) -> Option<api::Ptp> {
        self.ptp4l.as_ref().map(ptp4l::Said::view)
    }

    /// What of it is measured; nothing if nobody answers.
    pub fn points(&self, is_trusted: bool) -> Vec<Point> {
        if self.is_synchronized().is_none() {
            return Vec::new();
        }
        let trusted = Point::gauge("purlin.clock.trusted", "1", f64::from(u8::from(is_trusted)));
        let chronyd = self.chronyd.iter().flat_map(chronyd::points);
        let ptp4l = self.ptp4l.iter().flat_map(ptp4l::Said::points);
        [trusted].into_iter().chain(chronyd).chain(ptp4l).collect()
    }
}

#[cfg(test)]
mod tests {
    use purlin_core::ptp::{Port, Ptp};

    use super::*;

    #[test]
    fn one_who_keeps_the_clock_well_is_enough_and_one_who_does_not_is_believed_too() {
        let well = Tracking { follows: true, ..Tracking::default() };
        let card = Ptp { class: 6, port: Port::Master, ..Ptp::default() };
        let is = |chronyd, ptp4l| Said { chronyd, ptp4l }.is_synchronized();
        assert_eq!(is(None, None), None);
        assert_eq!(is(Some(well), None), Some(true));
        assert_eq!(is(Some(Tracking::default()), None), Some(false));
        assert_eq!(is(Some(Tracking { local: true, ..well }), None), Some(false));
        assert_eq!(is(None, Some(ptp4l::Said::Clock(card))), Some(true));
        assert_eq!(is(Some(Tracking::default()), Some(ptp4l::Said::Clock(card))), Some(true));
        assert_eq!(is(Some(well), Some(ptp4l::Said::Nothing)), Some(true));
        // Who stands still keeps nothing; and who may not be asked may do well.
        assert_eq!(is(None, Some(ptp4l::Said::Nothing)), Some(false));
        assert_eq!(is(None, Some(ptp4l::Said::Forbidden)), None);
    }
}
