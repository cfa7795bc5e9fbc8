//! What goes wrong, and when.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tower_aiuta_auth::testing::{FakeAiuta, Fault};
use tower_aiuta_auth::{BoxError, JwtSigner, TokenCache};

use crate::clock::WallClock;
use crate::rng::Rng;
use crate::source::Mood;
use crate::world::{FLOOD_ASKS, World};

pub(crate) struct Weather {
    pub(crate) world: Arc<World>,
    pub(crate) tokens: TokenCache,
    pub(crate) signer: JwtSigner,
    pub(crate) mood: Arc<Mood>,
    /// The layer's clock, and the stand-in's.
    pub(crate) clocks: [WallClock; 2],
    pub(crate) rng: Rng,
}

impl Weather {
    pub(crate) async fn run(mut self) -> Result<(), BoxError> {
        // The first few come in turn, so that a short storm has all of it.
        let mut turn = 0;
        while !self.world.is_over() {
            match if turn < 10 { turn * 10 } else { self.rng.below(100) } {
                0..10 => self.invalidate(),
                10..20 => self.revoke(),
                20..30 => self.mood.set(u8::try_from(self.rng.below(Mood::KINDS))?),
                30..38 => self.flood(),
                40..41 => self.step_together(),
                50..51 => self.step_apart().await,
                60..61 => self.forget_everything(),
                70..72 => self.rotate().await?,
                80..85 => self.hold().await,
                _ => self.faults(),
            }
            turn += 1;
            // Now and then a calm, in which tokens live long enough to be refreshed.
            sleep(if turn % 60 == 0 { Duration::from_secs(2) } else { self.rng.millis(20..=80) }).await;
        }
        Ok(())
    }

    fn invalidate(&mut self) {
        let params = self.world.wish(self.rng.below(self.world.wishes())).params();
        self.world.counts.invalidations.add();
        self.world.forgets.during(|| self.tokens.invalidate(&params));
    }

    fn revoke(&self) {
        self.world.counts.revocations.add();
        self.world.stand_in.get().revoke_tokens();
    }

    fn forget_everything(&self) {
        self.world.counts.clears.add();
        self.world.forgets.during(|| self.tokens.clear());
    }

    fn flood(&mut self) {
        self.world.flood.fetch_add(self.rng.within(100..=600) * FLOOD_ASKS, Ordering::Relaxed);
    }

    fn faults(&mut self) {
        let aiuta = self.world.stand_in.get();
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
        let hold = self.world.stand_in.get().hold();
        sleep(self.rng.millis(1..=30)).await;
        hold.release();
    }

    /// A step of up to two minutes, in either direction.
    fn any_step(&mut self) -> i64 {
        let by = i64::try_from(self.rng.within(500..=120_000)).unwrap_or(0);
        if self.rng.one_in(2) { by } else { -by }
    }

    fn step_together(&mut self) {
        let by = self.any_step();
        self.step(0, by);
        self.step(1, by);
    }

    /// For a while the stand-in's clock is ahead, and what is signed here has expired there, until the layer makes up for it (rule H1). When they
    /// agree again, it has to find that out, too. (A clock that is behind goes unnoticed here: tokens are backdated by more than that.)
    async fn step_apart(&mut self) {
        let by = i64::try_from(self.rng.within(10_000..=120_000)).unwrap_or(0);
        let (which, by) = if self.rng.one_in(2) { (0, -by) } else { (1, by) };
        self.step(which, by);
        sleep(self.rng.millis(100..=300)).await;
        if self.tokens.stats().clock_offset != 0 {
            self.world.counts.offsets.add();
        }
        self.step(which, -by);
    }

    fn step(&self, which: usize, by: i64) {
        self.world.counts.clock_steps.add();
        self.world.forgets.during(|| self.clocks[which].step(by));
    }

    /// A new secret: the signer has it, the stand-in has it, and the tokens of the old one are forgotten. Between these, tokens are refused.
    async fn rotate(&mut self) -> Result<(), BoxError> {
        let secret = format!("{:032x}", self.rng.next());
        self.world.counts.rotations.add();
        self.signer.rotate(FakeAiuta::ISSUER, &secret)?;
        self.world.stand_in.replace(&secret).await?;
        self.forget_everything();
        Ok(())
    }
}
