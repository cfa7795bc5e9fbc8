//! A subscriber that writes the spans and events of one test as text.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::marker::PhantomData;
use std::sync::Once;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

thread_local! {
    /// `Some` while a test captures on this thread.
    static CAPTURED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Captures what the current thread emits, from [`start`](Self::start) until it is dropped. Not `Send`: a test that
/// uses it runs everything on its own thread.
pub struct CapturedEvents(PhantomData<*const ()>);

impl CapturedEvents {
    /// The subscriber is the process's, and only the text is the thread's: `tracing` caches for each callsite whether
    /// it is enabled. If a test without a subscriber reaches a callsite first, a thread-local subscriber would not see
    /// its events.
    pub fn start() -> Self {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| tracing_subscriber::registry().with(Capture).init());
        // Another test may have registered a callsite while the subscriber was being installed.
        tracing::callsite::rebuild_interest_cache();
        CAPTURED.set(Some(String::new()));
        Self(PhantomData)
    }

    /// The text captured since the last call.
    pub fn take(&self) -> String {
        CAPTURED.replace(Some(String::new())).unwrap_or_default()
    }
}

impl Drop for CapturedEvents {
    fn drop(&mut self) {
        CAPTURED.set(None);
    }
}

struct Capture;

impl Capture {
    fn write(line: std::fmt::Arguments<'_>) {
        CAPTURED.with_borrow_mut(|captured| {
            if let Some(captured) = captured {
                captured.write_fmt(line).unwrap();
            }
        });
    }

    fn fields(record: impl FnOnce(&mut dyn tracing::field::Visit)) {
        record(&mut |field: &tracing::field::Field, value: &dyn Debug| {
            Self::write(format_args!("  {field}={value:?}\n"));
        });
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Capture {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        Self::write(format_args!("span {}\n", attributes.metadata().name()));
        Self::fields(|visit| attributes.record(visit));
    }

    fn on_record(
        &self,
        _: &tracing::span::Id,
        values: &tracing::span::Record<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        Self::fields(|visit| values.record(visit));
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        Self::write(format_args!("event in {}\n", event.metadata().target()));
        Self::fields(|visit| event.record(visit));
    }
}
