//! [`AuthParams`]: the params of a token. They are also the token's key in the cache.
//!
//! The layer takes the params from a request's extensions, or reads them from the JSON body with the [`json`] module.
//! Then it looks up the token.

pub(crate) mod json;
pub(crate) mod percent;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use serde::ser::{Serialize, SerializeMap, Serializer};

pub use self::value::ParamValue;
use crate::error::{AuthError, ConfigError};
use crate::sync::RandomState;

/// Maximum size in bytes of all names, values and the partition. Params become part of a token, which has to fit into a
/// header.
const MAX_SIZE: usize = 4 * 1024;

/// Maximum size in bytes of the params as JSON. A token of 8 KiB contains three quarters of its size as JSON. 512 bytes
/// are left for the token's header, the other claims and the signature.
const MAX_JSON_SIZE: usize = (8 * 1024 - 512) / 4 * 3;

/// A byte takes at most twelve bytes as JSON: a name of one control character is escaped (`\u0000`), and needs quotes,
/// a colon, a value and a comma. So params up to this size need not be serialized to know that they fit.
const MAX_UNESCAPED_SIZE: usize = MAX_JSON_SIZE / 12;

/// The registered claims (RFC 7519 §4.1). A signed param must not have the name of one (rule G3).
pub(crate) const REGISTERED_CLAIMS: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

/// The param that names the uploaded image of a try-on, or the uploaded image to delete.
pub(crate) const UPLOADED_IMAGE_ID: &str = "uploaded_image_id";

/// The param that names the generated image to delete.
pub(crate) const GENERATED_IMAGE_ID: &str = "generated_image_id";

/// The default of `signed_fields`: the fields of a try-on's body that determine what is generated.
pub(crate) const DEFAULT_SIGNED_FIELDS: [&str; 5] =
    [UPLOADED_IMAGE_ID, "sku_id", "sku_ids", "sku_catalog_name", "product_id"];

/// Seeded randomly for each process, so that a client can't choose ids whose hashes collide.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// The params that a token is created for: names with values, and an optional partition.
///
/// A token with params is valid only for a request whose body has the same values. The layer reads the params from the
/// JSON body of a request that starts a try-on, by the names in
/// [`signed_fields`](crate::AiutaAuthBuilder::signed_fields). Insert `AuthParams` into the request's extensions to set
/// them yourself, for example because the body is not JSON. If these contain only a
/// [partition](Self::with_partition), the layer still reads the params from the request.
///
/// For `DELETE …/uploaded_images/{id}` and `DELETE …/generated_images/{id}`, the param is the id in the path:
/// `uploaded_image_id` or `generated_image_id`. A token to delete an uploaded image is also valid for a try-on with
/// that image, because the two can't be told apart.
///
/// Any other request that needs a JWT must have `AuthParams` in its extensions, unless
/// [`allow_unbound_tokens`](crate::AiutaAuthBuilder::allow_unbound_tokens) permits a token without params.
///
/// Tokens are cached by params and partition. The order in which params are added does not matter.
///
/// ```
/// use tower_aiuta_auth::AuthParams;
///
/// let params = AuthParams::new()
///     .with("uploaded_image_id", "user_image-06f5948c")
///     .with("sku_ids", ["dress-1", "belt-7"])
///     .with_partition("customer-42");
/// assert_eq!(params.get("uploaded_image_id").unwrap(), "user_image-06f5948c");
///
/// let mut request = http::Request::post("https://api.aiuta.com/digital-try-on/v1/sku_images_operations").body(())?;
/// request.extensions_mut().insert(params);
/// # Ok::<(), http::Error>(())
/// ```
///
/// # Params are no authorization
///
/// Params that come from a browser or an app prove nothing. Before a token is created, your code has to check that the
/// caller may use the image: in this process if the tokens come from a [`JwtSigner`](crate::JwtSigner), otherwise in
/// the server behind the [`TokenSource`](crate::TokenSource).
///
/// The *partition* names the owner of the params, such as an end user or a tenant. The token source can read it, and
/// two partitions never share a token. The partition is not signed and not sent to Aiuta.
///
/// # Limits
///
/// Names, values and the partition together may take up to 4 KiB, and the token may take up to 8 KiB. A control
/// character takes 6 bytes as JSON, and a quote or backslash takes 2. Above that, the request fails with
/// [`InvalidBody`](crate::AuthErrorKind::InvalidBody).
///
/// Cloning is cheap. `Debug` shows names, never values.
#[derive(Clone, Default)]
pub struct AuthParams {
    /// `None` if there is no param and no partition, so that an empty `AuthParams` does not allocate.
    inner: Option<Arc<Inner>>,
}

#[derive(Clone, Default)]
struct Inner {
    /// Sorted by name, each name once.
    entries: Vec<(String, ParamValue)>,
    partition: Option<String>,
    /// The sum of the hashes of all entries and the partition. It is updated with each change, so that looking up a
    /// token does not have to compute it. A sum does not depend on the order of the changes.
    hash: u64,
    /// Size in bytes of all entries and the partition.
    size: usize,
}

impl Inner {
    fn add<T: Hash + ?Sized>(&mut self, part: &T, size: usize) {
        self.hash = self.hash.wrapping_add(HASHER.hash_one(part));
        self.size += size;
    }

    fn subtract<T: Hash + ?Sized>(&mut self, part: &T, size: usize) {
        self.hash = self.hash.wrapping_sub(HASHER.hash_one(part));
        self.size -= size;
    }
}

impl AuthParams {
    /// Creates empty params without a partition.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a param. Replaces the param with the same name, if there is one.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<ParamValue>) -> Self {
        let entry = (key.into(), value.into());
        let inner = self.inner_mut();
        inner.add(&entry, entry_size(&entry));
        match inner.entries.binary_search_by(|(name, _)| name.cmp(&entry.0)) {
            Ok(found) => {
                let replaced = std::mem::replace(&mut inner.entries[found], entry);
                inner.subtract(&replaced, entry_size(&replaced));
            }
            Err(place) => inner.entries.insert(place, entry),
        }
        self
    }

    /// Sets the partition: the owner of the params, such as the id of an end user or a tenant.
    ///
    /// See [Params are no authorization](Self#params-are-no-authorization).
    #[must_use]
    pub fn with_partition(mut self, partition: impl Into<String>) -> Self {
        let partition = partition.into();
        let inner = self.inner_mut();
        inner.add(&partition, partition.len());
        if let Some(replaced) = inner.partition.replace(partition) {
            inner.subtract(&replaced, replaced.len());
        }
        self
    }

    /// Sets the partition of `other`, if it has one.
    pub(crate) fn with_partition_of(self, other: &Self) -> Self {
        match other.partition() {
            Some(partition) => self.with_partition(partition),
            None => self,
        }
    }

    fn inner_mut(&mut self) -> &mut Inner {
        Arc::make_mut(self.inner.get_or_insert_default())
    }

    /// Returns the partition.
    #[must_use]
    pub fn partition(&self) -> Option<&str> {
        self.inner.as_ref()?.partition.as_deref()
    }

    /// Returns the value of a param.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&ParamValue> {
        let entries = self.entries();
        let found = entries.binary_search_by(|(name, _)| name.as_str().cmp(key)).ok()?;
        Some(&entries[found].1)
    }

    /// Returns an iterator over names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ParamValue)> {
        self.entries().iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Returns whether there are no params. A partition does not count as a param.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    fn entries(&self) -> &[(String, ParamValue)] {
        self.inner.as_ref().map_or(&[], |inner| &inner.entries)
    }

    /// Returns the params as strings, as Aiuta's official SDKs pass them to `getJwt`. The items of a list are joined by
    /// `,`.
    ///
    /// The partition is not included.
    ///
    /// ```
    /// use tower_aiuta_auth::AuthParams;
    ///
    /// let strings = AuthParams::new().with("sku_ids", ["dress-1", "belt-7"]).with("count", 2).to_strings();
    /// assert_eq!(strings["sku_ids"], "dress-1,belt-7");
    /// assert_eq!(strings["count"], "2");
    /// ```
    #[must_use]
    pub fn to_strings(&self) -> BTreeMap<String, String> {
        self.iter().map(|(key, value)| (key.to_owned(), value.to_string_lossy())).collect()
    }

    /// Checks that the params fit into a token (rule B4).
    pub(crate) fn check_size(&self) -> Result<(), AuthError> {
        let Some(inner) = self.inner.as_ref().filter(|inner| inner.size > MAX_UNESCAPED_SIZE) else { return Ok(()) };
        if inner.size > MAX_SIZE {
            return Err(AuthError::invalid_body(
                "the params are larger than 4 KiB, which is more than a token can carry",
            ));
        }
        let json_size = serde_json::to_vec(self).map_or(usize::MAX, |json| json.len());
        if json_size > MAX_JSON_SIZE {
            return Err(AuthError::invalid_body(
                "the params would take more than 8 KiB in a token, because many of their characters must be escaped",
            ));
        }
        Ok(())
    }

    /// Returns the hash of params and partition. It differs between processes.
    pub(crate) fn keyed_hash(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.hash)
    }
}

fn entry_size((key, value): &(String, ParamValue)) -> usize {
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

/// Serializes the params as an object. The partition is not included.
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

/// Checks that `fields` can be signed. Errors name the `setting` that contains them.
pub(crate) fn check_fields(setting: &'static str, fields: &[String]) -> Result<(), ConfigError> {
    if fields.is_empty() {
        return Err(ConfigError::new(
            setting,
            "it must contain at least one field, because a token without params would be valid for any request",
        ));
    }
    if fields.iter().any(String::is_empty) {
        return Err(ConfigError::new(setting, "it must not contain an empty name"));
    }
    match fields.iter().find(|field| REGISTERED_CLAIMS.contains(&field.as_str())) {
        Some(field) => Err(ConfigError::new(
            setting,
            format!("`{field}` is a registered claim of JWTs, so it can't be the name of a param"),
        )),
        None => Ok(()),
    }
}
