//! A node's home directory: one process at a time, one node for ever.
//!
//! ```text
//! <home>/LOCK        locked while a process runs on the home; holds its process id
//! <home>/IDENTITY    whose home it is, as text with a checksum
//! <home>/db/         the store
//! <home>/tlogs/      the transaction logs
//! <home>/recorder/   what the engine was told last, if it is recorded
//! ```
//! A log of another node, voted with, could break every promise of the cluster: a home that is not provably this node's
//! is refused.

use crate::identity::Identity;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use trialbay_engine::NodeId;

/// The format of the identity file. A higher one is a later program's.
const FORMAT: u32 = 1;
/// An identity file is far smaller. What is larger is something else.
const IDENTITY_LEN_MAX: u64 = 64 << 10;
/// How long the next run waits because of what this one grants, in milliseconds.
const LEASE: &str = "LEASE";
/// No configuration makes a node wait longer: twice the longest lease. What stands for a number that cannot be read.
const RESTART_WAIT_MS_MAX: u64 = 120_000;
const CHECKSUM_KEY: &str = "crc32c = ";

/// Why a directory cannot be this node's home.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another process runs on it.
    #[error("{} is in use by another process{}: stop that one first, or use another home", .home.display(), holder(.pid))]
    Locked {
        /// The home.
        home: PathBuf,
        /// The process, if its id could be read.
        pid: Option<u32>,
    },
    /// It belongs to another node, or to a node of another cluster.
    #[error("{} is the home of {theirs}, not of {ours}: point this node to its own home, or this home's node to its own configuration", .home.display())]
    Foreign {
        /// The home.
        home: PathBuf,
        /// Whose it is.
        theirs: Box<Identity>,
        /// Whose it should be.
        ours: Box<Identity>,
    },
    /// The identity file is damaged.
    #[error("{} is damaged ({why}): restore it from a backup, or move the home away and start {ours} with an empty one, which its peers fill", .file.display())]
    Damaged {
        /// The identity file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
        /// Who found it so.
        ours: Identity,
    },
    /// The identity file was written by a later version of the program.
    #[error("{} has format {found} and this program knows {FORMAT}: run the version that wrote it, or a later one", .file.display())]
    Unsupported {
        /// The identity file.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
    /// There are data, and nothing says whose they are.
    #[error("{} holds data but no file IDENTITY, so nothing says whose they are: restore the file, or move the home away and start {ours} with an empty one, which its peers fill", .dir.display())]
    Unidentified {
        /// The directory that is not empty.
        dir: PathBuf,
        /// Who found it so.
        ours: Identity,
    },
    /// Files cannot be made in it.
    #[error("cannot write to {}: {source}; give the user that runs the node write permission, and the disk room", .dir.display())]
    NotWritable {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another operation failed.
    #[error("cannot {what} {}: {source}; mend that, or use another home", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes durable how long the next run on this home has to wait before it promises anything.
///
/// # Errors
/// When it cannot be written.
pub fn note_restart_wait(home: &Path, wait: Duration) -> Result<(), HomeError> {
    let millis = wait.as_millis() + u128::from(!wait.subsec_nanos().is_multiple_of(1_000_000));
    replace(&home.join(LEASE), &format!("{millis}\n"))
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// This node's home, locked until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    lock: File,
}

impl Home {
    /// Opens the home of a node, making it if there is none, and locks it. What it makes is durable when this returns.
    ///
    /// # Errors
    /// When another process runs on it, it is not this node's, or it cannot be written to.
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, HomeError> {
        create_dir(path)?;
        let lock = lock(path)?;
        let home = Self { path: path.to_owned(), lock };
        check_writable(path)?;
        sync_name(path)?;
        create_dir(&home.db_dir())?;
        create_dir(&home.tlog_dir())?;
        home.check_identity(identity)?;
        Ok(home)
    }

    /// The home itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store is.
    pub fn db_dir(&self) -> PathBuf {
        self.path.join("db")
    }

    /// Where the transaction logs are.
    pub fn tlog_dir(&self) -> PathBuf {
        self.path.join("tlogs")
    }

    /// Where recordings are, if any were made.
    pub fn recorder_dir(&self) -> PathBuf {
        self.path.join("recorder")
    }

    /// How long a run of this node may have to wait because of what an earlier one granted; `None` in a new home.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn restart_wait(&self) -> Result<Option<Duration>, HomeError> {
        let path = self.path.join(LEASE);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let millis = text.trim().parse().ok().filter(|millis| *millis <= RESTART_WAIT_MS_MAX);
                Ok(Some(Duration::from_millis(millis.unwrap_or(RESTART_WAIT_MS_MAX))))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Ok(Some(Duration::from_millis(RESTART_WAIT_MS_MAX)))
            }
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    fn check_identity(&self, ours: &Identity) -> Result<(), HomeError> {
        let file = self.path.join("IDENTITY");
        let Some(text) = read_identity_file(&file)? else {
            for dir in [self.tlog_dir(), self.db_dir()] {
                if !is_empty(&dir)? {
                    return Err(HomeError::Unidentified { dir, ours: ours.clone() });
                }
            }
            return replace(&file, &encode(ours));
        };
        match decode(&text) {
            Ok(theirs) if theirs == *ours => Ok(()),
            Ok(theirs) => {
                Err(HomeError::Foreign { home: self.path.clone(), theirs: theirs.into(), ours: ours.clone().into() })
            }
            Err(Unreadable::Damaged(why)) => Err(HomeError::Damaged { file, why, ours: ours.clone() }),
            Err(Unreadable::Format(found)) => Err(HomeError::Unsupported { file, found }),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Closing the file is not enough while a child that this process is just starting holds a copy of it. That the
        // unlocking fails would mean that nothing is locked.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Makes a directory and those above it, each durable in the one above, if it is missing.
fn create_dir(path: &Path) -> Result<(), HomeError> {
    if path.is_dir() {
        return Ok(());
    }
    let above = match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => path,
    };
    if above != path && above != Path::new(".") {
        create_dir(above)?;
    }
    match DirBuilder::new().create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => {
            return Err(failed("create the directory", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    sync_dir(above)
}

/// Makes the name of a home durable that was there already: whoever made it, an administrator or a process that was
/// killed in between, may not have done so, and with it everything in it would be lost.
fn sync_name(home: &Path) -> Result<(), HomeError> {
    // Of a relative path, or a link, the directory that it is really in.
    let home = home.canonicalize().map_err(failed("find", home))?;
    match home.parent().map_or(Ok(()), sync_dir) {
        // The node need not be allowed to read it, and where the home is a mount it may be of another kind, that has no
        // sync. Then it is for whoever made the home to have done this.
        Err(HomeError::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) =>
        {
            Ok(())
        }
        outcome => outcome,
    }
}

fn lock(home: &Path) -> Result<File, HomeError> {
    let path = home.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| HomeError::NotWritable { dir: home.to_owned(), source })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let pid = file.take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(HomeError::Locked { home: home.to_owned(), pid });
        }
        Err(error) => return Err(failed("lock", &path)(error.into())),
    }
    // For the message of the process that comes too late; the lock itself needs no content.
    let pid = std::process::id();
    let written = file.set_len(0).and_then(|()| file.write_all(format!("{pid}\n").as_bytes()));
    written.map_err(|source| HomeError::NotWritable { dir: home.to_owned(), source })?;
    Ok(file)
}

fn check_writable(home: &Path) -> Result<(), HomeError> {
    let path = home.join("WRITABLE.tmp");
    let write = || {
        let mut file = File::create(&path)?;
        file.write_all(b"may be deleted\n")?;
        file.sync_all()?;
        std::fs::remove_file(&path)
    };
    write().map_err(|source| HomeError::NotWritable { dir: home.to_owned(), source })
}

fn read_identity_file(path: &Path) -> Result<Option<Vec<u8>>, HomeError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(IDENTITY_LEN_MAX).read_to_end(&mut bytes).map_err(failed("read", path))?;
    Ok(Some(bytes))
}

fn is_empty(dir: &Path) -> Result<bool, HomeError> {
    let mut entries = std::fs::read_dir(dir).map_err(failed("list", dir))?;
    Ok(entries.next().is_none())
}

/// Gives a file this content such that a crash leaves the old file or the new one.
fn replace(path: &Path, content: &str) -> Result<(), HomeError> {
    let dir = path.parent().expect("the files of a home are in a directory");
    let new = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|source| HomeError::NotWritable { dir: dir.to_owned(), source })?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), HomeError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(failed("make durable", dir))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |source| HomeError::Io { what, path, source }
}

/// The identity file but for its last line, a checksum over all of this.
#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format: u32,
    cluster_id: String,
    node: u16,
    name: String,
}

enum Unreadable {
    Damaged(String),
    Format(u32),
}

fn encode(identity: &Identity) -> String {
    let file = IdentityFile {
        format: FORMAT,
        cluster_id: identity.cluster_id.clone(),
        node: identity.node.0,
        name: identity.name.clone(),
    };
    let text = toml::to_string(&file).expect("numbers and strings are TOML");
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}{CHECKSUM_KEY}\"{checksum:08x}\"\n")
}

fn decode(bytes: &[u8]) -> Result<Identity, Unreadable> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |why: &str| Unreadable::Damaged(why.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let end = text.rfind(CHECKSUM_KEY).ok_or_else(|| damaged("it has no checksum"))?;
    let (text, checksum) = text.split_at(end);
    if checksum != format!("{CHECKSUM_KEY}\"{:08x}\"\n", crc32c::crc32c(text.as_bytes())) {
        return Err(damaged("it does not match its checksum"));
    }
    let malformed = |error: toml::de::Error| Unreadable::Damaged(error.message().to_owned());
    let Format { format } = toml::from_str(text).map_err(malformed)?;
    if format != FORMAT {
        return Err(Unreadable::Format(format));
    }
    let file: IdentityFile = toml::from_str(text).map_err(malformed)?;
    Ok(Identity { cluster_id: file.cluster_id, node: NodeId(file.node), name: file.name })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn identity() -> Identity {
        Identity { cluster_id: "dev".into(), node: NodeId(1), name: "n1".into() }
    }

    fn temp() -> TempDir {
        TempDir::new().expect("there is room for temporary files")
    }

    #[test]
    fn a_new_home_is_made_with_all_above_it_and_opens_again() {
        let temp = temp();
        let path = temp.path().join("a/b/home");
        for _ in 0..2 {
            let home = Home::open(&path, &identity()).unwrap();
            assert!(home.db_dir().is_dir() && home.tlog_dir().is_dir());
            assert_eq!(home.path(), path);
        }
        let mut names: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["IDENTITY", "LOCK", "db", "tlogs"]);
    }

    #[test]
    fn the_identity_file_is_as_it_ever_was() {
        assert_eq!(
            encode(&identity()),
            "format = 1\ncluster_id = \"dev\"\nnode = 1\nname = \"n1\"\ncrc32c = \"5b0a8ba4\"\n"
        );
    }

    #[test]
    fn any_name_survives_the_identity_file() {
        for name in ["n1", "", "two\nlines", "crc32c = \"00000000\"\n", "\u{0}\u{7f}ü\\\"'''"] {
            let identity = Identity { name: name.into(), cluster_id: name.into(), node: NodeId(u16::MAX) };
            assert_eq!(decode(encode(&identity).as_bytes()).ok(), Some(identity));
        }
    }

    #[test]
    fn a_restart_wait_is_kept_and_one_that_cannot_be_read_is_the_longest() {
        let temp = temp();
        let home = Home::open(temp.path(), &identity()).unwrap();
        assert_eq!(home.restart_wait().unwrap(), None);
        note_restart_wait(temp.path(), Duration::from_micros(816_100)).unwrap();
        assert_eq!(home.restart_wait().unwrap(), Some(Duration::from_millis(817)), "rounded up");
        for damaged in ["", "x", "-1", "99999999999999999999", "120001"] {
            std::fs::write(temp.path().join(LEASE), damaged).unwrap();
            assert_eq!(home.restart_wait().unwrap(), Some(Duration::from_millis(RESTART_WAIT_MS_MAX)), "{damaged:?}");
        }
    }

    #[test]
    fn a_second_opener_is_refused_and_told_the_first_ones_process() {
        let temp = temp();
        let first = Home::open(temp.path(), &identity()).unwrap();
        let error = Home::open(temp.path(), &identity()).unwrap_err();
        assert!(matches!(error, HomeError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error:?}");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        let in_a_child = first.lock.try_clone().unwrap();
        drop(first);
        Home::open(temp.path(), &identity()).expect("the first one is gone, whoever has inherited its files");
        drop(in_a_child);
    }

    #[test]
    fn the_home_of_another_node_or_cluster_is_refused_with_both_names() {
        let temp = temp();
        drop(Home::open(temp.path(), &identity()).unwrap());
        for other in [
            Identity { cluster_id: "prod".into(), ..identity() },
            Identity { node: NodeId(2), ..identity() },
            Identity { name: "n2".into(), ..identity() },
        ] {
            let error = Home::open(temp.path(), &other).unwrap_err();
            assert!(matches!(error, HomeError::Foreign { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&identity().to_string()) && text.contains(&other.to_string()), "{text}");
        }
        Home::open(temp.path(), &identity()).expect("the refusals changed nothing");
    }

    #[test]
    fn every_damaged_byte_and_every_cut_of_the_identity_file_is_noticed() {
        let whole = encode(&identity()).into_bytes();
        for at in 0..whole.len() {
            assert!(decode(&whole[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                assert!(matches!(decode(&damaged), Err(Unreadable::Damaged(_))), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_damaged_identity_file_is_refused_by_name() {
        let temp = temp();
        drop(Home::open(temp.path(), &identity()).unwrap());
        let file = temp.path().join("IDENTITY");
        std::fs::write(&file, b"").unwrap();
        let error = Home::open(temp.path(), &identity()).unwrap_err();
        assert!(matches!(error, HomeError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    }

    #[test]
    fn an_identity_file_of_a_later_format_is_not_called_damaged() {
        let text = "format = 2\nnode = \"something else by then\"\n";
        let text = format!("{text}{CHECKSUM_KEY}\"{:08x}\"\n", crc32c::crc32c(text.as_bytes()));
        assert!(matches!(decode(text.as_bytes()), Err(Unreadable::Format(2))));
    }

    #[test]
    fn data_without_an_identity_are_refused_and_an_empty_home_is_not() {
        let temp = temp();
        drop(Home::open(temp.path(), &identity()).unwrap());
        std::fs::remove_file(temp.path().join("IDENTITY")).unwrap();
        drop(Home::open(temp.path(), &identity()).expect("as after a crash before the identity was written"));
        std::fs::remove_file(temp.path().join("IDENTITY")).unwrap();
        std::fs::write(temp.path().join("tlogs/000.tlog"), b"whose?").unwrap();
        let error = Home::open(temp.path(), &identity()).unwrap_err();
        assert!(matches!(error, HomeError::Unidentified { .. }), "{error:?}");
    }

    #[test]
    fn a_file_in_the_homes_place_and_a_directory_that_takes_no_files_are_refused() {
        let temp = temp();
        let file = temp.path().join("file");
        std::fs::write(&file, b"").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = Home::open(&path, &identity()).unwrap_err();
            assert!(matches!(error, HomeError::Io { what: "create the directory", .. }), "{error:?}");
        }
        // Even root cannot make files there.
        let error = Home::open(Path::new("/proc/self/task"), &identity()).unwrap_err();
        assert!(matches!(error, HomeError::NotWritable { .. }), "{error:?}");
    }
}
