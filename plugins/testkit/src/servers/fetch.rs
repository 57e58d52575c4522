use std::{
    collections::HashMap,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/servers/fetch.sh");

/// The program `program` of the server `name`, fetched when it is not there.
pub(super) async fn program(name: String, program: &'static str) -> PathBuf {
    tokio::task::spawn_blocking(move || folder(&name).join("bin").join(program))
        .await
        .expect("the servers of tests can be fetched")
}

fn folder(name: &str) -> PathBuf {
    static KNOWN: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Default::default);
    // Held while fetching: the script itself serialises several processes.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = known.get(name) {
        return folder.clone();
    }
    let out = Command::new("bash")
        .args([SCRIPT, name])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("bash {SCRIPT} {name}: {e}"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{name} is not there and could not be fetched:\n{said}");
    let folder = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
    known.insert(name.to_string(), folder.clone());
    folder
}
