//! The rules of trying again. `mod.rs` states them for users.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::cluster::{Cluster, Found};
use super::error::{ClientError, Happened, Unanswered};
use super::reply::{Reply, code};
use super::request::{Request, Target};

/// The pause before the second try, and the longest one: short, since a new master may be there any moment.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How a try ended that did not end the call with an error.
enum Try {
    /// A reply, which may be a refusal, of this endpoint.
    Answered(Reply, usize),
    /// It is certain that nothing happened, or it does not matter.
    Again(When, ClientError),
}

/// When to try again.
enum When {
    /// At once: a node said where to go.
    Now,
    /// After a pause.
    Soon,
    /// After a pause, but not for long: no endpoint can be reached, or all say that the master is elsewhere.
    Awhile,
}

/// How far a call has come, for the moment when its deadline passes.
#[derive(Default)]
struct Progress {
    /// Whether a node may have the request and its reply is outstanding.
    is_sent: bool,
    /// What was last in the way.
    obstacle: Option<ClientError>,
}

impl Cluster {
    /// Sends a request where it belongs, or to the endpoint `pinned`, until there is a result or the time is up.
    pub(crate) async fn call(
        self: &Arc<Self>,
        request: &Request,
        pinned: Option<usize>,
        timeout: Duration,
    ) -> Result<(Reply, usize), ClientError> {
        let mut progress = Progress::default();
        let attempts = self.attempts(request, pinned, &mut progress);
        if let Ok(result) = tokio::time::timeout(timeout, attempts).await {
            return result;
        }
        if progress.is_sent && request.is_update {
            return Err(ClientError::OutcomeUnknown { why: format!("the node did not answer within {timeout:?}") });
        }
        Err(match progress.obstacle {
            Some(obstacle @ ClientError::Unreachable { .. }) => obstacle,
            Some(ClientError::DidNotHappen { why }) => {
                ClientError::DidNotHappen { why: format!("no success within {timeout:?}: {why}") }
            }
            Some(obstacle) => ClientError::DidNotHappen { why: format!("no success within {timeout:?}: {obstacle}") },
            None => ClientError::DidNotHappen { why: format!("no answer within {timeout:?}") },
        })
    }

    async fn attempts(
        self: &Arc<Self>,
        request: &Request,
        pinned: Option<usize>,
        progress: &mut Progress,
    ) -> Result<(Reply, usize), ClientError> {
        let mut pause = PAUSE_MIN;
        let mut has_followed = false;
        let mut unreachable_since = None;
        loop {
            let attempt = match (pinned, request.target) {
                (Some(endpoint), _) => self.attempt(request, endpoint, progress).await?,
                (None, Target::Master) => self.attempt_at_master(request, progress).await?,
                (None, Target::Any) => self.attempt_anywhere(request, progress).await?,
            };
            let (when, obstacle) = match attempt {
                Try::Answered(reply, endpoint) => return Ok((reply, endpoint)),
                // Who asks for one node wants to hear of that node: no other can stand in for it.
                Try::Again(_, obstacle) if pinned.is_some() => return Err(obstacle),
                Try::Again(when, obstacle) => (when, obstacle),
            };
            if let When::Awhile = when {
                let since = *unreachable_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.options.unreachable_timeout {
                    return Err(obstacle);
                }
            } else {
                unreachable_since = None;
            }
            progress.obstacle = Some(obstacle);
            if matches!(when, When::Now) && !has_followed {
                has_followed = true;
            } else {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(PAUSE_MAX);
            }
        }
    }

    async fn attempt_at_master(
        self: &Arc<Self>,
        request: &Request,
        progress: &mut Progress,
    ) -> Result<Try, ClientError> {
        if let Some(endpoint) = self.master() {
            return self.attempt(request, endpoint, progress).await;
        }
        match self.find_master().await {
            Found::Master(endpoint, _) => self.attempt(request, endpoint, progress).await,
            Found::Nobody(why) => Ok(Try::Again(When::Soon, did_not_happen(why))),
            Found::Elsewhere(why) => Ok(Try::Again(When::Awhile, did_not_happen(why))),
            Found::Unreachable(tried) => Ok(Try::Again(When::Awhile, ClientError::Unreachable { tried })),
        }
    }

    /// The preferred (or last good) endpoint first, then the others in turn.
    async fn attempt_anywhere(&self, request: &Request, progress: &mut Progress) -> Result<Try, ClientError> {
        let count = self.options.endpoints.len();
        let first = self.any.load(Ordering::Relaxed);
        let mut tried = Vec::new();
        let mut obstacle = None;
        let mut stale = None;
        for endpoint in (0..count).map(|step| (first + step) % count) {
            match self.attempt(request, endpoint, progress).await? {
                // Another node may be further, or have the data at all.
                Try::Answered(reply, _) if matches!(reply.code, code::INCONSISTENT_READ | code::NOT_SUPPORTED) => {
                    stale = Some((reply, endpoint));
                }
                Try::Answered(reply, _) => {
                    if self.options.prefer.is_none() {
                        self.any.store(endpoint, Ordering::Relaxed);
                    }
                    return Ok(Try::Answered(reply, endpoint));
                }
                Try::Again(_, ClientError::Unreachable { tried: this }) => tried.extend(this),
                Try::Again(_, this) => obstacle = Some(this),
            }
        }
        Ok(match (stale, obstacle) {
            (Some((reply, endpoint)), _) => Try::Answered(reply, endpoint),
            (None, Some(obstacle)) => Try::Again(When::Soon, obstacle),
            (None, None) => Try::Again(When::Awhile, ClientError::Unreachable { tried }),
        })
    }

    /// One try at one endpoint. The errors are those that end the call.
    async fn attempt(&self, request: &Request, endpoint: usize, progress: &mut Progress) -> Result<Try, ClientError> {
        let at = |why: String| format!("{}: {why}", self.address(endpoint));
        let answer = match self.connection(endpoint).await {
            Ok(connection) => {
                let answer = connection.call(request, || progress.is_sent = true).await;
                progress.is_sent = false;
                answer
            }
            Err(why) => Err(Unanswered::NotSent(why)),
        };
        let (when, error) = match answer {
            Ok(reply) => match reply.code {
                code::NOT_MASTER => {
                    self.forget_master(endpoint);
                    let named = String::from_utf8_lossy(&reply.message()).into_owned();
                    let when = if self.follow(&named, endpoint) { When::Now } else { When::Soon };
                    (when, did_not_happen(at(format!("not the master; it names {named}"))))
                }
                code::OVERLOADED => (When::Soon, did_not_happen(at(reply.to_string()))),
                code::GOING_DOWN => {
                    self.forget_master(endpoint);
                    (When::Soon, did_not_happen(at(reply.to_string())))
                }
                code::NO_LONGER_MASTER => {
                    self.forget_master(endpoint);
                    (When::Soon, lost(request, at(reply.to_string())))
                }
                _ => return Ok(Try::Answered(reply, endpoint)),
            },
            Err(unanswered) => {
                self.forget_master(endpoint);
                let error = match unanswered {
                    Unanswered::NotSent(why) => ClientError::Unreachable { tried: vec![(self.address(endpoint), why)] },
                    Unanswered::Lost(why) => lost(request, at(why)),
                    Unanswered::Garbage(malformed) => {
                        return Err(self.protocol_error(request, endpoint, malformed.to_string()));
                    }
                };
                (When::Soon, error)
            }
        };
        match error.happened() {
            Happened::No => Ok(Try::Again(when, error)),
            Happened::Unknown => Err(error),
        }
    }

    pub(crate) fn protocol_error(&self, request: &Request, endpoint: usize, why: String) -> ClientError {
        let happened = if request.is_update { Happened::Unknown } else { Happened::No };
        ClientError::Protocol { endpoint: self.address(endpoint), why, happened }
    }
}

fn did_not_happen(why: String) -> ClientError {
    ClientError::DidNotHappen { why }
}

/// A node may have the request. That matters for an update; a read can be sent again.
fn lost(request: &Request, why: String) -> ClientError {
    if request.is_update { ClientError::OutcomeUnknown { why } } else { ClientError::DidNotHappen { why } }
}
