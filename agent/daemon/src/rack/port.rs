//! A serial port, opened by a path that stays with the socket it is plugged into
//! (`/dev/serial/by-path/…`), and for ourselves alone.

use std::{io, path::Path};

use purlin_core::rack::serial::{Parity, Settings};
use tokio_serial::{DataBits, FlowControl, SerialPortBuilderExt, SerialStream, StopBits};

/// Opens and sets up a port. Whoever else opens it then is told that it is busy.
pub fn open(path: &Path, settings: Settings) -> io::Result<SerialStream> {
    let parity = match settings.form.parity {
        Parity::None => tokio_serial::Parity::None,
        Parity::Even => tokio_serial::Parity::Even,
        Parity::Odd => tokio_serial::Parity::Odd,
    };
    let stop = if settings.form.two_stop_bits { StopBits::Two } else { StopBits::One };
    let port = tokio_serial::new(path.to_string_lossy(), settings.baud)
        .data_bits(DataBits::Eight)
        .parity(parity)
        .stop_bits(stop)
        .flow_control(FlowControl::None)
        .exclusive(true)
        .open_native_async()?;
    Ok(port)
}
