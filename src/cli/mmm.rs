//! `oplogue import mmm FILE [--links …]`.

use std::{fs, path::PathBuf};

use clap::Args;

use super::{MISUSED, file, output};
use crate::mmm::{self, Links};

#[derive(Args)]
pub struct Mmm {
    /// The configuration of MongoMultiMaster, which names the servers
    file: PathBuf,
    /// What is replicated: the output of `mmm -c FILE dump-config`; or SERVER=FILE for the export of the collection `mmm` in the
    /// database `local` of a server, by mongoexport
    #[arg(long, value_name = "[SERVER=]FILE")]
    links: Vec<String>,
}

impl Mmm {
    pub fn import(self) -> u8 {
        file::code(self.print())
    }

    fn print(self) -> Result<(), u8> {
        let name = self.file.display().to_string();
        let text = read(&name)?;
        let mut links = Vec::new();
        for given in &self.links {
            links.push(match given.split_once('=') {
                Some((server, file)) => Links::Export { server: server.to_owned(), text: read(file)? },
                None => Links::Dump(read(given)?),
            });
        }
        match mmm::import(&text, &links) {
            Ok(imported) => {
                for warning in &imported.warnings {
                    output::note(&format!("warning: {warning}\n"));
                }
                match output::answer(&imported.text) {
                    0 => Ok(()),
                    code => Err(code),
                }
            }
            Err(problems) => {
                for problem in problems {
                    output::complain(&format!("{name}: {problem}"));
                }
                Err(MISUSED)
            }
        }
    }
}

fn read(file: &str) -> Result<String, u8> {
    fs::read_to_string(file).map_err(|e| {
        output::complain(&format!("cannot read {file}: {e}"));
        MISUSED
    })
}
