//! `purlin driver list` and `check`: which maps there are, and what one would read.

use purlin_core::rack::reads::{self, MAX_GAP};
use purlin_daemon::rack::map::{Map, SHIPPED};
use serde::Serialize;

use crate::{
    exit::{Ended, Exit},
    output::Output,
    table::{self, Column::*, Width},
};

/// `purlin driver list`
pub fn list(output: &Output) -> Ended {
    let maps = SHIPPED.iter().filter_map(|(name, _)| shipped(name)).collect();
    let maps = Maps { maps };
    output.show(&maps, |width| maps.page(width))?;
    Ok(Exit::Ok)
}

/// `purlin driver check`
pub fn check(map: &Map, output: &Output) -> Ended {
    let plan = Plan::of(map);
    output.show(&plan, |width| plan.page(width))?;
    Ok(Exit::Ok)
}

/// What a map would read.
#[derive(Debug, Serialize)]
struct Plan {
    name: String,
    title: String,
    registers: usize,
    requests: Vec<Request>,
}

#[derive(Debug, Serialize)]
struct Request {
    function: u8,
    start: u16,
    count: u16,
    registers: Vec<String>,
}

impl Plan {
    fn of(map: &Map) -> Self {
        let all: Vec<usize> = (0..map.registers.len()).collect();
        let request = |read: reads::Read| Request {
            function: read.table.function(),
            start: read.start,
            count: read.count,
            registers: read.registers.iter().map(|&it| map.registers[it].name.clone()).collect(),
        };
        let reads = reads::reads(&map.registers, &all, map.max_read, MAX_GAP);
        Self {
            name: map.name.clone(),
            title: map.title.clone(),
            registers: map.registers.len(),
            requests: reads.into_iter().map(request).collect(),
        }
    }

    fn page(&self, width: Width) -> String {
        let header = [Right("FUNCTION"), Right("START"), Right("COUNT"), Left("REGISTERS")];
        let row = |it: &Request| {
            let (function, start) = (it.function.to_string(), it.start.to_string());
            vec![function, start, it.count.to_string(), it.registers.join(", ")]
        };
        let title = format!("{}, {} registers", self.title, self.registers);
        table::sections([
            table::pair(&self.name, &title, width),
            table::columns(&header, self.requests.iter().map(row), width),
        ])
    }
}

/// The kinds of devices that can be configured.
#[derive(Debug, Serialize)]
struct Maps {
    maps: Vec<MapLine>,
}

#[derive(Debug, Serialize)]
struct MapLine {
    name: String,
    title: String,
    registers: usize,
    baud: u32,
    form: String,
    page: String,
}

fn shipped(name: &str) -> Option<MapLine> {
    let map = Map::shipped(name)?.ok()?;
    Some(MapLine {
        registers: map.registers.len(),
        baud: map.settings.baud,
        form: map.settings.form.to_string(),
        name: map.name,
        title: map.title,
        page: map.page,
    })
}

impl Maps {
    fn page(&self, width: Width) -> String {
        let header = [
            Whole("MAP"),
            Left("DEVICE"),
            Right("REGISTERS"),
            Right("BAUD"),
            Whole("FORM"),
            Left("PAGE"),
        ];
        let row = |map: &MapLine| {
            vec![
                map.name.clone(),
                map.title.clone(),
                map.registers.to_string(),
                map.baud.to_string(),
                map.form.clone(),
                map.page.clone(),
            ]
        };
        table::columns(&header, self.maps.iter().map(row), width)
    }
}
