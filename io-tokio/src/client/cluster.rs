//! The way to the right node: connections on demand, and the search for the master.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::connection::Connection;
use super::dial::Dial;
use super::error::Unanswered;
use super::flight::Flight;
use super::options::ClientOptions;
use super::reply::{Payload, Shape, code};
use super::request::{Request, node_status, who_master};
use super::status::NodeStatus;
use crate::wire::Reader;

/// How long a search waits for the other endpoints once one has answered that it knows of no master: one that does not
/// answer is more likely dead than master. One that answers later is still heard, by the next try.
const STRAGGLERS_WAIT: Duration = Duration::from_millis(100);

/// Stands for "no endpoint" in an atomic.
const NOBODY: usize = usize::MAX;

/// What the clones of a client share.
pub(crate) struct Cluster {
    pub(crate) options: ClientOptions,
    pub(super) dial: Arc<dyn Dial>,
    /// One row per endpoint, one link per connection.
    links: Vec<Vec<Link>>,
    /// The endpoint of the master, or `NOBODY`.
    master: AtomicUsize,
    search: Flight<Found>,
    /// Where reads that any node may answer go first.
    pub(crate) any: AtomicUsize,
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
    /// The node at this endpoint, of this name, takes itself for the master.
    Master(usize, String),
    /// Some endpoints answer, and none names itself.
    Nobody(String),
    /// Every endpoint answers, and the master that one names is none of them.
    Elsewhere(String),
    /// No endpoint answers.
    Unreachable(Vec<(String, String)>),
}

impl Cluster {
    pub(crate) fn new(options: ClientOptions, dial: Arc<dyn Dial>) -> Self {
        let row = || (0..options.connections).map(|_| Link::default()).collect();
        let any = options.prefer.as_deref().and_then(|prefer| options.index_of(prefer).ok()).unwrap_or(0);
        Self {
            links: options.endpoints.iter().map(|_| row()).collect(),
            master: AtomicUsize::new(NOBODY),
            search: Flight::default(),
            any: AtomicUsize::new(any),
            turn: AtomicUsize::new(0),
            dial,
            options,
        }
    }

    pub(crate) fn address(&self, endpoint: usize) -> String {
        self.options.endpoints[endpoint].address.clone()
    }

    /// The endpoint of the master, as far as is known.
    pub(crate) fn master(&self) -> Option<usize> {
        Some(self.master.load(Ordering::Acquire)).filter(|endpoint| *endpoint != NOBODY)
    }

    pub(crate) fn forget_master(&self, endpoint: usize) {
        // Another call may have found the new one already.
        let _ = self.master.compare_exchange(endpoint, NOBODY, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Takes the endpoint of this name for the master, unless it is the one that said so.
    pub(crate) fn follow(&self, name: &str, told_by: usize) -> bool {
        let is_named = |endpoint: &usize| match &self.options.endpoints[*endpoint].name {
            Some(known) => known == name,
            None => self.links[*endpoint].iter().any(|link| link.name().as_deref() == Some(name)),
        };
        let named = (0..self.links.len()).filter(|endpoint| *endpoint != told_by).find(is_named);
        if let Some(endpoint) = named {
            self.master.store(endpoint, Ordering::Release);
        }
        named.is_some()
    }

    /// Asks every endpoint at once who is master; the first that names itself is.
    pub(crate) async fn find_master(self: &Arc<Self>) -> Found {
        self.search.join(async || self.search_once().await).await
    }

    async fn search_once(self: &Arc<Self>) -> Found {
        let mut answers = JoinSet::new();
        for endpoint in 0..self.links.len() {
            let cluster = Arc::clone(self);
            answers.spawn(async move { (endpoint, cluster.ask(endpoint).await) });
        }
        let mut hearsay: Option<(String, Option<String>)> = None;
        let mut names = Vec::new();
        let mut patience = Duration::MAX;
        let mut tried = Vec::new();
        loop {
            let answer = tokio::time::timeout(patience, answers.join_next()).await.unwrap_or_else(|_| {
                answers.detach_all();
                None
            });
            match answer {
                Some(Ok((endpoint, Ok((name, Some(master)))))) if name == master => {
                    return Found::Master(endpoint, name);
                }
                Some(Ok((_, Ok((name, master))))) => {
                    // The one that is named may be slow to answer.
                    let wait = if master.is_some() { self.options.connect_timeout } else { STRAGGLERS_WAIT };
                    patience = patience.min(wait);
                    names.push(name.clone());
                    hearsay = Some((name, master));
                }
                Some(Ok((endpoint, Err(why)))) => tried.push((self.address(endpoint), why)),
                // The runtime is stopping.
                Some(Err(_)) => {}
                None => {
                    return match hearsay {
                        None => Found::Unreachable(tried),
                        Some((by, None)) => Found::Nobody(format!("{by} knows of no master")),
                        Some((by, Some(master))) if names.len() == self.links.len() && !names.contains(&master) => {
                            let hint = "add that node to them";
                            Found::Elsewhere(format!("{by} names {master} as master, not among the endpoints: {hint}"))
                        }
                        Some((by, Some(master))) => {
                            Found::Nobody(format!("no node takes itself for the master; {by} names {master}"))
                        }
                    };
                }
            }
        }
    }

    /// A node's own name, and whom it takes for the master: if for itself, that is what this client goes by from now on.
    async fn ask(&self, endpoint: usize) -> Result<(String, Option<String>), String> {
        let answer = async {
            let connection = self.connection(endpoint).await?;
            let master = ask_for(&connection, &who_master()).await?.option_text().map_err(|error| error.to_string())?;
            let master = master.map(|name| String::from_utf8_lossy(&name).into_owned());
            let name = self.name(endpoint, &connection).await?;
            if master.as_ref() == Some(&name) {
                self.master.store(endpoint, Ordering::Release);
            }
            Ok((name, master))
        };
        // Connecting and answering have this time each.
        let timeout = 2 * self.options.connect_timeout;
        tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
    }

    /// The name of the node at the other end of a connection: from the options, or as it says itself.
    async fn name(&self, endpoint: usize, connection: &Connection) -> Result<String, String> {
        if let Some(name) = self.options.endpoints[endpoint].name.as_ref().or_else(|| connection.name.get()) {
            return Ok(name.clone());
        }
        let json = ask_for(connection, &node_status()).await?.text().map_err(|error| error.to_string())?;
        let status: NodeStatus = serde_json::from_slice(&json).map_err(|error| format!("its status: {error}"))?;
        Ok(connection.name.get_or_init(|| status.node).clone())
    }

    /// An open connection to an endpoint.
    pub(crate) async fn connection(&self, endpoint: usize) -> Result<Arc<Connection>, String> {
        let row = &self.links[endpoint];
        let link = &row[self.turn.fetch_add(1, Ordering::Relaxed) % row.len()];
        if let Some(connection) = link.usable() {
            return Ok(connection);
        }
        let open = async || {
            if let Some(connection) = link.usable() {
                return Ok(connection);
            }
            let address = &self.options.endpoints[endpoint].address;
            let connection = Arc::new(Connection::open(&self.dial, address, &self.options).await?);
            *link.lock() = Some(Arc::clone(&connection));
            Ok(connection)
        };
        link.opening.join(open).await
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usable(&self) -> Option<Arc<Connection>> {
        self.lock().as_ref().filter(|connection| connection.is_usable()).cloned()
    }

    fn name(&self) -> Option<String> {
        self.lock().as_ref().and_then(|connection| connection.name.get().cloned())
    }
}

async fn ask_for(connection: &Connection, request: &Request) -> Result<Payload, String> {
    match connection.call(request, || {}).await {
        Ok(reply) if reply.code == code::OK => Ok(Payload(Reader(reply.body))),
        Ok(reply) if request.shape == Shape::Text && reply.code == code::NOT_FOUND => {
            Err("it does not tell its name: give endpoints as name=host:port".to_owned())
        }
        Ok(reply) => Err(reply.to_string()),
        Err(Unanswered::NotSent(why) | Unanswered::Lost(why)) => Err(why),
        Err(Unanswered::Garbage(malformed)) => Err(malformed.to_string()),
    }
}
