//! A case: what the test does, step by step, and how the source and the inner service behave. Its `Debug` is a trace
//! for the reader of a failure.

use std::fmt;

use tower_aiuta_auth::AuthParams;

use super::support;

/// The number of sets of params. The first two differ only in their partition, the last has no partition.
pub const KEYS: usize = 3;

pub fn params(key: usize) -> AuthParams {
    let params = support::params(if key == 2 { "image-2" } else { "image-1" });
    partition(key).into_iter().fold(params, AuthParams::with_partition)
}

pub fn partition(key: usize) -> Option<&'static str> {
    ["one", "two"].get(key).copied()
}

#[derive(Clone)]
pub struct Case {
    pub on_runtime: bool,
    /// Whether tokens are refreshed in the last quarter of their time.
    pub refreshes: bool,
    pub max_concurrent_fetches: usize,
    pub reject_on_forbidden: bool,
    pub ops: Vec<Op>,
}

/// What the test does next. A number chooses among those that are there, counted from the oldest.
#[derive(Clone)]
pub enum Op {
    Request(Box<Request>),
    /// Lets a response that was held reach the layer.
    Respond(usize),
    /// Lets a call of the source go on.
    Release(usize),
    /// Drops a request.
    Cancel(usize),
    Invalidate(usize),
    Clear,
    /// The inner service is not ready, until the next such step.
    Busy(bool),
    /// Time passes, in seconds.
    Pass(i64),
    /// The layer's clock is set, by so many seconds.
    Step(i64),
}

#[derive(Clone)]
pub struct Request {
    pub key: usize,
    /// How the request is answered, and its replay.
    pub answers: [Answer; 2],
    /// What the source does if it is called for the request, for its replay, and when it is asked a second time.
    pub calls: [Plan; 3],
    pub no_replay: bool,
}

/// How the inner service answers a request.
#[derive(Clone, Copy)]
pub struct Answer {
    pub status: Status,
    pub date: Date,
    /// Whether it waits until the test lets it go on.
    pub held: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Fine,
    Unauthorized,
    Forbidden,
    NotFound,
    TooMany,
    Broken,
}

/// The `Date` of a response.
#[derive(Clone, Copy, Debug)]
pub enum Date {
    None,
    /// Aiuta's time, which no step of the layer's clock changes.
    Aiuta,
    /// Seconds that are added to the time of the layer's clock.
    Off(i64),
}

/// What a call of the source does.
#[derive(Clone)]
pub struct Plan {
    pub wait: Wait,
    pub end: End,
}

#[derive(Clone, Copy, Debug)]
pub enum Wait {
    No,
    /// Wakes itself so many times.
    Turns(usize),
    /// Waits until the test lets it go on.
    Held,
}

#[derive(Clone, Debug)]
pub enum End {
    Token(Claims),
    /// An earlier token for these params: the last one is number 0, the one before number 1.
    Again(usize),
    Failed {
        how: Failure,
        pause: Option<u16>,
        for_this_key: bool,
    },
    Panic,
}

#[derive(Clone, Copy, Debug)]
pub enum Failure {
    Permanent,
    Transient,
    Denied,
}

/// In seconds, `exp` and `iat` from the time that the source was told.
#[derive(Clone, Copy)]
pub struct Claims {
    pub exp: Option<i64>,
    pub iat: Option<i64>,
    pub age: Option<i64>,
    pub out_of_cache: bool,
}

impl Plan {
    pub const USUAL: Self = Self { wait: Wait::No, end: End::Token(Claims::MINUTE) };
}

impl Claims {
    pub const MINUTE: Self = Self { exp: Some(60), iat: Some(0), age: None, out_of_cache: false };
}

impl From<Status> for u16 {
    fn from(status: Status) -> Self {
        match status {
            Status::Fine => 200,
            Status::Unauthorized => 401,
            Status::Forbidden => 403,
            Status::NotFound => 404,
            Status::TooMany => 429,
            Status::Broken => 503,
        }
    }
}

impl From<u16> for Status {
    fn from(status: u16) -> Self {
        let all = [Self::Fine, Self::Unauthorized, Self::Forbidden, Self::NotFound, Self::TooMany, Self::Broken];
        all.into_iter().find(|known| u16::from(*known) == status).expect("a status that the test does not use")
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runtime = if self.on_runtime { "on a runtime" } else { "on no runtime" };
        let refreshes = if self.refreshes { "refreshes" } else { "no refreshes" };
        let forbidden = if self.reject_on_forbidden { "403 is 401" } else { "403 passes" };
        writeln!(f, "{runtime}, {refreshes}, {forbidden}, max_concurrent_fetches {}", self.max_concurrent_fetches)?;
        self.ops.iter().try_for_each(|op| writeln!(f, "  {op:?}"))
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(request) => write!(f, "{request:?}"),
            Self::Respond(number) => write!(f, "Respond {number}"),
            Self::Release(number) => write!(f, "Release {number}"),
            Self::Cancel(number) => write!(f, "Cancel {number}"),
            Self::Invalidate(key) => write!(f, "Invalidate key {key}"),
            Self::Clear => f.write_str("Clear"),
            Self::Busy(true) => f.write_str("The inner service is busy"),
            Self::Busy(false) => f.write_str("The inner service is ready"),
            Self::Pass(seconds) => write!(f, "{seconds} s pass"),
            Self::Step(seconds) => write!(f, "The clock steps {seconds:+} s"),
        }
    }
}

/// Shows only what is unusual.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, answers, calls, no_replay } = self;
        write!(f, "Request for key {key}, answered {answers:?}{}", if *no_replay { ", NoReplay" } else { "" })?;
        let usual = format!("{:?}", Plan::USUAL);
        for (name, plan) in ["source", "for the replay", "asked a second time"].into_iter().zip(calls) {
            if format!("{plan:?}") != usual {
                write!(f, ", {name}: {plan:?}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = match self.date {
            Date::None => String::new(),
            Date::Aiuta => " with Aiuta's date".to_owned(),
            Date::Off(seconds) => format!(" with a date off by {seconds:+} s"),
        };
        write!(f, "{:?}{date}{}", self.status, if self.held { " held" } else { "" })
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u16::from(*self))
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wait {
            Wait::No => {}
            Wait::Turns(turns) => write!(f, "{turns} turns, then ")?,
            Wait::Held => f.write_str("held, then ")?,
        }
        write!(f, "{:?}", self.end)
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = |name, value: Option<i64>| value.map_or(format!("no {name}"), |value| format!("{name} {value:+}"));
        write!(f, "{}, {}", claim("iat", self.iat), claim("exp", self.exp))?;
        if let Some(age) = self.age {
            write!(f, ", age {age}")?;
        }
        if self.out_of_cache { f.write_str(", out of a cache") } else { Ok(()) }
    }
}
