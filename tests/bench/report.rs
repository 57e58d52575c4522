//! The table.

use std::fmt::Write;

use crate::{RUNS, measure::Run};

/// The least ratio to the raw read that is aimed at, for each run.
const AIMS: [Option<f64>; RUNS.len()] = [None, Some(0.70), None, Some(0.20), None];
/// The least events a second that are aimed at, on two quiet cores.
const RATES: [Option<f64>; RUNS.len()] = [None, None, None, Some(250e3), Some(60e3)];
/// The most memory of the router.
const MOST_RSS: f64 = 40e6;

/// Medians of the rounds, each ratio to the median of the raw read.
pub fn table(runs: &[Vec<Run>; RUNS.len()]) -> String {
    let rate = |runs: &[Run]| median(runs.iter().map(Run::rate));
    let raw = rate(&runs[0]);
    let mut out = format!(
        "{:<26}{:>12}{:>10}{:>12}{:>12}{:>12}   aim\n",
        "", "events/s", "of raw", "CPU-s/M", "of Redis", "peak RSS"
    );
    for (i, name) in RUNS.iter().enumerate() {
        let cpu = median(runs[i].iter().map(Run::cpu_per_million));
        let ratio = rate(&runs[i]) / raw;
        let rss = runs[i].iter().map(|r| r.peak_rss).max().unwrap_or(0) as f64;
        let redis = median(runs[i].iter().filter_map(Run::redis_per_million));
        let redis = if redis.is_nan() { String::new() } else { format!("{redis:.2}") };
        let mut aims = Vec::new();
        if let Some(aim) = AIMS[i] {
            aims.push(verdict(ratio >= aim, &format!("{:.0} % of raw", aim * 100.0)));
        }
        if let Some(aim) = RATES[i] {
            aims.push(verdict(rate(&runs[i]) >= aim, &format!("{:.0}k/s", aim / 1e3)));
        }
        if i > 0 {
            aims.push(verdict(rss < MOST_RSS, &format!("under {:.0} MB", MOST_RSS / 1e6)));
        }
        let _ = writeln!(
            out,
            "{name:<26}{:>12.0}{:>8.0} %{cpu:>12.2}{redis:>12}{:>9.0} MB   {}",
            rate(&runs[i]),
            ratio * 100.0,
            rss / 1e6,
            aims.join(", ")
        );
    }
    out + "Medians of the rounds, peak RSS: the most. From the start of the process to the last event.\n"
}

fn verdict(met: bool, aim: &str) -> String {
    format!("{aim}: {}", if met { "met" } else { "MISSED" })
}

/// The middle one.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}
