//! What a NUT server says of its UPSes: lines into words, variables into readings, a status
//! into what is wrong.
//!
//! Page: `hw-docs/nut.md`. Source: RFC 9271 (sections 4.2 and 5 and the lists of variables
//! and of status symbols in its appendices), which is what `upsd` of Network UPS Tools
//! speaks. Pure, and total: any line gives words or nothing.

use alloc::{
    format,
    string::{String, ToString as _},
    vec::Vec,
};

use crate::alarm::{
    Condition, id,
    rule::{Notice, Severity},
};

/// Where an operator reads on.
const PAGE: &str = "hw-docs/nut.md";

/// The words of a line: bare, or in quotes in which a backslash makes a quote or a backslash
/// plain. `None` if a quote is not closed.
pub fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let mut word = String::new();
        let is_quoted = first == '"';
        let mut chars = rest.char_indices().skip(usize::from(is_quoted));
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => word.push(chars.next()?.1),
                Some((at, '"')) if is_quoted => break at + 1,
                Some((at, c)) if !is_quoted && c.is_whitespace() => break at,
                Some((_, c)) => word.push(c),
                None if is_quoted => return None,
                None => break rest.len(),
            }
        };
        words.push(word);
        rest = rest[end..].trim_start();
    }
    Some(words)
}

/// What a variable measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    /// The metric that it is.
    pub metric: &'static str,
    /// UCUM.
    pub unit: &'static str,
    /// What a value of NUT's is multiplied by.
    pub scale: f64,
    /// What a UPS can say, in the metric's unit.
    pub valid: (f64, f64),
}

/// What a variable measures, if it is one that is judged by: `input.voltage`, and
/// `input.L1-N.voltage` of three phases too.
pub fn kind(variable: &str) -> Option<Kind> {
    let mut parts = variable.split('.');
    let (first, last) = (parts.next()?, parts.next_back()?);
    let is_line = matches!(first, "input" | "output" | "outlet");
    // At most the phase or the outlet between them.
    let between = parts.count();
    if between > 1 || between == 1 && !is_line {
        return None;
    }
    let kind = |metric, unit, scale, valid| Some(Kind { metric, unit, scale, valid });
    match (first, last) {
        ("battery", "charge") => kind("hw.battery.charge", "1", 0.01, (0.0, 1.0)),
        // Ten days: what a UPS that knows no better says is more.
        ("battery", "runtime") => kind("hw.battery.time_left", "s", 1.0, (0.0, 864_000.0)),
        ("battery" | "input" | "output" | "outlet", "voltage") => {
            kind("hw.voltage", "V", 1.0, (0.0, 1000.0))
        }
        ("battery" | "input" | "output" | "outlet", "current") => {
            kind("purlin.hw.current", "A", 1.0, (-5000.0, 5000.0))
        }
        ("input" | "output", "frequency") => kind("purlin.hw.frequency", "Hz", 1.0, (0.0, 500.0)),
        ("ups" | "input" | "output" | "outlet", "realpower") => {
            kind("hw.power", "W", 1.0, (0.0, 1e7))
        }
        ("ups", "load") => kind("hw.power_supply.utilization", "1", 0.01, (0.0, 3.0)),
        ("ups" | "battery" | "ambient", "temperature") => {
            kind("hw.temperature", "Cel", 1.0, (-40.0, 120.0))
        }
        ("ambient", "humidity") => kind("purlin.hw.humidity", "%", 1.0, (0.0, 100.0)),
        _ => None,
    }
}

impl Kind {
    /// A value of NUT's in the metric's unit; the error is what was said, if it is no number
    /// or none that a UPS can mean.
    pub fn value(&self, text: &str) -> Result<f64, String> {
        let (least, most) = self.valid;
        let value = text.trim().parse().map(|value: f64| value * self.scale);
        value.ok().filter(|value| (least..=most).contains(value)).ok_or_else(|| text.to_string())
    }
}

/// Symbols of `ups.status` that are an alarm: its name, how bad, what it says.
const WRONG: [(&str, &str, Severity, &str); 8] = [
    ("OB", "on_battery", Severity::Critical, "runs on its battery"),
    ("LB", "battery_low", Severity::Critical, "its battery is low"),
    ("FSD", "forced_shutdown", Severity::Critical, "its master shuts everything down"),
    ("OVER", "overload", Severity::Critical, "is overloaded"),
    ("OFF", "off", Severity::Critical, "is off"),
    ("RB", "replace_battery", Severity::Warning, "wants its battery replaced"),
    ("BYPASS", "bypass", Severity::Warning, "is bypassed: its battery does not help"),
    ("ALARM", "alarm", Severity::Warning, "has an alarm of its own"),
];

/// What of a status is an alarm, and what is not; nothing of a status without a word.
pub fn conditions(ups: &str, status: &str) -> Vec<Condition> {
    if status.trim().is_empty() {
        return Vec::new();
    }
    let condition = |(symbol, name, severity, text): (&str, &str, Severity, &str)| Condition {
        id: id("flag", &format!("{ups}/{name}")),
        text: format!("{ups} {text}"),
        notice: Notice { severity, page: PAGE.into(), ..Notice::default() },
        bad: status.split_whitespace().any(|word| word == symbol),
    };
    WRONG.into_iter().map(condition).collect()
}

/// Whether something that should be heard is not.
pub fn silent(what: &str, why: Option<&str>) -> Condition {
    Condition {
        id: id("silent", what),
        text: format!("{what} is not heard: {}", why.unwrap_or_default()),
        notice: Notice {
            severity: Severity::Warning,
            remedy: "what it said last is not what is; look at upsd and its driver".into(),
            page: PAGE.into(),
            ..Notice::default()
        },
        bad: why.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_line_is_words_and_quoted_words() {
        let split = |line| words(line).map(|it| it.join("|"));
        assert_eq!(split(r#"VAR su700 ups.mfr "APC""#).as_deref(), Some("VAR|su700|ups.mfr|APC"));
        assert_eq!(
            split(r#"UPS a "a \"big\" one \\ \x""#).as_deref(),
            Some(r#"UPS|a|a "big" one \ x"#)
        );
        assert_eq!(split(r#"VAR a ups.serial """#).as_deref(), Some("VAR|a|ups.serial|"));
        assert_eq!(split("  \r\n").as_deref(), Some(""));
        for open in ["\"", "VAR a b \"c", "\"a\\", "a\\"] {
            assert_eq!(split(open), None, "{open}");
        }
    }

    #[test]
    fn a_variable_is_a_metric_in_its_unit_or_none() {
        let say = |(variable, text): (&str, &str)| match kind(variable) {
            None => format!("{variable}: none\n"),
            Some(it) => match it.value(text) {
                Ok(value) => format!("{variable}: {} {value} {}\n", it.metric, it.unit),
                Err(text) => format!("{variable}: {} is not {text:?}\n", it.metric),
            },
        };
        let told = [
            ("battery.charge", "90"),
            ("battery.charge", "101"),
            ("battery.charge.low", "10"),
            ("battery.runtime", "1234.00"),
            ("battery.runtime", "-1"),
            ("input.voltage", "NaN"),
            ("input.voltage", "230.4"),
            ("input.voltage.nominal", "230"),
            ("input.L1-N.voltage", "231"),
            ("input.a.b.voltage", "231"),
            ("battery.x.voltage", "12"),
            ("ups.load", "23"),
            ("ups.temperature", "25"),
            ("ups.status", "OL"),
            ("voltage", "1"),
            ("", ""),
        ];
        expect![[r#"
            battery.charge: hw.battery.charge 0.9 1
            battery.charge: hw.battery.charge is not "101"
            battery.charge.low: none
            battery.runtime: hw.battery.time_left 1234 s
            battery.runtime: hw.battery.time_left is not "-1"
            input.voltage: hw.voltage is not "NaN"
            input.voltage: hw.voltage 230.4 V
            input.voltage.nominal: none
            input.L1-N.voltage: hw.voltage 231 V
            input.a.b.voltage: none
            battery.x.voltage: none
            ups.load: hw.power_supply.utilization 0.23 1
            ups.temperature: hw.temperature 25 Cel
            ups.status: none
            voltage: none
            : none
        "#]]
        .assert_eq(&told.map(say).concat());
    }

    #[test]
    fn a_status_is_alarms_and_their_ends() {
        let bad = |status| -> Vec<String> {
            let all = conditions("hall/ups", status);
            all.into_iter().filter(|it| it.bad).map(|it| it.id).collect()
        };
        assert_eq!(bad("OL CHRG"), [""; 0]);
        assert_eq!(conditions("hall/ups", "OL").len(), WRONG.len(), "the ends are told");
        assert_eq!(bad("OB DISCHRG LB"), ["flag.hall.ups.on_battery", "flag.hall.ups.battery_low"]);
        assert_eq!(bad("FSD OB"), ["flag.hall.ups.on_battery", "flag.hall.ups.forced_shutdown"]);
        assert_eq!(conditions("hall/ups", " "), [], "it says nothing");
    }
}
