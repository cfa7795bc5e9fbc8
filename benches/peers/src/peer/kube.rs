//! `kube-client`: the `AuthLayer` of `Config::auth_layer`, with both kinds of tokens that it refreshes: a token file,
//! as in a pod, and a credential plugin. In warm hits, neither the file is read nor the plugin run during the
//! measurement.
//!
//! The token source of the herds is a plugin: this program, which fetches a token from the authority. The plugin runs
//! once when the layer is built. That run is not counted, and its token expires at once, so that the herd meets a cold
//! cache.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use http::Uri;
use kube_client::Config;
use kube_client::client::ConfigExt;
use kube_client::client::middleware::AuthLayer;
use kube_client::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use tempfile::NamedTempFile;
use tower::Layer;

use super::inner::{Api, Counting, run, status};
use super::{Herd, Hit, URI, batch, client, one_token, try_on};
use crate::BoxError;
use crate::authority::{credential, now};

/// The subcommand that makes this program act as the plugin.
pub const PLUGIN: &str = "credential-plugin";

pub async fn hits() -> Result<Vec<Hit>, BoxError> {
    let token = one_token().await?;
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), &token)?;
    let by_file = AuthInfo { token_file: Some(file.path().display().to_string()), ..AuthInfo::default() };

    let kept = NamedTempFile::new()?;
    std::fs::write(kept.path(), credential(&token, now() + Duration::from_secs(3600)).to_string())?;
    let by_plugin = plugin(&kept.path().display().to_string(), kept.path())?;

    Ok(vec![
        hit("kube-client, token file", "`AuthLayer`; the file is read once a minute", layer(by_file)?, file),
        hit("kube-client, plugin", "`AuthLayer`; the plugin has run, its token is valid", layer(by_plugin)?, kept),
    ])
}

fn hit(name: &'static str, note: &'static str, layer: AuthLayer, file: NamedTempFile) -> Hit {
    let mut service = layer.layer(Counting);
    Hit {
        name,
        note,
        floor: batch(try_on, |request| run(&mut Counting, request)),
        authenticated: batch(try_on, move |request| {
            let _kept_as_long_as_the_service = &file;
            run(&mut service, request)
        }),
    }
}

pub const HERD: Herd = Herd {
    name: "kube-client",
    client: |authority| {
        Box::pin(async move {
            let origin = authority.serve().await?;
            let expired = NamedTempFile::new()?;
            std::fs::write(expired.path(), credential("expired", now()).to_string())?;
            let layer = layer(plugin(&origin, expired.path())?)?;
            let service = layer.layer(Api(authority));
            Ok(client(move || status(service.clone())))
        })
    },
};

fn layer(auth_info: AuthInfo) -> Result<AuthLayer, BoxError> {
    let mut config = Config::new(Uri::from_static(URI));
    config.auth_info = auth_info;
    Ok(config.auth_layer()?.ok_or("the config has no credential")?)
}

/// Returns the settings that run this program as a plugin. It prints the file `first` and removes it, if it exists;
/// otherwise it prints the response of `source`.
fn plugin(source: &str, first: &Path) -> Result<AuthInfo, BoxError> {
    let exec = ExecConfig {
        api_version: Some("client.authentication.k8s.io/v1".into()),
        command: Some(std::env::current_exe()?.display().to_string()),
        args: Some(vec![PLUGIN.into(), source.into(), first.display().to_string()]),
        interactive_mode: Some(ExecInteractiveMode::Never),
        ..serde_json::from_str("{}")?
    };
    Ok(AuthInfo { exec: Some(exec), ..AuthInfo::default() })
}

/// Returns the output of the plugin.
pub fn run_plugin(source: &str, first: &Path) -> Result<String, BoxError> {
    if let Ok(credential) = std::fs::read_to_string(first) {
        std::fs::remove_file(first)?;
        return Ok(credential);
    }
    let mut stream = TcpStream::connect(source.strip_prefix("http://").ok_or("not an origin")?)?;
    stream.write_all(b"GET /exec HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if !head.contains(" 200 ") {
        return Err("the source is down".into());
    }
    Ok(body.to_owned())
}
