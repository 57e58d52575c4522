//! What a child writes to its stderr, in oplogue's log: line by line, within limits.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};
use tracing::info;

/// The longest line that is logged whole.
const LONGEST: usize = 1000;
/// So many lines are logged in each [`SPAN`].
const MOST: usize = 100;
const SPAN: Duration = Duration::from_secs(1);

/// Logs what comes until it ends.
pub async fn run(name: String, from: impl AsyncRead + Unpin) {
    lines(from, |line| info!(plugin = name, "{line}")).await;
}

/// Cuts what comes into lines, and lets through as many and as much of each as the limits allow.
async fn lines(mut from: impl AsyncRead + Unpin, mut tell: impl FnMut(&str)) {
    let mut read = [0; 4096];
    let mut line: Vec<u8> = Vec::new();
    let mut cut = 0;
    let (mut since, mut told, mut left_out) = (Instant::now(), 0, 0u64);
    let mut end_line = |line: &mut Vec<u8>, cut: &mut usize| {
        if line.is_empty() {
            return;
        }
        if since.elapsed() >= SPAN {
            if left_out > 0 {
                tell(&format!("({left_out} more lines)"));
            }
            (since, told, left_out) = (Instant::now(), 0, 0);
        }
        if told < MOST {
            let mut text = printable(&String::from_utf8_lossy(line));
            if *cut > 0 {
                text.push_str(&format!("… ({cut} more bytes)"));
            }
            tell(&text);
            told += 1;
        } else {
            left_out += 1;
        }
        line.clear();
        *cut = 0;
    };
    while let Ok(n @ 1..) = from.read(&mut read).await {
        for byte in &read[..n] {
            match byte {
                b'\n' => end_line(&mut line, &mut cut),
                b'\r' => {}
                _ if line.len() < LONGEST => line.push(*byte),
                _ => cut += 1,
            }
        }
    }
    end_line(&mut line, &mut cut);
    if left_out > 0 {
        tell(&format!("({left_out} more lines)"));
    }
}

/// Without what would confuse a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn logged(text: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        lines(text, |line| out.push(line.to_owned())).await;
        out
    }

    #[tokio::test]
    async fn lines_come_as_they_are_within_limits() {
        assert_eq!(logged(b"one\r\n\ntwo\x1b[31m\nlast").await, ["one", "two\u{fffd}[31m", "last"]);
        let long = logged(&[b'x'; 5000]).await;
        assert_eq!(long, [format!("{}… (4000 more bytes)", "x".repeat(1000))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted() {
        let out = logged("again\n".repeat(100_000).as_bytes()).await;
        assert_eq!(out.len(), MOST + 1);
        assert_eq!(out[MOST], "(99900 more lines)");
    }
}
