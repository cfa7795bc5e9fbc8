//! Causes random faults: it revokes tokens, moves clocks, rotates secrets, floods the cache, and makes the token source
//! and the upstream fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tower_aiuta_auth::testing::{FakeAiuta, Fault};
use tower_aiuta_auth::{BoxError, JwtSigner, TokenCache};

use crate::clock::WallClock;
use crate::invariants::Invariant;
use crate::rejected_keys::PHASE;
use crate::rng::Rng;
use crate::shared::{REQUESTS_PER_FLOOD_KEY, Shared};
use crate::source::SourceMode;

/// When the first phase of [`RejectedKeys`](crate::rejected_keys::RejectedKeys) begins, and how often one does.
const FIRST_PHASE: Duration = Duration::from_secs(6);
const PHASE_INTERVAL: Duration = Duration::from_secs(20);

pub(crate) struct Chaos {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tokens: TokenCache,
    pub(crate) signer: JwtSigner,
    pub(crate) mode: Arc<SourceMode>,
    /// The layer's clock, then the upstream's.
    pub(crate) clocks: [WallClock; 2],
    pub(crate) rng: Rng,
    /// The offset in force when it was last looked at, in seconds.
    pub(crate) offset: i64,
}

impl Chaos {
    pub(crate) async fn run(mut self) -> Result<(), BoxError> {
        // The first ten choose one kind each, so that a short run contains every kind.
        let mut round = 0;
        let (mut phase, mut next_phase) = (0, Instant::now() + FIRST_PHASE);
        while !self.shared.is_over() {
            if Instant::now() >= next_phase {
                phase += 1;
                next_phase += PHASE_INTERVAL;
                self.phase(phase).await?;
            }
            self.watch_offset();
            match if round < 10 { round * 10 } else { self.rng.below(100) } {
                0..10 => self.invalidate(),
                10..20 => self.revoke(),
                20..30 => self.mode.set(u8::try_from(self.rng.below(SourceMode::KINDS))?),
                30..38 => self.flood(),
                40..41 => self.step_together(),
                50..51 => self.step_apart().await,
                60..61 => self.clear(),
                70..72 => self.rotate().await?,
                80..85 => self.hold().await,
                _ => self.inject_faults(),
            }
            round += 1;
            // Every 60th pause is a quiet period, in which tokens live long enough to be refreshed.
            sleep(if round % 60 == 0 { Duration::from_secs(2) } else { self.rng.millis(20..=80) }).await;
        }
        Ok(())
    }

    /// Has all tokens of some keys rejected. What lets the next fetch start at once does not happen meanwhile: clocks
    /// are not stepped, and the cache is not cleared.
    async fn phase(&mut self, number: u64) -> Result<(), BoxError> {
        let began = Instant::now();
        self.shared.rejected_keys.begin_phase(number, &self.shared.upstream.photos[0]);
        while !self.shared.is_over() && began.elapsed() < PHASE {
            // In the second half each date is right, so an offset that was adopted by a false one is void.
            self.shared.false_dates.store(began.elapsed() < PHASE / 2, Ordering::Relaxed);
            self.watch_offset();
            match self.rng.below(100) {
                0..15 => self.invalidate(),
                15..30 => self.revoke(),
                30..40 => self.mode.set(u8::try_from(self.rng.below(SourceMode::KINDS))?),
                40..43 => self.flood(),
                43..50 => self.hold().await,
                _ => self.inject_faults(),
            }
            sleep(self.rng.millis(20..=80)).await;
        }
        let is_full = began.elapsed() >= PHASE;
        self.shared.rejected_keys.end_phase(is_full);
        let offset = self.tokens.stats().clock_offset;
        self.shared.violations.check(Invariant::OffsetOnTrial, !is_full || offset == 0, || {
            format!("{offset} s are in force although both clocks have agreed for {:?}", PHASE / 2)
        });
        self.shared.false_dates.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Counts the offsets that were adopted and voided since the last look.
    fn watch_offset(&mut self) {
        let before = std::mem::replace(&mut self.offset, self.tokens.stats().clock_offset);
        match (before, self.offset) {
            (0, 1.. | i64::MIN..=-1) => self.shared.counts.offsets.add(),
            (1.. | i64::MIN..=-1, 0) => self.shared.counts.voided_offsets.add(),
            _ => {}
        }
    }

    fn invalidate(&mut self) {
        let params = self.shared.try_on(self.rng.below(self.shared.try_on_keys())).params();
        self.shared.counts.invalidations.add();
        self.shared.invalidations.during(|| self.tokens.invalidate(&params));
    }

    fn revoke(&self) {
        self.shared.counts.revocations.add();
        self.shared.upstream.get().revoke_tokens();
    }

    fn clear(&self) {
        self.shared.counts.clears.add();
        self.shared.invalidations.during(|| self.tokens.clear());
    }

    fn flood(&mut self) {
        self.shared.flood.fetch_add(self.rng.within(100..=600) * REQUESTS_PER_FLOOD_KEY, Ordering::Relaxed);
    }

    fn inject_faults(&mut self) {
        let aiuta = self.shared.upstream.get();
        let fault = match self.rng.below(5) {
            0 | 1 => Fault::Unauthorized,
            2 => Fault::Unavailable,
            3 => Fault::Disconnect,
            _ => Fault::TooManyRequests { retry_after: Duration::from_secs(1) },
        };
        aiuta.fail_next(usize::try_from(self.rng.within(1..=12)).unwrap_or(1), fault);
        aiuta.delay_next(usize::try_from(self.rng.within(1..=12)).unwrap_or(1), self.rng.millis(1..=20));
    }

    async fn hold(&mut self) {
        let hold = self.shared.upstream.get().hold();
        sleep(self.rng.millis(1..=30)).await;
        hold.release();
    }

    /// Returns a random step in either direction, in milliseconds: of up to two minutes, or so small that a step back
    /// ends no token (rule D1).
    fn random_step(&mut self) -> i64 {
        let most = if self.rng.one_in(2) { 120_000 } else { 3_000 };
        let by = i64::try_from(self.rng.within(500..=most)).unwrap_or(0);
        if self.rng.one_in(2) { by } else { -by }
    }

    fn step_together(&mut self) {
        let by = self.random_step();
        self.step(0, by);
        self.step(1, by);
    }

    /// Sets the upstream's clock ahead for a while: newly signed tokens have already expired there, until the layer
    /// corrects its clock (rule H1). Once the clocks agree again, the layer has to notice that as well. (An upstream
    /// clock that is behind has no effect here, because tokens are backdated by more than the difference.)
    async fn step_apart(&mut self) {
        let by = i64::try_from(self.rng.within(10_000..=120_000)).unwrap_or(0);
        let (which, by) = if self.rng.one_in(2) { (0, -by) } else { (1, by) };
        self.step(which, by);
        sleep(self.rng.millis(100..=300)).await;
        self.watch_offset();
        self.step(which, -by);
    }

    fn step(&self, which: usize, by: i64) {
        self.shared.counts.clock_steps.add();
        self.shared.invalidations.during(|| self.clocks[which].step(by));
    }

    /// Gives the signer and the upstream a new secret, then clears the cache. Until all three are done, tokens are
    /// rejected.
    async fn rotate(&mut self) -> Result<(), BoxError> {
        let secret = format!("{:032x}", self.rng.next());
        self.shared.counts.rotations.add();
        self.signer.rotate(FakeAiuta::ISSUER, &secret)?;
        self.shared.upstream.replace(&secret).await?;
        self.clear();
        Ok(())
    }
}
