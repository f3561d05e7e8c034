//! Backups, on a connection of their own: they are far longer than a reply may be.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::Client;
use super::connection::connect;
use super::error::ClientError;
use super::reply::code;
use super::request::{Command, prologue};

/// The longest message of a node that refuses.
const MESSAGE_BYTES_MAX: i32 = 64 << 10;

/// Backups are copied by so much at a time.
const PIECE_BYTES: usize = 256 << 10;

impl Client {
    /// Copies a backup of a node's store, as of one slot, into `sink`, and gives its length in bytes. Any node gives one, the master
    /// as well. It is not checked on the way: see `backup::verify`. Takes as long as it takes; a node that falls silent ends it.
    ///
    /// `progress` hears how many bytes there are, and how many there will be.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Refused`], and [`ClientError::DidNotHappen`] when it is not whole.
    pub async fn backup(
        &self,
        endpoint: &str,
        sink: &mut (impl AsyncWrite + Unpin),
        mut progress: impl FnMut(u64, u64),
    ) -> Result<u64, ClientError> {
        let options = self.options();
        options.index_of(endpoint)?;
        let silence_max = options.silence_max;
        let connected = connect(&*self.cluster.dial, endpoint, options.connect_timeout).await;
        let (mut reader, mut writer) =
            connected.map_err(|why| ClientError::Unreachable { tried: vec![(endpoint.to_owned(), why)] })?;
        let mut request = prologue(&options.cluster_id);
        request.extend_from_slice(&Command::GetDb.word().to_le_bytes());
        heard(silence_max, writer.write_all(&request)).await?;

        let reply = heard(silence_max, reader.read_i32_le()).await?;
        if reply != code::OK {
            let message = message(&mut reader, silence_max).await?;
            return Err(ClientError::Refused { code: reply, message });
        }
        let len = heard(silence_max, reader.read_i64_le()).await?;
        let len = u64::try_from(len).map_err(|_| did_not_happen("a backup of a negative length"))?;
        let (mut done, mut piece) = (0, vec![0; PIECE_BYTES]);
        while done < len {
            let room = usize::try_from(len - done).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let read = heard(silence_max, reader.read(&mut piece[..room])).await?;
            if read == 0 {
                return Err(did_not_happen(&format!("the backup ended after {done} of {len} bytes")));
            }
            let written = sink.write_all(&piece[..read]).await;
            written.map_err(|error| did_not_happen(&format!("the backup cannot be written: {error}")))?;
            done += read as u64;
            progress(done, len);
        }
        let flushed = sink.flush().await;
        flushed.map_err(|error| did_not_happen(&format!("the backup cannot be written: {error}")))?;
        Ok(len)
    }
}

async fn message(reader: &mut (impl AsyncRead + Unpin), silence_max: Duration) -> Result<String, ClientError> {
    let len = heard(silence_max, reader.read_i32_le()).await?.clamp(0, MESSAGE_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    heard(silence_max, reader.read_exact(&mut bytes)).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn heard<T>(silence_max: Duration, io: impl Future<Output = std::io::Result<T>>) -> Result<T, ClientError> {
    match tokio::time::timeout(silence_max, io).await {
        Ok(done) => done.map_err(|error| did_not_happen(&format!("the connection broke: {error}"))),
        Err(_) => Err(did_not_happen(&format!("the node was silent for {silence_max:?}"))),
    }
}

fn did_not_happen(why: &str) -> ClientError {
    ClientError::DidNotHappen { why: why.to_owned() }
}
