//! Values over time in characters: what the pages of the local history are made of.

use std::ops::Range;

use purlin_proto::api::MetricSeries;

/// From empty to full, in eighths.
pub const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same for a terminal that has no such characters.
pub const ASCII: [char; 9] = [' ', '_', '.', ',', '-', '=', '+', '*', '#'];

/// A gauge's values; a counter's rate a second over each minute, but where it began anew.
pub fn values(series: &MetricSeries) -> Vec<(u64, f64)> {
    if !series.counter {
        return series.points.clone();
    }
    let rate = |pair: &[(u64, f64)]| {
        let [(before, from), (at, to)] = [pair[0], pair[1]];
        let seconds = at.saturating_sub(before) as f64 / 1000.0;
        (to >= from && seconds > 0.0).then(|| (at, (to - from) / seconds))
    };
    series.points.windows(2).filter_map(rate).collect()
}

/// Means over equal spans of time.
pub fn buckets(values: &[(u64, f64)], over: Range<u64>, columns: usize) -> Vec<Option<f64>> {
    let span = (over.end - over.start).max(1);
    let mut sums = vec![(0.0, 0u32); columns];
    for (at, value) in values {
        let at = at.saturating_sub(over.start).min(span - 1);
        let (sum, count) = &mut sums[(at as u128 * columns as u128 / span as u128) as usize];
        (*sum, *count) = (*sum + value, *count + 1);
    }
    let mean = |(sum, count): (f64, u32)| (count > 0).then(|| sum / f64::from(count));
    sums.into_iter().map(mean).collect()
}

/// The least and the most that is known; both 0 if nothing is.
pub fn bounds(values: &[Option<f64>]) -> (f64, f64) {
    let known = || values.iter().flatten().copied();
    let least = known().fold(f64::INFINITY, f64::min);
    let most = known().fold(f64::NEG_INFINITY, f64::max);
    if least > most { (0.0, 0.0) } else { (least, most) }
}

/// A character for each value, of `levels`, from the least to the most.
pub fn spark(values: &[Option<f64>], levels: &[char; 9]) -> String {
    let (least, most) = bounds(values);
    let level = |value: &Option<f64>| {
        let Some(value) = value else { return ' ' };
        let part = if most > least { (value - least) / (most - least) } else { 0.5 };
        levels[1 + (part * (levels.len() - 2) as f64).round() as usize]
    };
    values.iter().map(level).collect()
}

/// Four digits that matter.
pub fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        it if it >= 1000.0 || it == 0.0 => 0,
        it if it >= 10.0 => 1,
        it if it >= 1.0 => 2,
        _ => 4,
    };
    match value.abs() {
        it if it >= 1e9 => format!("{:.1}G", value / 1e9),
        it if it >= 1e6 => format!("{:.1}M", value / 1e6),
        _ => format!("{value:.decimals$}"),
    }
}
