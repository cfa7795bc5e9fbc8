//! A subscriber that writes down everything it is told.
#![allow(unreachable_pub, reason = "shared by test files")]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

/// Everything that subscribers are told, as text.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<String>>);

impl Told {
    /// What was told since this was last asked.
    pub fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn fields(&self, record: impl FnOnce(&mut dyn tracing::field::Visit)) {
        record(&mut |field: &tracing::field::Field, value: &dyn Debug| {
            writeln!(self.0.lock().unwrap(), "  {field}={value:?}").unwrap();
        });
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Told {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        writeln!(self.0.lock().unwrap(), "span {}", attributes.metadata().name()).unwrap();
        self.fields(|visit| attributes.record(visit));
    }

    fn on_record(
        &self,
        _: &tracing::span::Id,
        values: &tracing::span::Record<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        self.fields(|visit| values.record(visit));
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        writeln!(self.0.lock().unwrap(), "event in {}", event.metadata().target()).unwrap();
        self.fields(|visit| event.record(visit));
    }
}
