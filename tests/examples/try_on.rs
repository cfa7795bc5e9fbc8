//! `examples/try_on`.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tower_aiuta_auth::testing::{Credential, FakeAiuta, FakeServer, RecordedRequest};

use crate::{loopback, runner};

const PHOTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/try_on/photo.png");

struct Run {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

fn example() -> Command {
    runner::example("try_on")
}

fn run(command: &mut Command) -> Run {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let run = Run { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    for secret in
        [FakeAiuta::API_KEY, FakeAiuta::SUBSCRIPTION_ID, FakeAiuta::ISSUER, FakeAiuta::SECRET, WRONG, "eyJ", "\x1b"]
    {
        assert!(!run.stdout.contains(secret) && !run.stderr.contains(secret), "{secret:?} was printed");
    }
    run
}

/// Asserts that the run failed and printed one line with these texts.
fn assert_failed(run: &Run, says: &[&str]) {
    assert_eq!((run.status, run.stderr.lines().count()), (Some(1), 1), "{}{}", run.stdout, run.stderr);
    for text in says {
        assert!(run.stderr.contains(text), "{text:?} is not in {:?}", run.stderr);
    }
}

/// A wrong key, which is not a secret of [`FakeAiuta`].
const WRONG: &str = "wrong-key-9876543210";

/// Starts a fake Aiuta.
async fn serve() -> (FakeAiuta, FakeServer) {
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await.unwrap();
    (aiuta, server)
}

/// Runs the example with these variables against a server in this process.
async fn run_with<K: AsRef<OsStr>>(server: &FakeServer, variables: &[(&str, K)], args: &[&str]) -> Run {
    let mut command = example();
    command.args(args).env("AIUTA_ORIGIN", server.origin());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
}

fn credentials(aiuta: &FakeAiuta) -> Vec<Credential> {
    aiuta.requests().iter().map(RecordedRequest::credential).collect()
}

#[test]
fn run_without_settings_shows_both_schemes() {
    let temp = tempfile::tempdir().unwrap();
    let run = run(example().env("TMPDIR", temp.path()).env("TMP", temp.path()).env("TEMP", temp.path()));
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
    for text in
        ["The ApiKey scheme", "The Jwt scheme", "x-api-key ×3", "x-user-id ×3", "Bearer JWT ×2", "Bearer JWT ×100"]
    {
        assert!(run.stdout.contains(text), "{text:?} is not in {}", run.stdout);
    }
    // Both results are at the printed paths.
    let results: Vec<PathBuf> = fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(results.len(), 2, "{results:?}");
    for result in results {
        assert!(run.stdout.contains(result.to_str().unwrap()), "{result:?} is not in {}", run.stdout);
        assert_eq!(fs::read(result).unwrap(), fs::read(PHOTO).unwrap());
    }
}

#[tokio::test]
async fn api_key_from_environment_starts_one_operation() {
    let (aiuta, server) = serve().await;
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("result.png");
    let args = ["--photo", PHOTO, "--sku", "dress-1", "--sku", "shoes-2", "--out", out.to_str().unwrap()];

    let run = run_with(&server, &[("AIUTA_API_KEY", aiuta.api_key())], &args).await;

    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
    assert_eq!((aiuta.operations_started(), aiuta.violations()), (1, Vec::new()));
    let mut expected = vec![Credential::ApiKey; 5];
    expected.push(Credential::None);
    assert_eq!(credentials(&aiuta), expected);
    assert_eq!(fs::read(out).unwrap(), fs::read(PHOTO).unwrap());
}

#[tokio::test]
async fn issuer_from_environment_starts_one_operation() {
    let (aiuta, server) = serve().await;
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("result.png");
    let variables = [
        ("AIUTA_SUBSCRIPTION_ID", aiuta.subscription_id()),
        ("AIUTA_JWT_ISSUER", aiuta.issuer()),
        ("AIUTA_JWT_SECRET", aiuta.secret()),
    ];

    let run = run_with(&server, &variables, &["--out", out.to_str().unwrap()]).await;

    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
    assert_eq!((aiuta.operations_started(), aiuta.violations()), (1, Vec::new()));
    let (user, bearer) = (Credential::UserId, Credential::Bearer);
    assert_eq!(credentials(&aiuta), [user, bearer, user, user, user, Credential::None]);
}

#[tokio::test]
async fn request_rejected_by_aiuta_fails_the_run() {
    let (aiuta, server) = serve().await;
    let right = [("AIUTA_API_KEY", aiuta.api_key())];
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("result.png");

    let wrong = [("AIUTA_API_KEY", WRONG)];
    let wrong_key = run_with(&server, &wrong, &["--out", out.to_str().unwrap()]).await;
    assert_failed(&wrong_key, &["could not upload the photo", "401", "Check AIUTA_API_KEY"]);

    let wrong = [
        ("AIUTA_SUBSCRIPTION_ID", aiuta.subscription_id()),
        ("AIUTA_JWT_ISSUER", aiuta.issuer()),
        ("AIUTA_JWT_SECRET", WRONG),
    ];
    let wrong_secret = run_with(&server, &wrong, &["--out", out.to_str().unwrap()]).await;
    assert_failed(&wrong_secret, &["could not start the try-on", "401", "AIUTA_JWT_SECRET"]);

    let too_many = ["--sku", "a", "--sku", "b", "--sku", "c", "--out", out.to_str().unwrap()];
    let invalid = run_with(&server, &right, &too_many).await;
    assert_failed(&invalid, &["could not start the try-on", "422", "sku_ids: List has too many items", "--sku"]);

    assert_eq!(aiuta.operations_started(), 0);
    assert!(!out.exists(), "an empty result was left behind");
}

#[test]
fn unusable_photo_fails_before_anything_is_sent() {
    let temp = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = temp.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    for (path, says) in [
        (temp.path().join("missing.png"), "can't be read"),
        (temp.path().to_owned(), "can't be read"),
        (file("empty.png", b""), "is empty"),
        (file("text.png", b"no photo"), "is neither JPEG nor PNG"),
    ] {
        let run = run(example().arg("--photo").arg(&path));
        assert_failed(&run, &[path.to_str().unwrap(), says, "--photo FILE"]);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn unwritable_output_fails_before_anything_is_sent() {
    let temp = tempfile::tempdir().unwrap();
    for path in [temp.path().join("missing").join("result.png"), temp.path().to_owned()] {
        let run = run(example().arg("--out").arg(&path));
        assert_failed(&run, &[path.to_str().unwrap(), "can't be written", "--out FILE"]);
        assert_eq!(run.stdout, "");
    }
}

#[tokio::test]
async fn unreachable_host_fails_the_run() {
    let (_socket, origin) = loopback::refusing_origin();
    let run = run(example().env("AIUTA_ORIGIN", &origin).env("AIUTA_API_KEY", FakeAiuta::API_KEY));
    assert_failed(&run, &["could not upload the photo", &origin, "refused", "Check AIUTA_ORIGIN and the network"]);
}

#[test]
fn invalid_settings_fail_the_run() {
    let key = ("AIUTA_API_KEY", FakeAiuta::API_KEY);
    let id = ("AIUTA_SUBSCRIPTION_ID", FakeAiuta::SUBSCRIPTION_ID);
    for (variables, says) in [
        (&[id][..], "AIUTA_JWT_ISSUER, AIUTA_JWT_SECRET"),
        (&[key, id], "AIUTA_SUBSCRIPTION_ID"),
        (&[("AIUTA_ORIGIN", "http://127.0.0.1:9")], "AIUTA_API_KEY"),
        (&[key, ("AIUTA_ORIGIN", "http://aiuta.example")], "AIUTA_ORIGIN"),
        (&[("AIUTA_APIKEY", FakeAiuta::API_KEY)], "AIUTA_API_KEY"),
    ] {
        assert_failed(&run(example().envs(variables.iter().copied())), &[says, "--help"]);
    }
}

#[test]
fn invalid_arguments_exit_with_status_2() {
    for args in [&["--photo"][..], &["--sku", ""], &["--colour", "red"], &["photo.png"]] {
        let run = run(example().args(args));
        assert_eq!((run.status, run.stdout.as_str()), (Some(2), ""), "{}", run.stderr);
    }
    let help = run(example().arg("--help"));
    assert_eq!(help.status, Some(0));
    for text in ["cargo run --example try_on", "AIUTA_JWT_SECRET", "AIUTA_TOKEN_URL", "--photo", "--sku", "--out"] {
        assert!(help.stdout.contains(text), "{text} is not in {}", help.stdout);
    }
}
