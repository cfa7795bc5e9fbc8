//! [`Failure`]: the error of a run, in one line with its cause and advice.

use std::error::Error;
use std::fmt;

use tower_aiuta_auth::{BoxError, ConfigError};

use crate::report::printable;

#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    cause: Option<BoxError>,
    advice: Option<&'static str>,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: None, advice: None }
    }

    pub(crate) fn because(self, cause: impl Into<BoxError>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    pub(crate) fn advise(self, advice: &'static str) -> Self {
        Self { advice: Some(advice), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.what.clone();
        let mut cause = self.cause.as_deref().map(|cause| cause as &dyn Error);
        while let Some(error) = cause {
            line += &format!(": {error}");
            cause = error.source();
        }
        f.write_str(&printable(&line))?;
        self.advice.map_or(Ok(()), |advice| write!(f, ". {advice}"))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new("the settings are invalid").because(error).advise("See `--help` for the variables")
    }
}
