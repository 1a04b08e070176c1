//! Asks chronyd of this machine how it keeps the clock: one datagram on loopback, which
//! anybody here may send (`cmdport`, 323 unless set otherwise). Page: `hw-docs/clock.md`.

use std::{net::Ipv4Addr, time::Duration};

use purlin_core::{
    chrony::{self, Tracking},
    metric::Point,
};
use purlin_proto::api;
use tokio::{net::UdpSocket, time};

/// Where it listens.
const PORT: u16 = 323;
/// For its answer, which it has in memory.
const ANSWER: Duration = Duration::from_secs(1);

/// What it says; `None` if nobody answers.
pub async fn ask(number: u32) -> Option<Tracking> {
    time::timeout(ANSWER, exchange(number)).await.ok()?.ok()?
}

async fn exchange(number: u32) -> std::io::Result<Option<Tracking>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    // From nobody else anything is heard, and "nobody listens there" is.
    socket.connect((Ipv4Addr::LOCALHOST, PORT)).await?;
    socket.send(&chrony::question(number)).await?;
    let mut bytes = [0; chrony::LENGTH + 1];
    let length = socket.recv(&mut bytes).await?;
    Ok(chrony::answer(&bytes[..length], number))
}

/// What of it is measured.
pub fn points(service: &Tracking) -> Vec<Point> {
    let mut points = vec![Point::gauge("ntp.stratum", "1", f64::from(service.stratum))];
    // Of a clock that follows nobody these are zeros that say nothing.
    if service.is_synchronized() {
        points.push(Point::gauge("ntp.time.correction", "s", service.offset_s));
        points.push(Point::gauge("purlin.clock.max_error", "s", service.max_error_s));
    }
    points
}

/// For people and machines.
pub fn view(service: &Tracking) -> api::TimeService {
    let state = match (service.follows, service.local) {
        (false, _) => "follows nobody",
        (true, true) => "follows itself",
        (true, false) => "synchronized",
    };
    let reference = Ipv4Addr::from_bits(service.reference);
    api::TimeService {
        state: state.into(),
        reference: service.is_synchronized().then(|| reference.to_string()),
        stratum: service.stratum,
        offset_s: service.offset_s,
        max_error_s: service.max_error_s,
    }
}
