//! [`AuthParams`]: what a token is made for, and the key it is cached under.
//!
//! They come from a request's extensions or, by the [`json`] module, from its JSON body.

pub(crate) mod json;
pub(crate) mod percent;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use serde::ser::{Serialize, SerializeMap, Serializer};

pub use self::value::ParamValue;
use crate::error::{AuthError, ConfigError};

/// The most that params may take, in bytes: they end up in a token, and a token in a header.
const MAX_SIZE: usize = 4 * 1024;

/// The claims with a meaning of their own (RFC 7519 §4.1): no param that is signed may be named like one (rule G3).
pub(crate) const REGISTERED_CLAIMS: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

/// The fields of a try-on's body that decide what is generated: what is signed unless other fields are named.
pub(crate) const DEFAULT_SIGNED_FIELDS: [&str; 5] =
    ["uploaded_image_id", "sku_id", "sku_ids", "sku_catalog_name", "product_id"];

/// Keys the hash of all params of this process, so that nobody can choose ids that collide.
static HASH_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The params a token is made for: names and values, in the order of the names, and the partition they belong to.
///
/// In a request's extensions they decide which token it carries; its body is then not read.
///
/// ```
/// use tower_aiuta_auth::AuthParams;
///
/// let params = AuthParams::new()
///     .with("uploaded_image_id", "user_image-06f5948c")
///     .with("sku_ids", ["dress-1", "belt-7"])
///     .with_partition("customer-42");
///
/// let mut request = http::Request::post("https://api.aiuta.com/digital-try-on/v1/sku_images_operations").body(())?;
/// request.extensions_mut().insert(params);
/// # Ok::<(), http::Error>(())
/// ```
///
/// # Params are no authorization
///
/// Params that come from a browser or an app prove nothing. Whoever signs them (a [`JwtSigner`](crate::JwtSigner) in this process, or
/// the server behind a [`TokenSource`](crate::TokenSource)) has to check first that the image belongs to the one who asks.
///
/// A *partition* says whom params belong to: an end user, a tenant. It is part of the cache's key and the source sees it, so that two
/// partitions never share a token; it is never signed and never sent to Aiuta.
///
/// # Limits
///
/// Names and values together may take 4 KiB, the partition included; more is refused when a token is asked for, as
/// [`InvalidBody`](crate::AuthErrorKind::InvalidBody).
///
/// Cloning is cheap. `Debug` shows names, never values.
#[derive(Clone, Default)]
pub struct AuthParams {
    /// `None` without params and partition.
    inner: Option<Arc<Inner>>,
}

#[derive(Clone, Default)]
struct Inner {
    /// Sorted by name, each name once.
    entries: Vec<(String, ParamValue)>,
    partition: Option<String>,
    /// The sum of the keyed hashes of all the above, kept up with each change: a sum does not depend on the order, and a request that
    /// is sent finds it ready.
    hash: u64,
    /// What all the above take, in bytes.
    size: usize,
}

impl Inner {
    fn add<T: Hash + ?Sized>(&mut self, part: &T, size: usize) {
        self.hash = self.hash.wrapping_add(HASH_KEY.hash_one(part));
        self.size += size;
    }

    fn take_away<T: Hash + ?Sized>(&mut self, part: &T, size: usize) {
        self.hash = self.hash.wrapping_sub(HASH_KEY.hash_one(part));
        self.size -= size;
    }
}

impl AuthParams {
    /// No params.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a param, or replaces the one of that name.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<ParamValue>) -> Self {
        let entry = (key.into(), value.into());
        let inner = self.inner_mut();
        inner.add(&entry, size_of_param(&entry));
        match inner.entries.binary_search_by(|(name, _)| name.cmp(&entry.0)) {
            Ok(found) => {
                let replaced = std::mem::replace(&mut inner.entries[found], entry);
                inner.take_away(&replaced, size_of_param(&replaced));
            }
            Err(place) => inner.entries.insert(place, entry),
        }
        self
    }

    /// Says whom the params belong to.
    #[must_use]
    pub fn with_partition(mut self, partition: impl Into<String>) -> Self {
        let partition = partition.into();
        let inner = self.inner_mut();
        inner.add(&partition, partition.len());
        if let Some(replaced) = inner.partition.replace(partition) {
            inner.take_away(&replaced, replaced.len());
        }
        self
    }

    fn inner_mut(&mut self) -> &mut Inner {
        Arc::make_mut(self.inner.get_or_insert_default())
    }

    /// Whom the params belong to, if that was said.
    #[must_use]
    pub fn partition(&self) -> Option<&str> {
        self.inner.as_ref()?.partition.as_deref()
    }

    /// The value of one param.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&ParamValue> {
        let entries = self.entries();
        let found = entries.binary_search_by(|(name, _)| name.as_str().cmp(key)).ok()?;
        Some(&entries[found].1)
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ParamValue)> {
        self.entries().iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether there is no param. The partition does not count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    fn entries(&self) -> &[(String, ParamValue)] {
        self.inner.as_ref().map_or(&[], |inner| &inner.entries)
    }

    /// The params as the official SDKs hand them to an integrator's server, `Map<String, String>`: lists joined by `,`.
    #[must_use]
    pub fn to_strings(&self) -> BTreeMap<String, String> {
        self.iter().map(|(key, value)| (key.to_owned(), value.to_string_lossy())).collect()
    }

    /// Refuses params that would not fit into a token.
    pub(crate) fn check_size(&self) -> Result<(), AuthError> {
        if self.inner.as_ref().is_some_and(|inner| inner.size > MAX_SIZE) {
            return Err(AuthError::invalid_body("the params are over 4 KiB, more than a token can carry"));
        }
        Ok(())
    }

    /// The hash of params and partition, under this process's key.
    pub(crate) fn keyed_hash(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.hash)
    }
}

fn size_of_param((key, value): &(String, ParamValue)) -> usize {
    key.len() + value.size()
}

impl PartialEq for AuthParams {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.inner, &other.inner) {
            (Some(inner), Some(other)) => Arc::ptr_eq(inner, other),
            (None, None) => true,
            _ => false,
        };
        same || (self.entries() == other.entries() && self.partition() == other.partition())
    }
}

impl Eq for AuthParams {}

impl Hash for AuthParams {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.keyed_hash());
    }
}

/// As a JSON object, the partition left out.
impl Serialize for AuthParams {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.entries().len()))?;
        for (key, value) in self.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl fmt::Debug for AuthParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(|(key, _)| key).collect();
        f.debug_struct("AuthParams")
            .field("names", &names)
            .field("partitioned", &self.partition().is_some())
            .finish_non_exhaustive()
    }
}

/// Refuses fields that can't be signed, under the name of the `setting` that has them.
pub(crate) fn check_fields(setting: &'static str, fields: &[String]) -> Result<(), ConfigError> {
    if fields.is_empty() {
        return Err(ConfigError::new(
            setting,
            "at least one is needed: a token for no params would be good for everything",
        ));
    }
    if fields.iter().any(String::is_empty) {
        return Err(ConfigError::new(setting, "a field's name must not be empty"));
    }
    match fields.iter().find(|field| REGISTERED_CLAIMS.contains(&field.as_str())) {
        Some(field) => {
            Err(ConfigError::new(setting, format!("`{field}` is a claim of the JWT itself and can't be signed")))
        }
        None => Ok(()),
    }
}
