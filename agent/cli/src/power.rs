//! `purlin power`: what the node does when power or cooling fails.

use purlin_proto::api::{Power, PowerLimit, PowerStage};

use crate::{
    args::{Global, PowerCommand},
    client::Client,
    exit::{Ended, Exit},
    output::{Output, Page},
    table::{self, Column::*, Width},
    watch,
};

/// `purlin power …`
pub async fn run(command: &PowerCommand, global: &Global, output: &Output) -> Ended {
    let client = Client::find(global)?;
    let PowerCommand::Show(watch) = command;
    let fetch = async || client.get::<Power>("/v1/power").await;
    watch::show(output, watch.every(), fetch).await
}

impl Page for Power {
    fn page(&self, width: Width) -> String {
        if self.stages.is_empty() {
            return "no stage is configured: `power.stages` of the configuration names them\n"
                .into();
        }
        let in_force = self.stages.iter().rfind(|it| it.in_force);
        let mut head = table::pair("now", in_force.map_or("all is well", |it| &it.name), width);
        if !self.causes.is_empty() {
            head.push_str(&table::pair("because of", &self.causes.join(", "), width));
        }
        if self.rehearse {
            head.push_str(&table::pair("rehearsal", "everything is told and nothing done", width));
        }
        if !self.frozen.is_empty() {
            head.push_str(&table::pair("frozen", &self.frozen.join(", "), width));
        }
        for PowerLimit { what, watts, before_watts } in &self.limits {
            let limit = format!("{what}: {watts:.0} W, before {before_watts:.0} W");
            head.push_str(&table::pair("capped", &limit, width));
        }
        for problem in &self.problems {
            head.push_str(&table::pair("not done", problem, width));
        }
        let header = [Whole("STAGE"), Whole("IN FORCE"), Left("BEGINS WITH"), Left("DOES")];
        let row = |it: &PowerStage| {
            let in_force = if it.in_force { "yes" } else { "no" };
            vec![it.name.clone(), in_force.into(), it.when.join(", "), it.does.join(", ")]
        };
        table::sections([head, table::columns(&header, self.stages.iter().map(row), width)])
    }

    fn exit(&self) -> Exit {
        let calm = self.problems.is_empty() && self.stages.iter().all(|it| !it.in_force);
        if calm { Exit::Ok } else { Exit::Faults }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::sample;

    #[test]
    fn the_stages_show_where_the_node_stands() {
        let stage = |name: &str, when: &str, does: &str, in_force| PowerStage {
            name: name.into(),
            when: vec![when.into()],
            does: vec!["tell".into(), does.into()],
            in_force,
        };
        let power = Power {
            stages: vec![
                stage("battery", "on-battery.*", "freeze batch.slice", true),
                stage("last", "three-minutes.*", "shut down", false),
            ],
            causes: vec!["on-battery.shelf.ups.input_voltage".into()],
            frozen: vec!["batch.slice".into()],
            limits: vec![PowerLimit {
                what: "intel-rapl:0".into(),
                watts: 80.0,
                before_watts: 125.0,
            }],
            ..Power::default()
        };
        assert_eq!(power.exit(), Exit::Faults);
        expect![[r#"
            now          battery
            because of   on-battery.shelf.ups.input_voltage
            frozen       batch.slice
            capped       intel-rapl:0: 80 W, before 125 W

            STAGE    IN FORCE  BEGINS WITH      DOES
            battery  yes       on-battery.*     tell, freeze batch.slice
            last     no        three-minutes.*  tell, shut down
        "#]]
        .assert_eq(&sample::page(&power));
    }
}
