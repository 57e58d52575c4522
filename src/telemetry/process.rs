//! Figures of this process, from `/proc`: what dashboards expect under `process_*`. Elsewhere than on Linux there are none.

use std::fs;

/// What was found; a figure that could not be read is absent, never zero.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Process {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<f64>,
    pub resident_peak_bytes: Option<f64>,
    pub virtual_bytes: Option<f64>,
    pub threads: Option<f64>,
    pub open_fds: Option<f64>,
    pub max_fds: Option<f64>,
    /// Seconds since 1970.
    pub start_time: Option<f64>,
}

impl Process {
    pub(super) fn read() -> Process {
        let ticks = fs::read("/proc/self/auxv").ok().and_then(|auxv| clock_ticks(&auxv));
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let stat = stat.as_deref().zip(ticks).and_then(|(stat, ticks)| parse_stat(stat, ticks));
        let booted = fs::read_to_string("/proc/stat").ok().and_then(|s| line_number(&s, "btime"));
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name: &str| line_number(&status, name).map(|n| n * 1024.0);
        Process {
            cpu_seconds: stat.map(|(cpu, _)| cpu),
            resident_bytes: kib("VmRSS:"),
            resident_peak_bytes: kib("VmHWM:"),
            virtual_bytes: kib("VmSize:"),
            threads: line_number(&status, "Threads:"),
            // The listing holds the descriptor that lists it.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count().saturating_sub(1) as f64),
            max_fds: fs::read_to_string("/proc/self/limits").ok().and_then(|s| line_number(&s, "Max open files")),
            start_time: booted.zip(stat).map(|(booted, (_, started))| booted + started),
        }
    }
}

/// The number behind `name` on the line that begins with it.
fn line_number(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The unit of `/proc/self/stat`: `AT_CLKTCK` (17) of the auxiliary vector, which is pairs of machine words.
fn clock_ticks(auxv: &[u8]) -> Option<f64> {
    const AT_CLKTCK: usize = 17;
    let (words, _) = auxv.as_chunks::<{ size_of::<usize>() }>();
    let (pairs, _) = words.as_chunks::<2>();
    pairs
        .iter()
        .find(|[kind, _]| usize::from_ne_bytes(*kind) == AT_CLKTCK)
        .map(|[_, n]| usize::from_ne_bytes(*n) as f64)
}

/// CPU seconds used, and the start in seconds after the boot. The name in parentheses may hold anything.
fn parse_stat(stat: &str, ticks: f64) -> Option<(f64, f64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    // Field 3 (the state) comes first here: utime is 14, stime 15, starttime 22.
    let mut fields = rest.split_whitespace();
    let utime: f64 = fields.nth(11)?.parse().ok()?;
    let stime: f64 = fields.next()?.parse().ok()?;
    let start: f64 = fields.nth(6)?.parse().ok()?;
    Some(((utime + stime) / ticks, start / ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_and_blanks_misleads_nobody() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 3 0 12345 1 1";
        assert_eq!(parse_stat(stat, 100.0), Some((3.0, 123.45)));
        assert_eq!(parse_stat("7 (short) S 1", 100.0), None);
        assert_eq!(parse_stat("", 100.0), None);
    }

    #[test]
    fn clock_ticks_come_from_the_auxiliary_vector() {
        let auxv = [6usize, 4096, 17, 100, 0, 0].map(usize::to_ne_bytes).concat();
        assert_eq!(clock_ticks(&auxv), Some(100.0));
        assert_eq!(clock_ticks(&auxv[..17]), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_figures() {
        let p = Process::read();
        let p = |f: fn(&Process) -> Option<f64>| f(&p).unwrap_or(-1.0);
        assert!(p(|p| p.resident_bytes) > 100_000.0);
        assert!(p(|p| p.resident_peak_bytes) >= p(|p| p.resident_bytes) * 0.9);
        assert!(p(|p| p.cpu_seconds) >= 0.0);
        assert!(p(|p| p.open_fds) >= 3.0);
        assert!(p(|p| p.threads) >= 1.0);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let age = now - p(|p| p.start_time);
        assert!((-5.0..86_400.0).contains(&age), "started {age} s ago");
    }
}
