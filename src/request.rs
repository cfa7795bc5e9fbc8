//! What can be told from one request, without state: where it goes, what it needs, its body, and the headers that carry credentials.

pub(crate) mod access;
pub(crate) mod body;
pub(crate) mod credential;
pub(crate) mod headers;
pub(crate) mod origin;
mod path;
