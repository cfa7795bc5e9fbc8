//! `kube-client`'s `AuthLayer`, as `Config::auth_layer` makes it, with the two kinds of tokens that it refreshes itself: a file, as in a pod, and
//! a credential plugin. Both are warm in the table of hits, and neither is read or run anew while it is measured.
//!
//! Its source in the table of herds is a plugin: this program, which asks the authority. The plugin is run once when the layer is built; the
//! token of that run is over at once, and the run not counted, so that what follows meets a cold cache.

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

/// The subcommand by which this program is the plugin.
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
        hit("kube-client, plugin", "`AuthLayer`; the plugin has run, its token is good", layer(by_plugin)?, kept),
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
            let over = NamedTempFile::new()?;
            std::fs::write(over.path(), credential("over", now()).to_string())?;
            let layer = layer(plugin(&origin, over.path())?)?;
            let service = layer.layer(Api(authority));
            Ok(client(move || status(service.clone())))
        })
    },
};

fn layer(auth_info: AuthInfo) -> Result<AuthLayer, BoxError> {
    let mut config = Config::new(Uri::from_static(URI));
    config.auth_info = auth_info;
    Ok(config.auth_layer()?.ok_or("there is something to authenticate with")?)
}

/// This program as a plugin, which prints the file `first` if that is there, and removes it; otherwise what `source` answers.
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

/// What the plugin prints.
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
