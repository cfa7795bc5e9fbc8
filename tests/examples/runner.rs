//! The examples, as their users run them.

use std::env;
use std::process::Command;

/// An example that has been built, without the tester's own account.
pub(crate) fn example(name: &str) -> Command {
    // Cargo names the path of no example: target/<profile>/deps/<this test>, target/<profile>/examples/<name>.
    let profile = env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
    let path = profile.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is not there: `cargo build --example {name}`", path.display());
    let mut command = Command::new(path);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AIUTA_")) {
        command.env_remove(name);
    }
    command
}
