//! Who is there: what two nodes tell each other before the first frame, and why they may refuse.
//!
//! The dialling node sends its hello. The other answers with its own hello and a verdict, accept or reject; then the
//! dialling node gives its verdict. After two accepts the connection belongs to frames: those of messages, or, as the first
//! hello said, those of a head (`head/wire.rs`). Whoever rejects says why, so that
//! both nodes' logs tell the reason.
//!
//! These bytes are laid out by hand, and they outlive every version of what follows them. Each letter is
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `f5 54 42 50`: a byte that no text begins with, and `TBP` |
//! | 1 | kind: 1 hello, 2 accept, 3 reject, 4 hello of a node that wants a head |
//! | 2 | length of the body, `u16` little-endian as all numbers here, at most 4096 |
//! | length | the body; bytes after the fields known here are ignored, they are for later versions |
//! | 4 | CRC32C over all of the above |
//!
//! with the fields
//!
//! | kind | body |
//! |---|---|
//! | hellos | lowest and highest version spoken (`u16` each), sender and intended receiver (`u16` each), cluster id, sender's name (each `u16` length and UTF-8), the [`Terms`] (`u32` each) |
//! | accept | the version to be spoken (`u16`): the highest that both speak |
//! | reject | the reason (`u16` length and UTF-8) |

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use trialbay_engine::NodeId;

/// The versions of the peer protocol that this program speaks.
pub const VERSIONS: RangeInclusive<u16> = 1..=1;

/// The longest cluster id or node name that fits into a hello, in bytes.
pub const NAME_LEN_MAX: usize = 1024;

const MAGIC: [u8; 4] = [0xf5, b'T', b'B', b'P'];
const PREFIX_LEN: usize = 7;
const BODY_LEN_MAX: usize = 4096;
const HELLO: u8 = 1;
const ACCEPT: u8 = 2;
const REJECT: u8 = 3;
const HELLO_FOR_HEAD: u8 = 4;

/// What all nodes of a cluster must have in common for its promises to hold.
///
/// A master counts its lease by its own setting and a slave grants by its own: were they to differ, the slave could promise
/// another master while the first still answers reads. With other voters, two majorities need not meet at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The lease, in milliseconds.
    pub lease_ms: u32,
    /// The bound on clock rates, in millionths.
    pub clock_drift_ppm: u32,
    /// The CRC32C of the voters' ids, in order, two bytes each.
    pub voters: u32,
}

/// What a node knows of itself and its cluster: what it tells, and what it holds others to.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: String,
    /// This node.
    pub node: NodeId,
    /// This node's name.
    pub name: String,
    /// The names of the other nodes.
    pub peers: BTreeMap<NodeId, String>,
    /// The versions spoken; [`VERSIONS`] except in tests.
    pub versions: RangeInclusive<u16>,
    /// What the others must have too.
    pub terms: Terms,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Messages of the node that dialled.
    Messages,
    /// The node that dialled gets a head.
    Head,
}

/// What a successful handshake established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Who is at the other end.
    pub peer: NodeId,
    /// The version to be spoken.
    pub version: u16,
    /// What for.
    pub purpose: Purpose,
}

/// Why a connection did not become one between two nodes of one cluster.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke, or ended early.
    #[error("the connection broke during the handshake: {0}")]
    Io(#[from] io::Error),
    /// The other side took too long.
    #[error("no handshake within {0:?}")]
    TimedOut(Duration),
    /// The bytes are not of this protocol at all.
    #[error(
        "the other side does not speak Trialbay's peer protocol: is the port another service's, or a node's client port?"
    )]
    NotAPeer,
    /// The bytes begin as they should and go wrong then.
    #[error("a malformed handshake: {0}")]
    Malformed(&'static str),
    /// The other node belongs to another cluster.
    #[error("node {name:?} belongs to cluster {theirs:?} and not to {ours:?}: check cluster ids and peer addresses")]
    WrongCluster {
        /// What the other node calls itself.
        name: String,
        /// Its cluster.
        theirs: String,
        /// This node's cluster.
        ours: String,
    },
    /// The other node says that it is this node.
    #[error("{node} met itself: a peer address leads back to the node, or another process runs under its id")]
    Myself {
        /// This node.
        node: NodeId,
    },
    /// Somebody else answers at the address.
    #[error("{found} ({name:?}) answers at the address of {expected}: check the peer addresses")]
    WrongPeer {
        /// Who was dialled.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
        /// What it calls itself.
        name: String,
    },
    /// The other node is not in this node's configuration.
    #[error("{node} ({name:?}) is not a node of this cluster as {by} knows it: all nodes need the same configuration")]
    UnknownNode {
        /// The other node.
        node: NodeId,
        /// What it calls itself.
        name: String,
        /// This node.
        by: NodeId,
    },
    /// The other node has another name in this node's configuration.
    #[error("{node} calls itself {theirs:?} and is {ours:?} in the configuration of {by}: all nodes need the same one")]
    WrongName {
        /// The other node.
        node: NodeId,
        /// What it calls itself.
        theirs: String,
        /// What it is called here.
        ours: String,
        /// This node.
        by: NodeId,
    },
    /// The other node has other settings, of those that must be the same everywhere.
    #[error(
        "{node} has another {what} than {by} ({theirs} and {ours}): all nodes need the same configuration; to change it, restart them all with the new one"
    )]
    OtherTerms {
        /// The other node.
        node: NodeId,
        /// Which setting.
        what: &'static str,
        /// Its value there.
        theirs: u32,
        /// Its value here.
        ours: u32,
        /// This node.
        by: NodeId,
    },
    /// The other node wanted somebody else.
    #[error("{from} looked for {wanted} and found {here}: check the peer addresses")]
    WrongTarget {
        /// The other node.
        from: NodeId,
        /// Whom it meant to talk to.
        wanted: NodeId,
        /// This node.
        here: NodeId,
    },
    /// There is no version that both speak.
    #[error("{node} speaks versions {theirs:?} of the peer protocol and {by} {ours:?}: upgrade the older one")]
    UnsupportedVersion {
        /// The other node.
        node: NodeId,
        /// The versions it speaks.
        theirs: RangeInclusive<u16>,
        /// The versions spoken here.
        ours: RangeInclusive<u16>,
        /// This node.
        by: NodeId,
    },
    /// The other side refused, in its words.
    #[error("the other side refused: {0}")]
    Rejected(String),
}

/// Introduces this node to `to` over a connection that it has just opened.
///
/// # Errors
/// When either side refuses, or it takes longer than `time_max`.
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    ours: &Identity,
    to: NodeId,
    purpose: Purpose,
    time_max: Duration,
) -> Result<Agreed, HandshakeError> {
    within(time_max, async {
        send(stream, &Letter::Hello(ours.hello(to), purpose)).await?;
        let Letter::Hello(theirs, _) = receive(stream).await? else {
            return Err(HandshakeError::Malformed("a verdict before a hello"));
        };
        let their_verdict = receive_verdict(stream).await;
        let judged = ours.judge(&theirs, purpose, Some(to));
        if their_verdict.is_ok() {
            send(stream, &Letter::verdict(&judged)).await?;
        }
        let agreed = judged?;
        their_verdict?.check(agreed)
    })
    .await
}

/// Receives another node's introduction over a connection that it has opened, and answers.
///
/// # Errors
/// When either side refuses, or it takes longer than `time_max`.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    ours: &Identity,
    time_max: Duration,
) -> Result<Agreed, HandshakeError> {
    within(time_max, async {
        let Letter::Hello(theirs, purpose) = receive(stream).await? else {
            return Err(HandshakeError::Malformed("a verdict before a hello"));
        };
        let judged = ours.judge(&theirs, purpose, None);
        send(stream, &Letter::Hello(ours.hello(theirs.from), Purpose::Messages)).await?;
        send(stream, &Letter::verdict(&judged)).await?;
        let agreed = judged?;
        receive_verdict(stream).await?.check(agreed)
    })
    .await
}

async fn within<T>(
    time_max: Duration,
    handshake: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    tokio::time::timeout(time_max, handshake).await.unwrap_or(Err(HandshakeError::TimedOut(time_max)))
}

impl Identity {
    fn hello(&self, to: NodeId) -> Hello {
        Hello {
            versions: self.versions.clone(),
            from: self.node,
            to,
            cluster_id: self.cluster_id.clone(),
            name: self.name.clone(),
            terms: self.terms,
        }
    }

    /// Whether a hello comes from a node of this cluster that means this node: `dialled`, if this node dialled.
    fn judge(&self, theirs: &Hello, purpose: Purpose, dialled: Option<NodeId>) -> Result<Agreed, HandshakeError> {
        let (node, name, by) = (theirs.from, theirs.name.clone(), self.node);
        if theirs.cluster_id != self.cluster_id {
            let (theirs, ours) = (theirs.cluster_id.clone(), self.cluster_id.clone());
            return Err(HandshakeError::WrongCluster { name, theirs, ours });
        }
        if node == self.node {
            return Err(HandshakeError::Myself { node });
        }
        if let Some(expected) = dialled.filter(|dialled| *dialled != node) {
            return Err(HandshakeError::WrongPeer { expected, found: node, name });
        }
        match self.peers.get(&node) {
            None => return Err(HandshakeError::UnknownNode { node, name, by }),
            Some(ours) if *ours != name => {
                return Err(HandshakeError::WrongName { node, theirs: name, ours: ours.clone(), by });
            }
            Some(_) => {}
        }
        let terms = [
            ("lease_ms", theirs.terms.lease_ms, self.terms.lease_ms),
            ("clock_drift_ppm", theirs.terms.clock_drift_ppm, self.terms.clock_drift_ppm),
            ("set of voters", theirs.terms.voters, self.terms.voters),
        ];
        if let Some((what, theirs, ours)) = terms.into_iter().find(|(_, theirs, ours)| theirs != ours) {
            return Err(HandshakeError::OtherTerms { node, what, theirs, ours, by });
        }
        if theirs.to != self.node {
            return Err(HandshakeError::WrongTarget { from: node, wanted: theirs.to, here: self.node });
        }
        let version = *self.versions.end().min(theirs.versions.end());
        if !self.versions.contains(&version) || !theirs.versions.contains(&version) {
            let (theirs, ours) = (theirs.versions.clone(), self.versions.clone());
            return Err(HandshakeError::UnsupportedVersion { node, theirs, ours, by });
        }
        Ok(Agreed { peer: node, version, purpose })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hello {
    versions: RangeInclusive<u16>,
    from: NodeId,
    to: NodeId,
    cluster_id: String,
    name: String,
    terms: Terms,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Letter {
    Hello(Hello, Purpose),
    Accept { version: u16 },
    Reject { reason: String },
}

/// The other side's acceptance.
struct Accepted {
    version: u16,
}

impl Accepted {
    /// Both sides computed the version from the same two hellos.
    fn check(&self, agreed: Agreed) -> Result<Agreed, HandshakeError> {
        if self.version == agreed.version {
            Ok(agreed)
        } else {
            Err(HandshakeError::Malformed("another version was accepted"))
        }
    }
}

impl Letter {
    fn verdict(judged: &Result<Agreed, HandshakeError>) -> Self {
        match judged {
            Ok(agreed) => Self::Accept { version: agreed.version },
            Err(error) => Self::Reject { reason: error.to_string() },
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let kind = match self {
            Self::Hello(hello, purpose) => {
                for number in [*hello.versions.start(), *hello.versions.end(), hello.from.0, hello.to.0] {
                    body.extend_from_slice(&number.to_le_bytes());
                }
                put_text(&mut body, &hello.cluster_id);
                put_text(&mut body, &hello.name);
                for number in [hello.terms.lease_ms, hello.terms.clock_drift_ppm, hello.terms.voters] {
                    body.extend_from_slice(&number.to_le_bytes());
                }
                match purpose {
                    Purpose::Messages => HELLO,
                    Purpose::Head => HELLO_FOR_HEAD,
                }
            }
            Self::Accept { version } => {
                body.extend_from_slice(&version.to_le_bytes());
                ACCEPT
            }
            Self::Reject { reason } => {
                put_text(&mut body, reason);
                REJECT
            }
        };
        let mut bytes = MAGIC.to_vec();
        bytes.push(kind);
        bytes.extend_from_slice(&u16::try_from(body.len()).expect("texts are cut").to_le_bytes());
        bytes.extend_from_slice(&body);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, HandshakeError> {
        let mut body = Fields(body);
        match kind {
            HELLO => Ok(Self::Hello(body.hello()?, Purpose::Messages)),
            HELLO_FOR_HEAD => Ok(Self::Hello(body.hello()?, Purpose::Head)),
            ACCEPT => Ok(Self::Accept { version: body.number()? }),
            REJECT => Ok(Self::Reject { reason: body.text()? }),
            _ => Err(HandshakeError::Malformed("an unknown kind of letter")),
        }
    }
}

/// Cuts a text that is too long for a letter, at a character. Ids and names are checked when a node starts.
fn put_text(body: &mut Vec<u8>, text: &str) {
    let fits = |len: &usize| text.is_char_boundary(*len);
    let len = (0..=text.len().min(NAME_LEN_MAX)).rev().find(fits).expect("0 is a boundary");
    body.extend_from_slice(&u16::try_from(len).expect("cut above").to_le_bytes());
    body.extend_from_slice(&text.as_bytes()[..len]);
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn hello(&mut self) -> Result<Hello, HandshakeError> {
        Ok(Hello {
            versions: self.number()?..=self.number()?,
            from: NodeId(self.number()?),
            to: NodeId(self.number()?),
            cluster_id: self.text()?,
            name: self.text()?,
            terms: Terms { lease_ms: self.long()?, clock_drift_ppm: self.long()?, voters: self.long()? },
        })
    }

    fn number(&mut self) -> Result<u16, HandshakeError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(HandshakeError::Malformed("a letter ends too early"))?;
        self.0 = rest;
        Ok(u16::from_le_bytes(*bytes))
    }

    fn long(&mut self) -> Result<u32, HandshakeError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(HandshakeError::Malformed("a letter ends too early"))?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn text(&mut self) -> Result<String, HandshakeError> {
        let len = usize::from(self.number()?);
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(HandshakeError::Malformed("a letter ends too early"))?;
        self.0 = rest;
        String::from_utf8(bytes.to_vec()).map_err(|_| HandshakeError::Malformed("a text is not UTF-8"))
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), letter: &Letter) -> Result<(), HandshakeError> {
    stream.write_all(&letter.encode()).await?;
    Ok(stream.flush().await?)
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Letter, HandshakeError> {
    let mut prefix = [0; PREFIX_LEN];
    // The first byte alone tells a stranger: it may never send as many as a letter has.
    stream.read_exact(&mut prefix[..1]).await?;
    if prefix[0] != MAGIC[0] {
        return Err(HandshakeError::NotAPeer);
    }
    stream.read_exact(&mut prefix[1..]).await?;
    let [m0, m1, m2, m3, kind, len @ ..] = prefix;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(HandshakeError::NotAPeer);
    }
    let len = usize::from(u16::from_le_bytes(len));
    if len > BODY_LEN_MAX {
        return Err(HandshakeError::Malformed("a letter is too long"));
    }
    let mut bytes = vec![0; len + 4];
    stream.read_exact(&mut bytes).await?;
    let (body, expected) = bytes.split_last_chunk::<4>().expect("the checksum's four bytes were added");
    if crc32c::crc32c_append(crc32c::crc32c(&prefix), body) != u32::from_le_bytes(*expected) {
        return Err(HandshakeError::Malformed("a letter does not match its checksum"));
    }
    Letter::decode(kind, body)
}

async fn receive_verdict(stream: &mut (impl AsyncRead + Unpin)) -> Result<Accepted, HandshakeError> {
    match receive(stream).await? {
        Letter::Accept { version } => Ok(Accepted { version }),
        // Somebody else's words end up in a log: no line breaks, no terminal codes.
        Letter::Reject { reason } => Err(HandshakeError::Rejected(reason.escape_debug().to_string())),
        Letter::Hello(..) => Err(HandshakeError::Malformed("a hello for a verdict")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME_MAX: Duration = Duration::from_secs(5);

    fn identity(node: u16) -> Identity {
        let peers = (1..=3).filter(|peer| *peer != node).map(|peer| (NodeId(peer), format!("n{peer}")));
        Identity {
            cluster_id: "dev".into(),
            node: NodeId(node),
            name: format!("n{node}"),
            peers: peers.collect(),
            versions: VERSIONS,
            terms: Terms { lease_ms: 800, clock_drift_ppm: 10_000, voters: 7 },
        }
    }

    /// What both sides make of it when `dialler` dials `acceptor`, meaning `to`.
    async fn meet(
        dialler: &Identity,
        to: u16,
        acceptor: &Identity,
    ) -> (Result<Agreed, HandshakeError>, Result<Agreed, HandshakeError>) {
        let (mut a, mut b) = tokio::io::duplex(64);
        tokio::join!(async move { dial(&mut a, dialler, NodeId(to), Purpose::Messages, TIME_MAX).await }, async move {
            accept(&mut b, acceptor, TIME_MAX).await
        })
    }

    fn reason(result: Result<Agreed, HandshakeError>) -> String {
        match result.unwrap_err() {
            HandshakeError::Rejected(reason) => reason,
            other => panic!("{other:?} is no rejection"),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_letters_have_the_bytes_they_ever_had() {
        let letters = [
            Letter::Hello(Hello { versions: 1..=2, ..identity(3).hello(NodeId(4)) }, Purpose::Messages),
            Letter::Accept { version: 5 },
            Letter::Reject { reason: "no".into() },
        ];
        insta::assert_snapshot!(letters.map(|letter| hex(&letter.encode())).join("\n"), @r"
        f5544250011d000100020003000400030064657602006e33200300001027000007000000047428a7
        f5544250020200050079841d30
        f554425003040002006e6f9c7f0ad6
        ");
    }

    #[tokio::test]
    async fn two_nodes_of_a_cluster_agree() {
        for purpose in [Purpose::Messages, Purpose::Head] {
            let (mut a, mut b) = tokio::io::duplex(64);
            let (first, second) = (identity(1), identity(2));
            let dialling = dial(&mut a, &first, NodeId(2), purpose, TIME_MAX);
            let (dialled, accepted) = tokio::join!(dialling, accept(&mut b, &second, TIME_MAX));
            assert_eq!(dialled.unwrap(), Agreed { peer: NodeId(2), version: 1, purpose });
            assert_eq!(accepted.unwrap(), Agreed { peer: NodeId(1), version: 1, purpose });
        }
    }

    #[tokio::test]
    async fn the_highest_common_version_is_spoken() {
        for (a, b, expected) in
            [(1..=3, 2..=5, Some(3)), (4..=4, 1..=9, Some(4)), (1..=2, 3..=4, None), (3..=4, 1..=2, None)]
        {
            let dialler = Identity { versions: a, ..identity(1) };
            let acceptor = Identity { versions: b, ..identity(2) };
            let (dialled, accepted) = meet(&dialler, 2, &acceptor).await;
            match expected {
                Some(version) => {
                    assert_eq!((dialled.unwrap().version, accepted.unwrap().version), (version, version));
                }
                None => {
                    assert!(matches!(dialled, Err(HandshakeError::UnsupportedVersion { .. })), "{dialled:?}");
                    assert!(matches!(accepted, Err(HandshakeError::UnsupportedVersion { .. })), "{accepted:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn another_cluster_is_refused_by_name_on_both_sides() {
        let stranger = Identity { cluster_id: "prod".into(), ..identity(1) };
        let (dialled, accepted) = meet(&stranger, 2, &identity(2)).await;
        for result in [dialled, accepted] {
            let error = result.unwrap_err();
            assert!(matches!(error, HandshakeError::WrongCluster { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("\"prod\"") && text.contains("\"dev\""), "{text}");
        }
    }

    #[tokio::test]
    async fn a_node_with_another_lease_drift_or_set_of_voters_is_refused_on_both_sides() {
        let terms = identity(1).terms;
        for (terms, what) in [
            (Terms { lease_ms: 1_100, ..terms }, "lease_ms"),
            (Terms { clock_drift_ppm: 1, ..terms }, "clock_drift_ppm"),
            (Terms { voters: 8, ..terms }, "set of voters"),
        ] {
            let (dialled, accepted) = meet(&Identity { terms, ..identity(1) }, 2, &identity(2)).await;
            assert!(accepted.unwrap_err().to_string().contains(what));
            assert!(dialled.unwrap_err().to_string().contains(what));
        }
    }

    #[tokio::test]
    async fn an_unknown_node_is_refused_and_told_why() {
        let stranger = Identity { node: NodeId(9), name: "n9".into(), ..identity(1) };
        let (dialled, accepted) = meet(&stranger, 2, &identity(2)).await;
        assert!(matches!(accepted, Err(HandshakeError::UnknownNode { node: NodeId(9), .. })), "{accepted:?}");
        let reason = reason(dialled);
        assert!(reason.contains("not a node of this cluster as n2 knows it"), "{reason}");
    }

    #[tokio::test]
    async fn a_wrong_name_is_refused_by_whichever_side_sees_it() {
        let renamed = Identity { name: "other".into(), ..identity(1) };
        let (dialled, accepted) = meet(&renamed, 2, &identity(2)).await;
        assert!(matches!(accepted, Err(HandshakeError::WrongName { .. })), "{accepted:?}");
        reason(dialled);

        let renamed = Identity { name: "other".into(), ..identity(2) };
        let (dialled, accepted) = meet(&identity(1), 2, &renamed).await;
        assert!(matches!(dialled, Err(HandshakeError::WrongName { .. })), "{dialled:?}");
        reason(accepted);
    }

    #[tokio::test]
    async fn a_wrong_address_is_noticed_on_both_sides() {
        let (dialled, accepted) = meet(&identity(1), 2, &identity(3)).await;
        assert!(
            matches!(dialled, Err(HandshakeError::WrongPeer { expected: NodeId(2), found: NodeId(3), .. })),
            "{dialled:?}"
        );
        assert!(
            matches!(accepted, Err(HandshakeError::WrongTarget { wanted: NodeId(2), here: NodeId(3), .. })),
            "{accepted:?}"
        );
    }

    #[tokio::test]
    async fn a_node_that_dials_itself_notices_on_both_sides() {
        let (dialled, accepted) = meet(&identity(1), 2, &identity(1)).await;
        for result in [dialled, accepted] {
            assert!(matches!(result, Err(HandshakeError::Myself { node: NodeId(1) })), "{result:?}");
        }
    }

    #[tokio::test]
    async fn whoever_speaks_another_protocol_is_told_apart_by_its_first_byte() {
        for bytes in [&b"G"[..], b"\x00", b"\xf5ABCdefgh"] {
            let (mut a, mut b) = tokio::io::duplex(64);
            a.write_all(bytes).await.unwrap();
            let result = accept(&mut b, &identity(1), TIME_MAX).await;
            assert!(matches!(result, Err(HandshakeError::NotAPeer)), "{bytes:?}: {result:?}");
        }
    }

    #[tokio::test]
    async fn a_letter_cut_or_damaged_anywhere_is_refused() {
        let letter = Letter::Hello(identity(1).hello(NodeId(2)), Purpose::Messages).encode();
        for len in 0..letter.len() {
            let error = receive(&mut &letter[..len]).await.unwrap_err();
            assert!(matches!(error, HandshakeError::Io(_)), "cut at {len}: {error:?}");
        }
        for bit in 0..letter.len() * 8 {
            let mut damaged = letter.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(receive(&mut &damaged[..]).await.is_err(), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn a_hello_with_fields_of_a_later_version_is_understood() {
        let mut bytes = Letter::Hello(identity(1).hello(NodeId(2)), Purpose::Messages).encode();
        bytes.truncate(bytes.len() - 4);
        bytes.extend_from_slice(b"and more");
        let len = u16::try_from(bytes.len() - PREFIX_LEN).unwrap();
        bytes[5..7].copy_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        assert_eq!(
            receive(&mut &bytes[..]).await.unwrap(),
            Letter::Hello(identity(1).hello(NodeId(2)), Purpose::Messages)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_other_side_is_given_up_in_time() {
        let (mut a, mut b) = tokio::io::duplex(64);
        let result = accept(&mut a, &identity(1), TIME_MAX).await;
        assert!(matches!(result, Err(HandshakeError::TimedOut(TIME_MAX))), "{result:?}");
        let result = dial(&mut b, &identity(1), NodeId(2), Purpose::Head, TIME_MAX).await;
        assert!(matches!(result, Err(HandshakeError::TimedOut(TIME_MAX))), "{result:?}");
    }

    #[tokio::test]
    async fn the_words_of_a_refusal_cannot_break_a_log_line() {
        let letter = Letter::Reject { reason: "bad\n\u{1b}[31mred".into() }.encode();
        let error = receive_verdict(&mut &letter[..]).await.map(|accepted| accepted.version).unwrap_err();
        assert_eq!(error.to_string(), r"the other side refused: bad\n\u{1b}[31mred");
    }

    proptest! {
        #[test]
        fn any_bytes_after_the_magic_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let bytes = [&MAGIC[..], &bytes].concat();
            prop_assert!(runtime.block_on(receive(&mut &bytes[..])).is_err());
        }

        #[test]
        fn any_body_is_survived(kind in 0..6u8, bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            // Whatever it is taken for, the fields come from the bytes.
            if let Ok(letter) = Letter::decode(kind, &bytes) {
                let body = &letter.encode()[PREFIX_LEN..];
                prop_assert!(bytes.starts_with(&body[..body.len() - 4]));
            }
        }
    }
}
