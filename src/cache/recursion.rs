//! Detects a token source that needs a token of the cache that is polling it (rule C7). It would wait for itself.

use std::cell::RefCell;
use std::future::poll_fn;

use super::state::CacheState;
use crate::source::SourceCall;
use crate::sync::thread_local;

thread_local! {
    /// The addresses of the caches whose sources this thread is polling. A source may use another layer, so there can
    /// be several. A thread that is ending has no such list, and detects nothing.
    static POLLING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn address(cache: &CacheState) -> usize {
    std::ptr::from_ref(cache).addr()
}

/// Returns a call that is the same as `call`, during whose polls [`is_polling`] returns `true`.
pub(super) fn detect(cache: &CacheState, mut call: SourceCall) -> SourceCall {
    let cache = address(cache);
    Box::pin(poll_fn(move |cx| {
        let _entered = Entered::new(cache);
        call.as_mut().poll(cx)
    }))
}

/// Keeps an address in [`POLLING`] until this is dropped, also if the source panics.
struct Entered;

impl Entered {
    fn new(cache: usize) -> Self {
        let _ = POLLING.try_with(|polling| polling.borrow_mut().push(cache));
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = POLLING.try_with(|polling| polling.borrow_mut().pop());
    }
}

/// Runs foreign code that is not part of the source, although the source calls it: the wakers of waiting requests. A
/// waker may poll another request, and that is no recursion.
pub(super) fn outside(f: impl FnOnce()) {
    let entered = POLLING.try_with(RefCell::take).unwrap_or_default();
    f();
    let _ = POLLING.try_with(|polling| polling.replace(entered));
}

/// Returns whether this thread is polling the source of `cache`.
pub(super) fn is_polling(cache: &CacheState) -> bool {
    POLLING.try_with(|polling| polling.borrow().contains(&address(cache))).unwrap_or(false)
}
