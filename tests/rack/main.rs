//! The rack's buses: never a wrong reading.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use purlin_tests::{Need, modbus::no_pymodbus, test};

mod agent;
mod alarm;
mod clock;
mod driver;
mod gateway;
mod gnss;
mod matrix;
mod nut;
mod power;
mod shared;
mod site;

fn main() -> ExitCode {
    purlin_tests::run([
        test("no_fault_of_a_line_in_memory_makes_a_reading_wrong", 120, matrix::in_memory),
        test("without_its_guard_late_answers_are_taken_for_the_next", 60, matrix::unguarded),
        test("no_fault_of_a_pty_makes_a_reading_of_pymodbus_wrong", 150, matrix::on_ptys)
            .needs(&[Need::Is(no_pymodbus)]),
        test("no_fault_of_a_gateway_in_memory_makes_a_reading_wrong", 120, gateway::in_memory),
        test("no_fault_of_a_gateway_makes_a_reading_of_pymodbus_wrong", 150, gateway::on_loopback)
            .needs(&[Need::Is(no_pymodbus)]),
        test("a_bus_is_configured_read_and_back_after_each_was_away", 150, agent::whole)
            .needs(&[Need::Root, Need::Is(no_pymodbus)]),
        test("mains_fail_in_stages_and_all_is_back_when_they_return", 280, power::fails).needs(&[
            Need::Root,
            Need::Is(no_pymodbus),
            Need::Program("mosquitto"),
            Need::Program("ip"),
            Need::Program("nsenter"),
        ]),
        test("a_ups_behind_nut_is_read_stale_gone_and_back", 280, nut::whole)
            .needs(&[Need::Root, Need::Is(nut::no_nut)]),
        test("a_supplys_own_fault_is_an_alarm_until_it_is_over", 280, alarm::flag)
            .needs(&[Need::Is(no_pymodbus)]),
        test("a_supplys_clock_is_set_and_nothing_else_of_it", 120, clock::is_set)
            .needs(&[Need::Is(no_pymodbus)]),
        test("a_receivers_time_is_told_as_far_as_its_fix_goes", 180, gnss::receiver),
        test("a_bus_of_two_nodes_is_taken_over_and_given_back", 280, shared::two_nodes)
            .needs(&[Need::Is(no_pymodbus)]),
        test("probe_tells_sensors_apart_that_are_sold_as_one", 90, driver::probe)
            .needs(&[Need::Is(no_pymodbus)]),
        test("scan_and_poll_tell_who_is_there_and_how_well", 90, driver::scan_and_poll)
            .needs(&[Need::Is(no_pymodbus)]),
        test("a_port_that_cannot_be_had_is_told_with_what_to_do", 60, driver::ports)
            .needs(&[Need::Is(no_pymodbus)]),
        test("a_map_of_ones_own_is_begun_checked_and_tried", 60, driver::new_and_try)
            .needs(&[Need::Is(no_pymodbus)]),
        test("every_shipped_map_is_one_by_its_schema", 60, driver::schema)
            .needs(&[Need::Is(driver::no_validator)]),
        test("a_bus_that_cannot_be_is_refused_with_every_reason", 60, agent::refused),
    ])
}
