use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Certificates made for one server: an authority, and a certificate for `localhost` and 127.0.0.1 that it signed.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    /// The authority's certificate: what a client trusts.
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    /// Certificate and key in one file, as mongod wants them.
    pub(super) both: PathBuf,
}

impl Certificates {
    /// Makes them in `dir` with the `openssl` command.
    pub(super) fn make(dir: &Path) -> Certificates {
        let made = Certificates {
            ca: dir.join("ca.crt"),
            cert: dir.join("server.crt"),
            key: dir.join("server.key"),
            both: dir.join("server.pem"),
        };
        let new_key = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
        let authority = ["-subj", "/CN=oplogue test authority", "-keyout", "ca.key", "-out", "ca.crt"];
        // A certificate that is its own authority would be refused by rustls as that of a server.
        let server = [
            ["-subj", "/CN=localhost"],
            ["-keyout", "server.key"],
            ["-out", "server.crt"],
            ["-CA", "ca.crt"],
            ["-CAkey", "ca.key"],
            ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
            ["-addext", "basicConstraints=critical,CA:FALSE"],
            ["-addext", "extendedKeyUsage=serverAuth,clientAuth"],
        ];
        openssl(dir, new_key.iter().chain(&authority));
        openssl(dir, new_key.iter().chain(server.as_flattened()));
        let mut both = fs::read(&made.cert).expect("openssl wrote the certificate");
        both.extend(fs::read(&made.key).expect("openssl wrote the key"));
        fs::write(&made.both, both).expect("a file can be written in a temporary folder");
        made
    }
}

fn openssl<'a>(dir: &Path, args: impl Iterator<Item = &'a &'a str>) {
    let out = Command::new("openssl").args(args).current_dir(dir).output().expect("the command openssl is there");
    assert!(out.status.success(), "openssl: {}", String::from_utf8_lossy(&out.stderr));
}
