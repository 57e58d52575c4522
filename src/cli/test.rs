//! `oplogue test FILE [CASES]`: what the routes make of given events.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use oplogue_api::Registry;

use super::{DONE, FAILED, MISUSED, file, output, runtime};
use crate::testing;

/// The cases beside a configuration: `oplogue.test.toml` of `oplogue.toml`.
fn beside(config: &Path) -> PathBuf {
    config.with_extension("test.toml")
}

pub fn test(config: &Path, cases: Option<&Path>, registry: &Registry) -> u8 {
    let result = (|| {
        let plan = file::plan(config, registry)?;
        file::log_quietly(&plan)?;
        let path = cases.map_or_else(|| beside(config), Path::to_owned);
        let text = fs::read_to_string(&path).map_err(|e| {
            output::complain(&format!("cannot read the cases in {}: {e}", path.display()));
            MISUSED
        })?;
        let cases = testing::parse(&text).map_err(|e| {
            output::complain_of(&e.at(path.display()));
            MISUSED
        })?;
        let runtime = runtime()?;
        let code = runtime.block_on(async {
            let (mut failed, colour) = (0, output::answers_in_colour());
            let mut code = DONE;
            for case in &cases.case {
                let (mark, lines) = match testing::run(case, &plan).await {
                    Ok(differences) if differences.is_empty() => (output::paint(colour, "32", "✓"), differences),
                    Ok(differences) => (output::paint(colour, "31", "✗"), differences),
                    Err(e) => {
                        let hint = e.get_hint().map(|hint| format!("hint: {hint}"));
                        (output::paint(colour, "31", "✗"), std::iter::once(e.to_string()).chain(hint).collect())
                    }
                };
                failed += usize::from(!lines.is_empty());
                let details: String = lines.iter().map(|line| format!("    {line}\n")).collect();
                code = code.max(output::answer(&format!("{mark} {}\n{details}", case.name)));
            }
            let all = cases.case.len();
            code = code.max(output::answer(&format!("{} of {all} cases hold\n", all - failed)));
            if failed > 0 { FAILED } else { code }
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        if code == DONE { Ok(()) } else { Err(code) }
    })();
    file::code(result)
}
