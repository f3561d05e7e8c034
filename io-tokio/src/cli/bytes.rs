//! Keys and values between bytes and what people type and read.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Read as _;

use bytes::Bytes;
use serde_json::{Value, json};

use super::exit::{ExitCode, Failure};

/// No argument, value or file that is read for the cluster may be larger; nodes refuse far smaller ones.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// How keys and values look on the command line and in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are; in listings, what is not printable is escaped ([`escape`]).
    Plain,
    /// Two hexadecimal digits for each byte.
    Hex,
}

impl Form {
    /// The bytes that an argument stands for.
    pub(crate) fn read(self, argument: &OsStr) -> Result<Bytes, Failure> {
        let bytes = argument.as_encoded_bytes();
        match self {
            Self::Plain => Ok(Bytes::copy_from_slice(bytes)),
            Self::Hex => unhex(bytes.trim_ascii()).map_err(|why| Failure::new(ExitCode::Usage, why)),
        }
    }

    /// As [`Form::read`], but `-` stands for everything on standard input.
    pub(crate) fn read_or_stdin(self, argument: &OsStr) -> Result<Bytes, Failure> {
        if argument != "-" {
            return self.read(argument);
        }
        let bytes = read_input(std::io::stdin().lock(), "standard input")?;
        match self {
            Self::Plain => Ok(bytes.into()),
            Self::Hex => unhex(bytes.trim_ascii()).map_err(|why| Failure::new(ExitCode::Usage, why)),
        }
    }

    /// For a listing in text.
    pub(crate) fn show(self, bytes: &[u8]) -> String {
        match self {
            Self::Plain => escape(bytes),
            Self::Hex => hex(bytes),
        }
    }

    /// For JSON: a string, or `{"hex": ".."}` for what is not UTF-8 (and for everything with `--hex`).
    pub(crate) fn json(self, bytes: &[u8]) -> Value {
        match (self, std::str::from_utf8(bytes)) {
            (Self::Plain, Ok(text)) => json!(text),
            _ => json!({ "hex": hex(bytes) }),
        }
    }
}

/// Reads all of a file or of standard input.
pub(crate) fn read_input(source: impl std::io::Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let cannot = |error| Failure::new(ExitCode::Other, format!("{name} cannot be read: {error}"));
    source.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::new(ExitCode::Usage, format!("{name} has more than {INPUT_BYTES_MAX} bytes: send less")));
    }
    Ok(bytes)
}

/// One line of text for any bytes: printable UTF-8 as it is, `\\`, `\t`, `\n`, `\r`, and `\xNN` for every other byte.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                c if c.is_control() => escape_bytes(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        escape_bytes(&mut out, chunk.invalid());
    }
    out
}

fn escape_bytes(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// The bytes that [`escape`] made the text from; `\"` and `\ ` are understood too.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match rest.next() {
            Some(b't') => out.push(b'\t'),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(plain @ (b'\\' | b'"' | b' ')) => out.push(plain),
            Some(b'x') => {
                let digits = [rest.next().unwrap_or(0), rest.next().unwrap_or(0)];
                out.extend(unhex(&digits).map_err(|_| "`\\x` needs two hexadecimal digits, as in `\\x0a`".to_owned())?);
            }
            other => {
                let found = other.map(|byte| char::from(byte).escape_default().to_string()).unwrap_or_default();
                return Err(format!(
                    "`\\{found}` is no escape: write one of `\\\\` `\\\"` `\\t` `\\n` `\\r` `\\ ` `\\xNN`"
                ));
            }
        }
    }
    Ok(out)
}

/// Two lower-case digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The bytes that [`hex`] made the text from; capitals are understood too.
pub(crate) fn unhex(text: &[u8]) -> Result<Bytes, String> {
    let wrong = || {
        let text = escape(&text[..text.len().min(40)]);
        format!("`{text}` is not hexadecimal: write two digits (0-9, a-f) for each byte")
    };
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok()).ok_or_else(wrong);
    if !text.len().is_multiple_of(2) {
        return Err(wrong());
    }
    text.chunks_exact(2).map(|pair| Ok(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_escaped_to_one_line_and_back() {
        for byte in 0..=255u8 {
            for bytes in [vec![byte], vec![b'a', byte, b'b'], vec![byte, byte], [&[byte][..], "é".as_bytes()].concat()]
            {
                let text = escape(&bytes);
                assert!(!text.chars().any(char::is_control), "{text}");
                assert_eq!(unescape(&text), Ok(bytes.clone()), "{text}");
                assert_eq!(unhex(hex(&bytes).as_bytes()), Ok(Bytes::from(bytes)));
            }
        }
    }

    #[test]
    fn escapes_are_those_that_are_documented() {
        assert_eq!(escape("naïve ☃".as_bytes()), "naïve ☃");
        assert_eq!(escape(b"a\tb\nc\rd\\e\"f"), "a\\tb\\nc\\rd\\\\e\"f");
        assert_eq!(escape(b"\x00\x1b\x7f\xff"), "\\x00\\x1b\\x7f\\xff");
        assert_eq!(escape("\u{85}".as_bytes()), "\\xc2\\x85");
        assert_eq!(escape(&[0xe2, 0x98]), "\\xe2\\x98");
        assert_eq!(unescape("\\\"\\ \\x0A"), Ok(b"\" \x0a".to_vec()));
        for wrong in ["\\", "\\x", "\\x1", "\\xg0", "\\q", "\\é"] {
            assert!(unescape(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hexadecimal_that_is_none_is_refused_by_name() {
        assert_eq!(unhex(b"00fFA0"), Ok(Bytes::from_static(&[0, 0xff, 0xa0])));
        for wrong in ["0", "0g", "0x00", "é"] {
            assert!(unhex(wrong.as_bytes()).unwrap_err().contains(wrong));
        }
    }

    #[test]
    fn json_has_strings_for_text_and_hexadecimal_for_the_rest() {
        assert_eq!(Form::Plain.json(b"a\n"), json!("a\n"));
        assert_eq!(Form::Plain.json(b"\xff"), json!({ "hex": "ff" }));
        assert_eq!(Form::Hex.json(b"a"), json!({ "hex": "61" }));
    }

    #[test]
    fn input_that_is_too_large_is_refused() {
        assert_eq!(read_input(std::io::repeat(0), "zeroes").unwrap_err().exit, ExitCode::Usage);
        assert_eq!(read_input(&b"abc"[..], "abc"), Ok(b"abc".to_vec()));
    }
}
