//! `purlin numa map --svg`: who has which CPU, as a picture. Plain SVG text without a
//! script or a font, and the same placements give the same bytes.

use std::fmt::Write;

use purlin_core::place::{
    book::{Outcome, Overview},
    machine::Machine,
};

use crate::{hw::Escaped, units};

/// A square for a CPU, and CPUs in a row, in px.
const PU: (usize, usize) = (34, 24);
const IN_A_ROW: usize = 16;
const MARGIN: usize = 24;
const LINE: usize = 20;
/// Colours for containers, by turns; told apart by most who see colours differently
/// (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const SHARED: &str = "#e4e7eb";
const RESERVED: &str = "#9aa5b1";

/// The picture.
pub fn svg(machine: &Machine, overview: &Overview) -> String {
    let owners: Vec<_> = (overview.containers.iter())
        .filter_map(|entry| {
            let cpus = match &entry.outcome {
                Outcome::Placed(placement, _) => placement.exclusive.as_ref()?,
                Outcome::Given(given) if given.exclusive => &given.cpus,
                _ => return None,
            };
            Some((entry.container.title(), cpus))
        })
        .collect();
    let colour = |pu: u32| {
        let owner = owners.iter().position(|(_, cpus)| cpus.contains(pu));
        match owner {
            Some(owner) => COLOURS[owner % COLOURS.len()],
            None if overview.reserved.contains(pu) => RESERVED,
            None => SHARED,
        }
    };
    let (mut body, mut y) = (String::new(), MARGIN);
    for (number, node) in (0..).zip(&machine.nodes) {
        let here: Vec<u32> =
            machine.pus.iter().filter(|(_, it)| it.node == number).map(|(pu, _)| *pu).collect();
        let memory = units::size(node.memory);
        y += LINE;
        _ = writeln!(body, "<text x=\"{MARGIN}\" y=\"{y}\">NUMA node {}, {memory}</text>", node.id);
        y += LINE / 2;
        for row in here.chunks(IN_A_ROW) {
            for (place, pu) in row.iter().enumerate() {
                let (x, fill) = (MARGIN + place * PU.0, colour(*pu));
                let (width, height) = (PU.0 - 2, PU.1 - 2);
                _ = writeln!(
                    body,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" \
                     fill=\"{fill}\"/><text class=\"p\" x=\"{}\" y=\"{}\">{pu}</text>",
                    x + width / 2,
                    y + 15
                );
            }
            y += PU.1;
        }
        for device in machine.devices.iter().filter(|it| it.node == Some(number)) {
            y += LINE;
            let text = format!("{} {}", device.kind, device.name);
            _ = writeln!(
                body,
                "<text class=\"s\" x=\"{MARGIN}\" y=\"{y}\">{}</text>",
                Escaped(&text)
            );
        }
        y += LINE;
    }
    let shared = [("reserved".to_owned(), RESERVED), ("shared".to_owned(), SHARED)];
    let owned = owners.iter().enumerate();
    let owned = owned.map(|(it, (name, _))| (name.clone(), COLOURS[it % COLOURS.len()]));
    for (name, fill) in owned.chain(shared) {
        y += LINE;
        _ = writeln!(
            body,
            "<rect x=\"{MARGIN}\" y=\"{}\" width=\"14\" height=\"14\" fill=\"{fill}\"/>\
             <text class=\"s\" x=\"{}\" y=\"{y}\">{}</text>",
            y - 12,
            MARGIN + 22,
            Escaped(&name)
        );
    }
    let (width, height) = (2 * MARGIN + IN_A_ROW * PU.0, y + MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<style>text{{font:14px system-ui,sans-serif;\
         fill:#1f2933}}.s{{font-size:12px}}.p{{font-size:10px;text-anchor:middle}}\
         rect{{stroke:#52606d}}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         {body}</svg>\n"
    )
}
