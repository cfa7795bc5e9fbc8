//! Everything the layer reads from or writes to one request: its origin, its path, its body and its credential headers.
//!
//! This module has no state and knows nothing of the token cache. [`layer`](crate::layer) calls it first for every
//! request.

pub(crate) mod access;
pub(crate) mod body;
pub(crate) mod credential;
pub(crate) mod headers;
pub(crate) mod media;
#[cfg(any(feature = "retry", feature = "reqwest-retry"))]
pub(crate) mod operation;
pub(crate) mod origin;
mod path;
#[cfg(feature = "retry")]
pub(crate) mod sent;
