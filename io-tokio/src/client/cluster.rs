//! The way to the right node: connections on demand, the search for the master, and the rules of trying again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::Connection;
use super::error::{ClientError, Happened, Unanswered};
use super::flight::Flight;
use super::options::ClientOptions;
use super::reply::{Payload, Reply, Shape, code};
use super::request::{Request, Target, node_status, who_master};
use super::status::NodeStatus;
use crate::wire::Reader;

/// The pause before the second try, and the longest one: short, since a new master may be there any moment.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Stands for "no endpoint" in an atomic.
const NOBODY: usize = usize::MAX;

/// What the clones of a client share.
pub(crate) struct Cluster {
    pub(crate) options: ClientOptions,
    /// One row per endpoint, one link per connection.
    links: Vec<Vec<Link>>,
    /// The endpoint of the master, or `NOBODY`.
    master: AtomicUsize,
    search: Flight<Found>,
    /// The endpoint that answered the last read that any node may answer.
    any: AtomicUsize,
    /// Deals calls out to the connections of one endpoint.
    turn: AtomicUsize,
}

#[derive(Default)]
struct Link {
    connection: Mutex<Option<Arc<Connection>>>,
    opening: Flight<Result<Arc<Connection>, String>>,
}

/// What a search for the master gave.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// This endpoint names itself.
    Master(usize, String),
    /// Some endpoints answer, and none names itself.
    Nobody(String),
    /// No endpoint answers.
    Unreachable(Vec<(String, String)>),
}

/// How far a call has come, for the moment when its deadline passes.
struct Progress {
    is_sent: bool,
    obstacle: ClientError,
    unreachable_since: Option<Instant>,
}

/// What to do after a try that gave no result.
enum Next {
    /// Try again now: a node said where to go.
    Follow,
    /// Try again after a pause.
    Retry,
}

impl Cluster {
    pub(crate) fn new(options: ClientOptions) -> Self {
        let row = || (0..options.connections).map(|_| Link::default()).collect();
        let any = options
            .prefer
            .as_deref()
            .and_then(|prefer| options.index_of(prefer).ok())
            .unwrap_or(0);
        Self {
            links: options.endpoints.iter().map(|_| row()).collect(),
            master: AtomicUsize::new(NOBODY),
            search: Flight::default(),
            any: AtomicUsize::new(any),
            turn: AtomicUsize::new(0),
            options,
        }
    }

    /// Sends a request where it belongs, or to the endpoint `pinned`, until there is a result or the time is up.
    pub(crate) async fn call(
        self: &Arc<Self>,
        request: &Request,
        pinned: Option<usize>,
        timeout: Duration,
    ) -> Result<Reply, ClientError> {
        let mut progress = Progress {
            is_sent: false,
            obstacle: ClientError::DidNotHappen {
                why: "there was no answer".to_owned(),
            },
            unreachable_since: None,
        };
        match tokio::time::timeout(timeout, self.attempts(request, pinned, &mut progress)).await {
            Ok(result) => result,
            Err(_) if progress.is_sent && request.is_update => Err(ClientError::OutcomeUnknown {
                why: format!("the node did not answer within {timeout:?}"),
            }),
            Err(_) => Err(match progress.obstacle {
                ClientError::DidNotHappen { why } => ClientError::DidNotHappen {
                    why: format!("not done within {timeout:?}: {why}"),
                },
                obstacle => obstacle,
            }),
        }
    }

    async fn attempts(
        self: &Arc<Self>,
        request: &Request,
        pinned: Option<usize>,
        progress: &mut Progress,
    ) -> Result<Reply, ClientError> {
        let mut pause = PAUSE_MIN;
        let mut has_followed = false;
        loop {
            let next = match pinned {
                // Who asks for one node wants to hear of that node: no other can stand in for it.
                Some(endpoint) => match self.attempt(request, endpoint, progress).await? {
                    Ok(reply) => Ok(reply),
                    Err(_) => return Err(progress.obstacle.clone()),
                },
                None if request.target == Target::Any => self.attempt_anywhere(request, progress).await?,
                None => self.attempt_at_master(request, progress).await?,
            };
            match next {
                Ok(reply) => return Ok(reply),
                Err(Next::Follow) if !has_followed => has_followed = true,
                Err(Next::Follow | Next::Retry) => {
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn attempt_at_master(
        self: &Arc<Self>,
        request: &Request,
        progress: &mut Progress,
    ) -> Result<Result<Reply, Next>, ClientError> {
        let known = self.master.load(Ordering::Acquire);
        if known != NOBODY {
            return self.attempt(request, known, progress).await;
        }
        match self.find_master().await {
            Found::Master(endpoint, _) => self.attempt(request, endpoint, progress).await,
            Found::Nobody(why) => {
                progress.unreachable_since = None;
                progress.obstacle = ClientError::DidNotHappen { why };
                Ok(Err(Next::Retry))
            }
            Found::Unreachable(tried) => self.unreachable(tried, progress),
        }
    }

    /// The preferred (or last good) endpoint first, then the others in turn.
    async fn attempt_anywhere(
        self: &Arc<Self>,
        request: &Request,
        progress: &mut Progress,
    ) -> Result<Result<Reply, Next>, ClientError> {
        let count = self.options.endpoints.len();
        let first = self.any.load(Ordering::Relaxed);
        let mut tried = Vec::new();
        let mut stale = None;
        for endpoint in (0..count).map(|step| (first + step) % count) {
            match self.attempt_once(request, endpoint, progress).await {
                // Another node may be further.
                Ok(reply) if reply.code == code::INCONSISTENT_READ => stale = Some(reply),
                Ok(reply) if turns_away(reply.code) => tried.push((endpoint, describe(&reply))),
                Ok(reply) => {
                    if self.options.prefer.is_none() {
                        self.any.store(endpoint, Ordering::Relaxed);
                    }
                    return Ok(Ok(reply));
                }
                Err(Unanswered::Garbage(why)) => return Err(self.protocol_error(request, endpoint, why.to_string())),
                Err(Unanswered::NotSent(why) | Unanswered::Lost(why)) => tried.push((endpoint, why)),
            }
        }
        match stale {
            Some(reply) => Ok(Ok(reply)),
            None => self.unreachable(
                tried.into_iter().map(|(at, why)| (self.address(at), why)).collect(),
                progress,
            ),
        }
    }

    /// No endpoint answers: worth another try for a while, since nodes restart.
    fn unreachable<T>(
        &self,
        tried: Vec<(String, String)>,
        progress: &mut Progress,
    ) -> Result<Result<T, Next>, ClientError> {
        progress.obstacle = ClientError::Unreachable { tried };
        let since = *progress.unreachable_since.get_or_insert_with(Instant::now);
        if since.elapsed() < self.options.unreachable_timeout {
            Ok(Err(Next::Retry))
        } else {
            Err(progress.obstacle.clone())
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        request: &Request,
        endpoint: usize,
        progress: &mut Progress,
    ) -> Result<Result<Reply, Next>, ClientError> {
        let did_not_happen = |why| ClientError::DidNotHappen {
            why: format!("{}: {why}", self.address(endpoint)),
        };
        match self.attempt_once(request, endpoint, progress).await {
            Ok(reply) if reply.code == code::NOT_MASTER => {
                self.forget_master(endpoint);
                let named = String::from_utf8_lossy(&reply.message()).into_owned();
                progress.obstacle = did_not_happen(format!("not the master (it names {named})"));
                Ok(Err(if self.follow(&named, endpoint) {
                    Next::Follow
                } else {
                    Next::Retry
                }))
            }
            Ok(reply) if reply.code == code::OVERLOADED => {
                progress.obstacle = did_not_happen(describe(&reply));
                Ok(Err(Next::Retry))
            }
            Ok(reply) if turns_away(reply.code) => {
                self.forget_master(endpoint);
                progress.obstacle = did_not_happen(describe(&reply));
                Ok(Err(Next::Retry))
            }
            Ok(reply) if reply.code == code::NO_LONGER_MASTER => {
                self.forget_master(endpoint);
                if request.is_update {
                    return Err(ClientError::OutcomeUnknown { why: describe(&reply) });
                }
                progress.obstacle = did_not_happen(describe(&reply));
                Ok(Err(Next::Retry))
            }
            Ok(reply) => Ok(Ok(reply)),
            Err(Unanswered::NotSent(why)) => {
                self.forget_master(endpoint);
                progress.obstacle = ClientError::Unreachable {
                    tried: vec![(self.address(endpoint), why)],
                };
                Ok(Err(Next::Retry))
            }
            Err(Unanswered::Lost(why)) => {
                self.forget_master(endpoint);
                if request.is_update {
                    return Err(ClientError::OutcomeUnknown {
                        why: format!("{}: {why}", self.address(endpoint)),
                    });
                }
                progress.obstacle = did_not_happen(why);
                Ok(Err(Next::Retry))
            }
            Err(Unanswered::Garbage(why)) => {
                self.forget_master(endpoint);
                Err(self.protocol_error(request, endpoint, why.to_string()))
            }
        }
    }

    async fn attempt_once(
        &self,
        request: &Request,
        endpoint: usize,
        progress: &mut Progress,
    ) -> Result<Reply, Unanswered> {
        progress.is_sent = false;
        let connection = self.connection(endpoint).await.map_err(Unanswered::NotSent)?;
        progress.unreachable_since = None;
        let answer = connection.call(request, || progress.is_sent = true).await;
        progress.is_sent = false;
        answer
    }

    pub(crate) fn protocol_error(&self, request: &Request, endpoint: usize, why: String) -> ClientError {
        let happened = if request.is_update {
            Happened::Unknown
        } else {
            Happened::No
        };
        ClientError::Protocol {
            endpoint: self.address(endpoint),
            why,
            happened,
        }
    }

    pub(crate) fn address(&self, endpoint: usize) -> String {
        self.options.endpoints[endpoint].address.clone()
    }

    /// An open connection to an endpoint.
    async fn connection(&self, endpoint: usize) -> Result<Arc<Connection>, String> {
        let row = &self.links[endpoint];
        let link = &row[self.turn.fetch_add(1, Ordering::Relaxed) % row.len()];
        if let Some(connection) = link.usable() {
            return Ok(connection);
        }
        link.opening
            .join(async || {
                if let Some(connection) = link.usable() {
                    return Ok(connection);
                }
                let address = &self.options.endpoints[endpoint].address;
                let connection = Arc::new(Connection::open(address, &self.options).await?);
                *link.lock() = Some(Arc::clone(&connection));
                Ok(connection)
            })
            .await
    }

    /// Asks every endpoint at once who is master; the first that names itself is.
    pub(crate) async fn find_master(self: &Arc<Self>) -> Found {
        self.search
            .join(async || {
                let mut answers = JoinSet::new();
                for endpoint in 0..self.options.endpoints.len() {
                    let cluster = Arc::clone(self);
                    answers.spawn(async move { (endpoint, cluster.ask(endpoint).await) });
                }
                let mut hearsay = None;
                let mut tried = Vec::new();
                while let Some(answer) = answers.join_next().await {
                    let Ok((endpoint, answer)) = answer else { continue };
                    match answer {
                        Ok((name, Some(master))) if name == master => {
                            self.master.store(endpoint, Ordering::Release);
                            return Found::Master(endpoint, name);
                        }
                        Ok((name, master)) => hearsay = Some(hearsay_of(&name, master.as_deref())),
                        Err(why) => tried.push((self.address(endpoint), why)),
                    }
                }
                hearsay.map_or(Found::Unreachable(tried), Found::Nobody)
            })
            .await
    }

    /// A node's own name, and whom it takes for the master.
    async fn ask(self: Arc<Self>, endpoint: usize) -> Result<(String, Option<String>), String> {
        let timeout = self.options.connect_timeout;
        let answer = async {
            let connection = self.connection(endpoint).await?;
            let master = ask_for(&connection, &who_master())
                .await?
                .option_text()
                .map_err(|error| error.to_string())?;
            let master = master.map(|name| String::from_utf8_lossy(&name).into_owned());
            Ok((self.name(endpoint, &connection).await?, master))
        };
        // Connecting and answering have this time each.
        tokio::time::timeout(2 * timeout, answer)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
    }

    /// The name of the node at the other end of a connection: from the options, or as it says itself.
    async fn name(&self, endpoint: usize, connection: &Connection) -> Result<String, String> {
        if let Some(name) = self.options.endpoints[endpoint]
            .name
            .as_ref()
            .or_else(|| connection.name.get())
        {
            return Ok(name.clone());
        }
        let json = ask_for(connection, &node_status())
            .await?
            .text()
            .map_err(|error| error.to_string())?;
        let status: NodeStatus = serde_json::from_slice(&json).map_err(|error| format!("its status: {error}"))?;
        Ok(connection.name.get_or_init(|| status.node).clone())
    }

    /// Takes the endpoint of this name for the master, if it is another than the one that said so.
    fn follow(&self, name: &str, told_by: usize) -> bool {
        let is_named = |endpoint: &usize| match &self.options.endpoints[*endpoint].name {
            Some(known) => known == name,
            None => self.links[*endpoint].iter().any(|link| {
                link.lock()
                    .as_ref()
                    .is_some_and(|connection| connection.name.get().is_some_and(|known| known == name))
            }),
        };
        let Some(endpoint) = (0..self.links.len())
            .filter(|endpoint| *endpoint != told_by)
            .find(is_named)
        else {
            return false;
        };
        self.master.store(endpoint, Ordering::Release);
        true
    }

    fn forget_master(&self, endpoint: usize) {
        // Another call may have found the new one already.
        let _ = self
            .master
            .compare_exchange(endpoint, NOBODY, Ordering::AcqRel, Ordering::Relaxed);
    }
}

impl Link {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usable(&self) -> Option<Arc<Connection>> {
        self.lock()
            .as_ref()
            .filter(|connection| connection.is_usable())
            .cloned()
    }
}

/// The node has not done it, and another one (or the same one later) may.
fn turns_away(code: i32) -> bool {
    matches!(
        code,
        code::NOT_MASTER | code::GOING_DOWN | code::OVERLOADED | code::MAX_CONNECTIONS
    )
}

fn describe(reply: &Reply) -> String {
    format!(
        "{} (code {:#04x})",
        String::from_utf8_lossy(&reply.message()),
        reply.code
    )
}

fn hearsay_of(name: &str, master: Option<&str>) -> String {
    match master {
        Some(master) => format!("there is no master now; {name} names {master}, which does not confirm it"),
        None => format!("there is no master now, says {name}"),
    }
}

async fn ask_for(connection: &Connection, request: &Request) -> Result<Payload, String> {
    match connection.call(request, || {}).await {
        Ok(reply) if reply.code == code::OK => Ok(Payload(Reader(reply.body))),
        Ok(reply) if request.shape == Shape::Text && reply.code == code::NOT_FOUND => {
            Err("it does not tell its name: give endpoints as name=host:port".to_owned())
        }
        Ok(reply) => Err(describe(&reply)),
        Err(Unanswered::NotSent(why) | Unanswered::Lost(why)) => Err(why),
        Err(Unanswered::Garbage(malformed)) => Err(malformed.to_string()),
    }
}
