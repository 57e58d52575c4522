//! What a child process used, from `/proc`.

use std::{fmt, fs, time::Duration};

use crate::Failure;

/// One run: from the start of a process until it had the last event.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub events: u64,
    pub wall: Duration,
    pub cpu: Duration,
    pub peak_rss: u64,
    /// CPU time of the Redis that it wrote to.
    pub redis: Option<Duration>,
}

impl Run {
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.wall.as_secs_f64()
    }
    pub fn cpu_per_million(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.events as f64
    }
    pub fn redis_per_million(&self) -> Option<f64> {
        self.redis.map(|cpu| cpu.as_secs_f64() * 1e6 / self.events as f64)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, cpu, rss) = (self.rate() / 1e3, self.cpu_per_million(), self.peak_rss as f64 / 1e6);
        write!(f, "{} events, {rate:.0}k/s, {cpu:.2} CPU-s/M, peak {rss:.0} MB", self.events)?;
        match self.redis_per_million() {
            Some(redis) => write!(f, ", redis {redis:.2} CPU-s/M"),
            None => Ok(()),
        }
    }
}

/// CPU time (user and system) and peak resident memory of a running process.
pub fn used(pid: u32, ticks: f64) -> Result<(Duration, u64), Failure> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').ok_or("/proc/PID/stat has changed")?;
    // Behind the name: utime is the 12th field, stime the 13th.
    let used: f64 = rest.split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap_or(0.0)).sum();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .ok_or("/proc/PID/status has no VmHWM")?;
    Ok((Duration::from_secs_f64(used / ticks), peak * 1024))
}
