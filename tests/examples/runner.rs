//! Runs the examples that cargo has built.

use std::env;
use std::process::Command;

/// Returns a command that runs an example, without the `AIUTA_` variables of the environment.
pub(crate) fn example(name: &str) -> Command {
    // Cargo has no variable for the path of an example. This test is target/<profile>/deps/<test>, the example is
    // target/<profile>/examples/<name>.
    let profile = env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
    let path = profile.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} does not exist: run `cargo build --example {name}`", path.display());
    let mut command = Command::new(path);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AIUTA_")) {
        command.env_remove(name);
    }
    command
}
