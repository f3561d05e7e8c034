//! Where the cluster is, and how long and how much a client waits and keeps.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::ClientError;

/// Where a node answers clients: `host:port`, or `name=host:port`.
///
/// A name saves the client a question to each node. It is needed only with nodes that do not know the question: the
/// original Arakoon's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The node's name, if it is known beforehand.
    pub name: Option<String>,
    /// `host:port`; of IPv6, `[address]:port`.
    pub address: String,
}

impl FromStr for Endpoint {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let (name, address) = match text.trim().split_once('=') {
            Some((name, address)) => (Some(name.trim().to_owned()), address.trim()),
            None => (None, text.trim()),
        };
        let valid = address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
        if !valid || name.as_ref().is_some_and(String::is_empty) {
            let why = format!("`{text}` is not an endpoint: write host:port (or name=host:port), as in 127.0.0.1:4000");
            return Err(ClientError::invalid(why));
        }
        Ok(Self { name, address: address.to_owned() })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.address),
            None => f.write_str(&self.address),
        }
    }
}

/// How a [`super::Client`] finds its cluster, and its limits.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The cluster's id. A node of another cluster closes the connection without a word.
    pub cluster_id: String,
    /// The nodes, in any order. One that is missing here cannot be followed when it becomes master.
    pub endpoints: Vec<Endpoint>,
    /// How long a call may take altogether, retries included.
    pub timeout: Duration,
    /// How long a connection may take to come about, and a node to say who is master.
    pub connect_timeout: Duration,
    /// How long a node may leave requests unanswered before another connection asks whether it is still there.
    pub silence_max: Duration,
    /// How long a call goes on trying while no endpoint at all can be reached. `timeout` limits it too.
    pub unreachable_timeout: Duration,
    /// Connections to each node. One carries any number of concurrent calls.
    pub connections: usize,
    /// Calls that may be in flight on one connection; more wait for their turn.
    pub in_flight_max: usize,
    /// Bytes of requests that may be in flight on one connection; more wait for their turn.
    pub in_flight_bytes_max: usize,
    /// The largest reply that is accepted, in bytes.
    pub reply_bytes_max: usize,
    /// Where reads that need not be `Consistent` go first: the address or the configured name of an endpoint.
    pub prefer: Option<String>,
}

impl ClientOptions {
    /// Options with sensible limits.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`] when an endpoint is malformed or there is none.
    pub fn new(
        cluster_id: impl Into<String>,
        endpoints: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, ClientError> {
        let endpoints =
            endpoints.into_iter().map(|endpoint| endpoint.as_ref().parse()).collect::<Result<Vec<Endpoint>, _>>()?;
        let options = Self {
            cluster_id: cluster_id.into(),
            endpoints,
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_millis(500),
            silence_max: Duration::from_secs(1),
            unreachable_timeout: Duration::from_secs(2),
            connections: 1,
            in_flight_max: 4096,
            in_flight_bytes_max: 64 << 20,
            reply_bytes_max: 256 << 20,
            prefer: None,
        };
        options.check()?;
        Ok(options)
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if self.endpoints.is_empty() {
            return Err(ClientError::invalid("there is no endpoint: name at least one, as host:port"));
        }
        if let Some(prefer) = &self.prefer {
            self.index_of(prefer)?;
        }
        let limits = [
            ("connections", self.connections, 1024),
            ("in_flight_max", self.in_flight_max, 1 << 20),
            ("in_flight_bytes_max", self.in_flight_bytes_max, 1 << 30),
            ("reply_bytes_max", self.reply_bytes_max, 1 << 31),
        ];
        for (name, value, max) in limits {
            if value == 0 || value > max {
                return Err(ClientError::invalid(format!("{name} is {value}: choose 1 to {max}")));
            }
        }
        Ok(())
    }

    pub(crate) fn index_of(&self, endpoint: &str) -> Result<usize, ClientError> {
        let named = |known: &Endpoint| known.address == endpoint || known.name.as_deref() == Some(endpoint);
        self.endpoints.iter().position(named).ok_or_else(|| {
            let known: Vec<String> = self.endpoints.iter().map(ToString::to_string).collect();
            ClientError::invalid(format!("{endpoint} is not one of the endpoints: {}", known.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_host_and_port_with_an_optional_name() {
        let endpoint: Endpoint = "n1=127.0.0.1:4000".parse().unwrap();
        assert_eq!(endpoint, Endpoint { name: Some("n1".into()), address: "127.0.0.1:4000".into() });
        assert_eq!(endpoint.to_string(), "n1=127.0.0.1:4000");
        assert_eq!("[::1]:4000".parse::<Endpoint>().unwrap().address, "[::1]:4000");
        for wrong in ["", "localhost", ":4000", "a:b", "a:0", "a:65536", "=a:1"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_that_cannot_work_are_refused() {
        assert!(ClientOptions::new("c", Vec::<String>::new()).is_err());
        let mut options = ClientOptions::new("c", ["a:1"]).unwrap();
        options.prefer = Some("b:1".into());
        assert!(options.check().unwrap_err().to_string().contains("a:1"));
        options.prefer = None;
        options.connections = 0;
        assert!(options.check().is_err());
    }
}
