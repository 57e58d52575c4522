//! The program itself, as the demos run it.

use std::{
    env,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Instant,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command},
    signal::unix::{SignalKind, signal},
    time::{Duration, sleep, timeout},
};

use crate::show::{DEMO, Who, colours, say};

const OPLOGUE: Who = Who { name: "oplogue", colour: "36" };

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// How long the demo waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `oplogue run`, in a shell that stops it when its own standard input is closed: so it ends in good order even when
/// this program is killed.
pub struct Oplogue {
    shell: Child,
    /// Apart from `shell`, which would close it at the first `wait`.
    input: Option<ChildStdin>,
    http: String,
}

const STOP_AT_END_OF_INPUT: &str = r#"
"$@" </dev/null & oplogue=$!
exec 3<&0 >/dev/null
{ cat <&3; kill -TERM $oplogue; } 2>/dev/null & watch=$!
wait $oplogue; status=$?
kill $watch 2>/dev/null
exit $status"#;

impl Oplogue {
    /// Starts it with a configuration and an environment; `http` is where it serves. Its output is shown, and passed to `seen`.
    pub fn start(
        config: &str,
        environment: &[(&str, String)],
        http: &str,
        mut seen: impl FnMut(&str) + Send + 'static,
    ) -> Outcome<Oplogue> {
        say(DEMO, &format!("oplogue run {config}"));
        let mut shell = Command::new("sh")
            .args(["-c", STOP_AT_END_OF_INPUT, "oplogue-demo"])
            .arg(program()?)
            .args(["run", config])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            // Its output comes to this terminal through a pipe.
            .envs(colours().then_some(("CLICOLOR_FORCE", "1")))
            // Ctrl-C is ours: servers must not go before oplogue.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = lines(&mut shell)?;
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                say(OPLOGUE, &line);
                seen(&line);
            }
        });
        let input = shell.stdin.take();
        Ok(Oplogue { shell, input, http: http.to_owned() })
    }

    /// Waits until `/readyz` says that all routes run: from then on no change is missed.
    pub async fn wait_until_ready(&mut self) -> Outcome<()> {
        let since = Instant::now();
        while !is_ready(&self.http).await {
            if let Some(status) = self.shell.try_wait()? {
                return Err(format!("oplogue ended before it was ready ({status})").into());
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("oplogue did not get ready: see http://{}/readyz", self.http).into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub async fn wait_for_end(&mut self) -> Outcome<()> {
        let status = self.shell.wait().await?;
        Err(format!("oplogue ended by itself ({status})").into())
    }

    /// Asks it to end as a service manager would, and waits for it.
    pub async fn stop(mut self) -> Outcome<()> {
        if self.shell.try_wait()?.is_some() {
            return Ok(()); // told already
        }
        say(DEMO, "stopping oplogue ...");
        drop(self.input.take());
        let status: ExitStatus =
            timeout(PATIENCE, self.shell.wait()).await.map_err(|_| "oplogue does not stop when it is told to")??;
        if status.success() { Ok(()) } else { Err(format!("oplogue stopped with {status}").into()) }
    }
}

/// Whether `GET /readyz` is answered with 200.
async fn is_ready(address: &str) -> bool {
    let ask = async {
        let mut connection = TcpStream::connect(address).await?;
        connection
            .write_all(format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut status = [0; 12];
        connection.read_exact(&mut status).await?;
        std::io::Result::Ok(status.ends_with(b" 200"))
    };
    matches!(timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
}

/// The program `oplogue` that was built together with this one.
pub fn program() -> Outcome<PathBuf> {
    let me = env::current_exe()?;
    let program = me.parent().and_then(|examples| examples.parent()).ok_or("no build folder")?.join("oplogue");
    if program.exists() { Ok(program) } else { Err("oplogue is not built: cargo build --bin oplogue".into()) }
}

/// Its standard output.
pub fn lines(child: &mut Child) -> Outcome<Lines<BufReader<ChildStdout>>> {
    Ok(BufReader::new(child.stdout.take().ok_or("no pipe")?).lines())
}

/// Returns at Ctrl-C and the like.
pub async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
}
