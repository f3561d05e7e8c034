//! Plays the byte vectors of `tests/data/vectors.jsonl` against a client port.
//!
//! They were recorded from Arakoon. Each says what a fresh connection sends, what must come back to the byte, and
//! whether the connection is closed then; where the original has a bug, it also says what a better server may do.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// The cluster id that a cluster must have for the vectors.
pub const CLUSTER_ID: &str = "conf";

const VECTORS: &str = include_str!("../data/vectors.jsonl");

/// A read that changes nothing and has two possible replies of the same length.
const PROBE: &str = "0700ffb1010b0000006e6f2073756368206b6579";

/// How long to wait for any one reply or close.
const PATIENCE: Duration = Duration::from_secs(10);

/// One way in which a server may answer a vector.
struct Answer {
    /// `None`: no reply at all.
    code: Option<i32>,
    /// What follows the code; `None`: anything.
    tail: Option<Vec<u8>>,
    /// `None`: either will do.
    closes: Option<bool>,
}

/// What came back, without the fate of the connection.
struct Reply {
    code: Option<i32>,
    tail: Vec<u8>,
}

/// Plays all vectors against the master's client port, and gives what went wrong, one line for each.
/// Empties the store.
pub fn play_vectors(master: SocketAddr) -> Vec<String> {
    let mut failures = Vec::new();
    let mut played = 0;
    for line in VECTORS.lines().skip(1) {
        let vector: Value = match serde_json::from_str(line) {
            Ok(vector) => vector,
            Err(error) => {
                failures.push(format!("a line of the vectors is not JSON: {error}"));
                continue;
            }
        };
        let id = vector["id"].as_str().unwrap_or("a vector without an id");
        played += 1;
        if let Err(why) = play(master, &vector) {
            failures.push(format!("{id}: {why}"));
        }
    }
    if played == 0 {
        failures.push("there are no vectors".into());
    }
    failures
}

fn play(master: SocketAddr, vector: &Value) -> Result<(), String> {
    let mut stream = connect(master).map_err(|error| format!("cannot connect: {error}"))?;
    if vector["prologue"] == true {
        send(&mut stream, &prologue())?;
    }
    let (setup, replies) = (list(&vector["setup"])?, list(&vector["setup_replies"])?);
    for (request, expected) in setup.iter().zip(&replies) {
        send(&mut stream, request)?;
        let mut reply = vec![0; expected.len()];
        stream.read_exact(&mut reply).map_err(|error| format!("no reply to the setup: {error}"))?;
        if reply != *expected {
            return Err(format!("the setup was answered {} and not {}", hex(&reply), hex(expected)));
        }
    }
    let answers = answers(vector)?;
    send(&mut stream, &unhex(&vector["request"])?)?;
    if vector["eof"] == true {
        // The server may have closed already.
        let _ = stream.shutdown(Shutdown::Write);
    }
    let reply = receive(&mut stream, &answers)?;
    let fitting: Vec<&Answer> = answers.iter().filter(|answer| answer.fits(&reply)).collect();
    if fitting.is_empty() {
        return Err(format!("answered {:?} {} and not {}", reply.code, hex(&reply.tail), vector["reply"]));
    }
    // Only where it may be open is a probe sent: its bytes could change how a server that closes does so.
    let closed = if fitting.iter().all(|answer| answer.closes == Some(true)) {
        ends(&mut stream)?
    } else {
        !answers_probe(&mut stream)?
    };
    if fitting.iter().any(|answer| answer.closes.is_none_or(|closes| closes == closed)) {
        Ok(())
    } else {
        Err(format!("then the connection was {}", if closed { "closed" } else { "left open" }))
    }
}

impl Answer {
    fn fits(&self, reply: &Reply) -> bool {
        self.code == reply.code && self.tail.as_ref().is_none_or(|tail| *tail == reply.tail)
    }
}

fn answers(vector: &Value) -> Result<Vec<Answer>, String> {
    let recorded = if vector["reply"].is_null() { None } else { Some(unhex(&vector["reply"])?) };
    let (code, tail) = match recorded.as_deref().and_then(<[u8]>::split_first_chunk) {
        Some((code, tail)) => (Some(i32::from_le_bytes(*code)), tail.to_vec()),
        None => (None, Vec::new()),
    };
    let mut answers = vec![Answer { code, tail: Some(tail), closes: vector["closes"].as_bool() }];
    for better in vector["better"].as_array().into_iter().flatten() {
        let code = better["code"].as_i64().map(|code| i32::try_from(code).map_err(|error| error.to_string()));
        answers.push(Answer {
            code: code.transpose()?,
            tail: if better["reply_tail"].is_null() { None } else { Some(unhex(&better["reply_tail"])?) },
            closes: better["closes"].as_bool(),
        });
    }
    Ok(answers)
}

/// Reads one reply. Errors tell their own length; the length of a success is that of the answer it turns out to be.
fn receive(stream: &mut TcpStream, answers: &[Answer]) -> Result<Reply, String> {
    let mut code = [0; 4];
    match read_up_to(stream, &mut code)? {
        0 => {
            return Ok(Reply { code: None, tail: Vec::new() });
        }
        4 => (),
        len => return Err(format!("only {len} bytes of a code came")),
    }
    let code = i32::from_le_bytes(code);
    let mut tail = Vec::new();
    let mut read_to = |tail: &mut Vec<u8>, len: usize| -> Result<(), String> {
        let start = tail.len();
        tail.resize(len.max(start), 0);
        let read = read_up_to(stream, &mut tail[start..])?;
        tail.truncate(start + read);
        Ok(())
    };
    match code {
        0 => {
            let mut tails: Vec<&Vec<u8>> = answers
                .iter()
                .filter(|answer| answer.code == Some(0))
                .filter_map(|answer| answer.tail.as_ref())
                .collect();
            tails.sort_by_key(|tail| tail.len());
            for expected in tails {
                read_to(&mut tail, expected.len())?;
                if tail == *expected {
                    break;
                }
            }
        }
        1 => (),
        _ => {
            read_to(&mut tail, 4)?;
            if let Some(len) = tail.first_chunk::<4>() {
                let len = u32::from_le_bytes(*len) as usize;
                if len > 1 << 20 {
                    return Err(format!("an error message of {len} bytes"));
                }
                read_to(&mut tail, 4 + len)?;
            }
        }
    }
    Ok(Reply { code: Some(code), tail })
}

/// Whether the connection still answers.
fn answers_probe(stream: &mut TcpStream) -> Result<bool, String> {
    if stream.write_all(&unhex(&Value::from(PROBE))?).is_err() {
        return Ok(false);
    }
    let mut reply = [0; 5];
    match read_up_to(stream, &mut reply)? {
        0 => Ok(false),
        5 if reply[..4] == [0; 4] && reply[4] <= 1 => Ok(true),
        len => Err(format!("the next request was answered {}", hex(&reply[..len]))),
    }
}

fn ends(stream: &mut TcpStream) -> Result<bool, String> {
    let mut byte = [0];
    match read_up_to(stream, &mut byte) {
        Ok(0) => Ok(true),
        Ok(_) => Err("more than one reply came".into()),
        Err(_) => Ok(false),
    }
}

/// Fills `buffer` unless the connection ends before; a reset is an end as well.
fn read_up_to(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize, String> {
    let mut len = 0;
    while len < buffer.len() {
        match stream.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(format!("neither a reply nor a close came: {error}")),
        }
    }
    Ok(len)
}

fn connect(master: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&master, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), String> {
    stream.write_all(bytes).map_err(|error| format!("cannot send: {error}"))
}

fn prologue() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0xff, 0xb1, 1, 0, 0, 0, 4, 0, 0, 0];
    bytes.extend_from_slice(CLUSTER_ID.as_bytes());
    bytes
}

fn list(strings: &Value) -> Result<Vec<Vec<u8>>, String> {
    strings.as_array().into_iter().flatten().map(unhex).collect()
}

fn unhex(text: &Value) -> Result<Vec<u8>, String> {
    let text = text.as_str().ok_or("a vector lacks a field")?;
    (0..text.len())
        .step_by(2)
        .map(|at| text.get(at..at + 2).and_then(|byte| u8::from_str_radix(byte, 16).ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| format!("{text} is not hexadecimal"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
