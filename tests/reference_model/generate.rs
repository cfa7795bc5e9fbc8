//! The strategies that produce cases. The first choice of each is the one that a failing case shrinks to.

use proptest::prelude::*;
use proptest::strategy::Union;

use super::case::{Answer, Case, Claims, Date, End, Failure, KEYS, Op, Plan, Request, Status, Wait};

/// What a case is about. Rare chains of events need several likely steps each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Usual,
    /// Few things fail.
    Quiet,
    /// Most tokens are rejected.
    Rejecting,
    /// The layer's clock is wrong, and responses tell the right time.
    WrongClock,
    /// Many tokens arrive expired, or are ones that were made before.
    BadSource,
}

pub fn case() -> impl Strategy<Value = Case> {
    let moods = [(4, Mood::Usual), (3, Mood::Quiet), (3, Mood::Rejecting), (3, Mood::WrongClock), (2, Mood::BadSource)];
    Union::new_weighted(moods.map(|(weight, mood)| (weight, case_in(mood).boxed())).to_vec())
}

fn case_in(mood: Mood) -> impl Strategy<Value = Case> {
    let max_concurrent_fetches =
        prop_oneof![6 => Just(100_usize), 1 => Just(4_usize), 2 => Just(2_usize), 2 => Just(1_usize)];
    let ops = prop::collection::vec(op(mood), if mood == Mood::Rejecting { 1..80 } else { 1..40 });
    let settings = (any::<bool>(), prop::bool::weighted(0.8), max_concurrent_fetches, any::<bool>());
    (settings, wrong_by(mood), ops).prop_map(|(settings, wrong_by, mut ops)| {
        let (on_runtime, refreshes, max_concurrent_fetches, reject_on_forbidden) = settings;
        if wrong_by != 0 {
            ops.insert(0, Op::Step(wrong_by));
        }
        Case { on_runtime, refreshes, max_concurrent_fetches, reject_on_forbidden, ops }
    })
}

/// By how much the clock is wrong from the start.
fn wrong_by(mood: Mood) -> impl Strategy<Value = i64> {
    match mood {
        Mood::WrongClock => prop_oneof![Just(3_600_i64), Just(-3_600), Just(10), Just(-10), Just(100_000)].boxed(),
        _ => Just(0).boxed(),
    }
}

fn op(mood: Mood) -> impl Strategy<Value = Op> {
    let clear = u32::from(mood != Mood::Rejecting);
    let pass = if mood == Mood::Rejecting { 20 } else { 10 };
    let (invalidate, step) = match mood {
        Mood::Usual => (2, 4),
        Mood::Quiet => (1, 4),
        Mood::Rejecting => (0, 1),
        Mood::WrongClock => (1, 3),
        Mood::BadSource => (2, 1),
    };
    prop_oneof![
        24 => request(mood).prop_map(|request| Op::Request(Box::new(request))).boxed(),
        5 => (0..3_usize).prop_map(Op::Respond),
        6 => (0..3_usize).prop_map(Op::Release),
        3 => (0..3_usize).prop_map(Op::Cancel),
        invalidate => keys().prop_map(Op::Invalidate),
        clear => Just(Op::Clear),
        2 => any::<bool>().prop_map(Op::Busy),
        pass => seconds(mood).prop_map(Op::Pass),
        step => step_of_clock().prop_map(Op::Step),
    ]
}

fn keys() -> impl Strategy<Value = usize> {
    (0..10_usize).prop_map(|roll| roll.saturating_sub(10 - KEYS))
}

/// A token for a minute is used for 55 s and refreshed after 41 s to 48 s, one for ten minutes is used for 595 s and
/// refreshed after 446 s to 521 s.
fn seconds(mood: Mood) -> impl Strategy<Value = i64> {
    let hour = if mood == Mood::WrongClock { 4 } else { 0 };
    let (second, half_minute) = if mood == Mood::Rejecting { (5, 10) } else { (4, 1) };
    prop_oneof![
        second => 1..3_i64,
        1 => Just(5_i64),
        2 => Just(10),
        half_minute => Just(30),
        6 => 40..50_i64,
        1 => Just(60),
        1 => 1..100_i64,
        1 => 440..530_i64,
        hour => Just(3_600),
    ]
}

fn step_of_clock() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -5..=5_i64,
        2 => -60..=60_i64,
        1 => Just(100),
        1 => Just(-100),
        1 => Just(3_600),
        1 => Just(-3_600),
    ]
}

fn request(mood: Mood) -> impl Strategy<Value = Request> {
    // Boxed, since the types of strategies that contain others are too large for the stack.
    let call = call(mood).boxed();
    let answer = answer(mood).boxed();
    (keys(), [answer.clone(), answer], [call.clone(), call.clone(), call], prop::bool::weighted(0.1))
        .prop_map(|(key, answers, calls, no_replay)| Request { key, answers, calls, no_replay })
}

fn answer(mood: Mood) -> impl Strategy<Value = Answer> {
    let rejected = match mood {
        Mood::Quiet => 1,
        Mood::Usual => 3,
        Mood::BadSource => 5,
        Mood::WrongClock => 8,
        Mood::Rejecting => 100,
    };
    let forbidden = rejected / 4 + 1;
    let status = prop_oneof![
        10 => Just(Status::Fine),
        rejected => Just(Status::Unauthorized),
        forbidden => Just(Status::Forbidden),
        1 => Just(Status::NotFound),
        1 => Just(Status::TooMany),
        1 => Just(Status::Broken),
    ];
    let (dated, off_by) = if mood == Mood::WrongClock { (12, 4) } else { (1, 1) };
    let off = prop_oneof![4 => -5..=5_i64, 1 => Just(6_i64), 1 => Just(-6), 1 => Just(86_400), 1 => Just(-86_400), 1 => Just(90_000), 1 => Just(-3_600)];
    let date = prop_oneof![6 => Just(Date::None), dated => Just(Date::Aiuta), off_by => off.prop_map(Date::Off)];
    (status, date, prop::bool::weighted(0.2)).prop_map(|(status, date, held)| Answer { status, date, held })
}

fn call(mood: Mood) -> impl Strategy<Value = Plan> {
    let at_once = if matches!(mood, Mood::Rejecting | Mood::Quiet) { 40 } else { 10 };
    let wait = prop_oneof![at_once => Just(Wait::No), 1 => (1..3_usize).prop_map(Wait::Turns), 3 => Just(Wait::Held)];
    let how = prop_oneof![Just(Failure::Permanent), Just(Failure::Transient), Just(Failure::Denied)];
    let pause = prop::option::weighted(0.5, prop_oneof![Just(0_u16), 1..60_u16, Just(300_u16), Just(1000_u16)]);
    let (good, again) = match mood {
        Mood::BadSource => (12, 6),
        Mood::Rejecting => (24, 6),
        Mood::Quiet => (24, 1),
        Mood::Usual | Mood::WrongClock => (12, 1),
    };
    let end = prop_oneof![
        good => claims(mood).prop_map(End::Token).boxed(),
        again => prop_oneof![0..7_usize, 4..7_usize].prop_map(End::Again),
        1 => (how, pause, any::<bool>()).prop_map(|(how, pause, for_this_key)| End::Failed { how, pause, for_this_key }),
        1 => Just(End::Panic),
    ];
    (wait, end).prop_map(|(wait, end)| Plan { wait, end })
}

fn claims(mood: Mood) -> impl Strategy<Value = Claims> {
    let (minute, expired) = match mood {
        Mood::BadSource => (9, 12),
        Mood::Quiet => (50, 1),
        _ => (15, 1),
    };
    let exp = prop_oneof![
        minute => Just(Some(60)),
        3 => Just(Some(600)),
        2 => Just(Some(20)),
        1 => Just(Some(1)),
        1 => Just(Some(0)),
        expired => Just(Some(-10)),
        1 => Just(None),
        // Later than any clock shows.
        1 => Just(Some(i64::from(u32::MAX) * 1_000)),
    ];
    let iat = prop_oneof![minute => Just(Some(0)), 1 => Just(Some(-20)), 1 => Just(Some(20)), 1 => Just(None)];
    let no_age = if mood == Mood::Quiet { 20 } else { 6 };
    let age = prop_oneof![no_age => Just(None), 1 => Just(Some(0)), 2 => Just(Some(20)), 1 => Just(Some(70))];
    (exp, iat, age, prop::bool::weighted(0.2)).prop_map(|(exp, iat, age, out_of_cache)| Claims {
        exp,
        iat,
        age,
        // Implies an age.
        out_of_cache: out_of_cache && age.is_some(),
    })
}
