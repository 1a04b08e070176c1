//! `purlin rack`: what the rack's buses and the BMC say.

use purlin_proto::api::{Identify, Quality, Rack, RackDevice, RackReading};

use crate::{
    args::{Global, RackCommand},
    client::{Body, Client, DEADLINE},
    exit::{Ended, Exit, Failure},
    output::{Output, Page},
    table::{self, Column::*, Width},
    units, watch,
};

mod bmc;

/// `purlin rack …`
pub async fn run(command: &RackCommand, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    match command {
        RackCommand::Show(watch) => {
            let fetch = async || client.get::<Rack>("/v1/rack").await;
            watch::show(output, watch.every(), fetch).await
        }
        RackCommand::Identify { seconds } => {
            let what = Identify { seconds: *seconds };
            let bytes = serde_json::to_vec(&what).map_err(|e| Failure::Failed(e.to_string()))?;
            let body = Body { content_type: Some("application/json"), bytes };
            let done: Identify = client.post("/v1/rack/identify", body, DEADLINE).await?;
            output.show(&done, |_| match done.seconds {
                0 => "the light is off again\n".into(),
                seconds => format!("the chassis' light blinks for {seconds} s\n"),
            })?;
            Ok(Exit::Ok)
        }
    }
}

impl Page for Rack {
    fn page(&self, width: Width) -> String {
        if self.buses.is_empty() && self.bmc.is_none() {
            return "no bus is configured: `rack.buses` of the configuration names them\n".into();
        }
        let sections = self.buses.iter().flat_map(|bus| {
            let role = bus.role.as_ref().map(|role| format!(" ({role})")).unwrap_or_default();
            let head = match &bus.error {
                Some(error) => format!("{}{role} — {error}", bus.port),
                None => bus.port.clone() + &role,
            };
            let head = table::pair(&bus.name, &head, width);
            std::iter::once(head)
                .chain(bus.devices.iter().map(move |it| device(it, width)))
                .collect::<Vec<_>>()
        });
        table::sections(sections.chain(self.bmc.iter().flat_map(|it| bmc::sections(it, width))))
    }

    /// Anything that can't be believed is a fault.
    fn exit(&self) -> Exit {
        let bad = self.buses.iter().any(|bus| bus.error.is_some())
            || self.buses.iter().flat_map(|bus| &bus.devices).any(is_doubtful)
            || self.bmc.as_ref().is_some_and(|it| it.stale);
        if bad { Exit::Faults } else { Exit::Ok }
    }
}

/// Whether anything that a device says can't be believed.
pub fn is_doubtful(it: &RackDevice) -> bool {
    it.silent || it.readings.iter().any(|it| it.quality != Quality::Good)
}

/// One device and its readings.
pub fn device(it: &RackDevice, width: Width) -> String {
    let state = match (&it.error, it.silent) {
        (Some(error), true) => format!(", silent: {error}"),
        (None, true) => ", silent".into(),
        (Some(error), false) => format!(", {error}"),
        (None, false) => String::new(),
    };
    let at = if it.address == 0 { String::new() } else { format!(" at address {}", it.address) };
    let name = format!("{}{at}{state}", it.title);
    let head = table::pair(&it.name, &name, width);
    let header = [Whole("READING"), Right("VALUE"), Whole("UNIT"), Whole("QUALITY"), Whole("READ")];
    let row = |it: &RackReading| {
        let value = it.value.map(number).or_else(|| it.text.clone());
        vec![
            it.name.clone(),
            value.filter(|value| !value.is_empty()).unwrap_or("-".into()),
            it.unit.clone(),
            quality(it.quality).into(),
            it.unix_ms.map(units::time).unwrap_or_default(),
        ]
    };
    head + &table::columns(&header, it.readings.iter().map(row), width)
}

/// Three decimals at most, and none for nothing.
pub fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How far a reading may be believed.
pub fn quality(quality: Quality) -> &'static str {
    match quality {
        Quality::Good => "good",
        Quality::Stale => "stale",
        Quality::Suspect => "suspect",
        Quality::Bad => "bad",
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use purlin_proto::api::RackBus;

    use super::*;
    use crate::sample;

    fn reading(name: &str, value: Option<f64>, unit: &str, quality: Quality) -> RackReading {
        RackReading {
            name: name.into(),
            metric: String::new(),
            value,
            text: None,
            unit: unit.into(),
            quality,
            unix_ms: value.map(|_| 1_760_000_000_000),
        }
    }

    #[test]
    fn a_rack_shows_each_reading_and_how_far_it_may_be_believed() {
        let device = RackDevice {
            name: "psu1".into(),
            address: 200,
            map: "orv3-psu".into(),
            title: "Open Rack V3 power supply".into(),
            silent: true,
            error: Some("no answer".into()),
            readings: vec![
                reading("inlet_temperature", Some(25.125), "Cel", Quality::Stale),
                reading("fan0_speed", None, "rpm", Quality::Bad),
            ],
        };
        let (name, port) = ("shelf".into(), "/dev/serial/by-path/x".into());
        let devices = vec![device];
        let buses = vec![RackBus { name, port, devices, ..RackBus::default() }];
        let rack = Rack { buses, bmc: None };
        assert_eq!(rack.exit(), Exit::Faults);
        expect![[r#"
            shelf        /dev/serial/by-path/x

            psu1         Open Rack V3 power supply at address 200, silent: no answer
            READING             VALUE  UNIT  QUALITY  READ
            inlet_temperature  25.125  Cel   stale    2025-10-09T08:53:20Z
            fan0_speed              -  rpm   bad
        "#]]
        .assert_eq(&sample::page(&rack));
    }

    #[test]
    fn without_a_bus_it_says_where_to_name_one() {
        let rack = Rack::default();
        assert_eq!(rack.exit(), Exit::Ok);
        expect!["no bus is configured: `rack.buses` of the configuration names them\n"]
            .assert_eq(&rack.page(None));
    }
}
