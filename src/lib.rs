//! Authentication for Aiuta's virtual try-on API, as a Tower layer.
mod clock;
pub use clock::{Clock, SystemClock};
