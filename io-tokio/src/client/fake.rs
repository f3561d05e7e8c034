//! A scripted node on loopback, for tests.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::request::Command;
use crate::wire::Writer as _;

/// What a connection asked: the command, and its first string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) connection: usize,
    pub(crate) command: u16,
    pub(crate) key: Bytes,
}

/// What the script does about it.
pub(crate) enum Reaction {
    Reply(Vec<u8>),
    /// A reply after which the node closes, whatever else was asked.
    LastReply(Vec<u8>),
    Close,
    /// No reply, and the connection stays open.
    Silence,
}

/// A node that does what its script says. It dies when it is dropped.
pub(crate) struct Fake {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    accepting: AbortHandle,
    /// The number of each connection that came to its end.
    ended: mpsc::UnboundedReceiver<usize>,
}

impl Fake {
    /// Reads requests one by one and does what the script says.
    pub(crate) async fn start(script: impl FnMut(&Asked) -> Reaction + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(script));
        let (ends, ended) = mpsc::unbounded_channel();
        let log = Arc::clone(&asked);
        let accepting = tokio::spawn(async move {
            // Dropped with this task, which closes all connections.
            let mut connections = JoinSet::new();
            for connection in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (script, log, ends) = (Arc::clone(&script), Arc::clone(&log), ends.clone());
                connections.spawn(async move {
                    let react = |asked: Asked| {
                        let reaction = script.lock().unwrap()(&asked);
                        log.lock().unwrap().push(asked);
                        reaction
                    };
                    let _ = serve(&mut stream, connection, react).await;
                    let _ = ends.send(connection);
                });
            }
        })
        .abort_handle();
        Self { address, asked, accepting, ended }
    }

    /// A node called `name` that takes `master` for the master, and answers everything else by `script`.
    pub(crate) async fn node(
        name: &'static str,
        master: impl Fn() -> Option<&'static str> + Send + 'static,
        mut script: impl FnMut(&Asked) -> Reaction + Send + 'static,
    ) -> Self {
        Self::start(move |asked| match asked.command {
            command if command == Command::WhoMaster as u16 => {
                Reaction::Reply(reply(|bytes| bytes.option_string(master().map(str::as_bytes))))
            }
            command if command == Command::NodeStatus as u16 => {
                let json = format!(r#"{{"node": "{name}", "from a later version": 1}}"#);
                Reaction::Reply(reply(|bytes| bytes.string(json.as_bytes())))
            }
            _ => script(asked),
        })
        .await
    }

    /// All that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How often a command came.
    pub(crate) fn count(&self, command: Command) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.command == command as u16).count()
    }

    /// Waits for the end of a connection.
    pub(crate) async fn ended(&mut self) -> usize {
        self.ended.recv().await.unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A reply of code 0.
pub(crate) fn reply(payload: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    payload(&mut bytes);
    bytes
}

pub(crate) fn refuse(code: i32, message: &str) -> Vec<u8> {
    let mut bytes = code.to_le_bytes().to_vec();
    bytes.string(message.as_bytes());
    bytes
}

async fn serve(
    stream: &mut TcpStream,
    connection: usize,
    mut react: impl FnMut(Asked) -> Reaction,
) -> std::io::Result<()> {
    let mut prologue = [0; 8];
    stream.read_exact(&mut prologue).await?;
    assert_eq!(prologue, [0, 0, 0xff, 0xb1, 1, 0, 0, 0]);
    read_string(stream).await?;
    loop {
        let word = stream.read_u32_le().await?;
        assert_eq!(word & 0xffff_0000, 0xb1ff_0000);
        let command = u16::try_from(word & 0xffff).unwrap();
        let key = read_arguments(stream, command).await?;
        match react(Asked { connection, command, key }) {
            Reaction::Reply(bytes) => stream.write_all(&bytes).await?,
            Reaction::LastReply(bytes) => return stream.write_all(&bytes).await,
            Reaction::Close => return Ok(()),
            Reaction::Silence => {}
        }
    }
}

/// Reads the arguments of the few commands that scripts are about; gives the first string.
async fn read_arguments(stream: &mut TcpStream, command: u16) -> std::io::Result<Bytes> {
    const GET: u16 = Command::Get as u16;
    const SET: u16 = Command::Set as u16;
    const TEST_AND_SET: u16 = Command::TestAndSet as u16;
    const SEQUENCE: u16 = Command::Sequence as u16;
    match command {
        GET => {
            if stream.read_u8().await? == 2 {
                stream.read_i64_le().await?;
            }
            read_string(stream).await
        }
        SET => {
            let key = read_string(stream).await?;
            read_string(stream).await?;
            Ok(key)
        }
        TEST_AND_SET => {
            let key = read_string(stream).await?;
            for _ in 0..2 {
                if stream.read_u8().await? == 1 {
                    read_string(stream).await?;
                }
            }
            Ok(key)
        }
        SEQUENCE => read_string(stream).await,
        _ => Ok(Bytes::new()),
    }
}

async fn read_string(stream: &mut TcpStream) -> std::io::Result<Bytes> {
    let len = usize::try_from(stream.read_u32_le().await?).unwrap();
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}
