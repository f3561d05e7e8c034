//! Requests of the client protocol on one connection, without a client that would try elsewhere.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::PATIENCE;

const GET: u32 = 0xb1ff_0008;
const SET: u32 = 0xb1ff_0009;
const PROLOGUE: u32 = 0xb1ff_0000;
const VERSION: u32 = 1;
const CONSISTENT: u8 = 0;

/// The code of a reply to what was done.
pub const OK: u32 = 0;
/// No reply in the tests comes near.
const REPLY_LEN_MAX: u32 = 1 << 20;

/// A connection to one node.
pub struct Raw(TcpStream);

impl Raw {
    /// Connects, and sends the prologue.
    pub fn connect(endpoint: &str, cluster_id: &str) -> io::Result<Self> {
        let address = endpoint.parse().map_err(io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let prologue = [PROLOGUE.to_le_bytes(), VERSION.to_le_bytes()].concat();
        stream.write_all(&[prologue, string(cluster_id.as_bytes())].concat())?;
        Ok(Self(stream))
    }

    /// Asks for the value of a key as of now.
    pub fn send_get(&mut self, key: &str) -> io::Result<()> {
        let request = [&GET.to_le_bytes()[..], &[CONSISTENT], &string(key.as_bytes())].concat();
        self.0.write_all(&request)
    }

    /// Asks for a key to be set.
    pub fn send_set(&mut self, key: &str, value: &str) -> io::Result<()> {
        let request = [&SET.to_le_bytes()[..], &string(key.as_bytes()), &string(value.as_bytes())].concat();
        self.0.write_all(&request)
    }

    /// The code of the reply to a set, and the message that comes with a refusal.
    pub fn set_reply(&mut self) -> io::Result<(u32, Vec<u8>)> {
        match self.u32()? {
            OK => Ok((OK, Vec::new())),
            code => Ok((code, self.text()?)),
        }
    }

    /// The code of the reply to a get, and the value or message that comes with it.
    pub fn get_reply(&mut self) -> io::Result<(u32, Vec<u8>)> {
        Ok((self.u32()?, self.text()?))
    }

    fn text(&mut self) -> io::Result<Vec<u8>> {
        let len = self.u32()?;
        if len > REPLY_LEN_MAX {
            return Err(io::Error::other(format!("a reply of {len} bytes")));
        }
        let mut text = vec![0; len as usize];
        self.0.read_exact(&mut text)?;
        Ok(text)
    }

    fn u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.0.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).expect("short");
    [&len.to_le_bytes()[..], bytes].concat()
}
