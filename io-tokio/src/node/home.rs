//! A node's home directory: one process at a time, one node for ever.
//!
//! ```text
//! <home>/LOCK        locked while a process runs on the home; holds its process id
//! <home>/IDENTITY    whose home it is, as text with a checksum
//! <home>/VOTERS      which nodes voted when it last took part
//! <home>/db/         the store
//! <home>/tlogs/      the transaction logs
//! <home>/recorder/   what the engine was told last, if it is recorded
//! ```
//! A log of another node, voted with, could break every promise of the cluster: a home that is not provably this node's
//! is refused.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trialbay_engine::NodeId;

use crate::disk::Disk;
use crate::home_disk::{FileLock, HomeDisk, LockError};
use crate::identity::Identity;

/// The format of the identity file. A higher one is a later program's.
const FORMAT: u32 = 1;
/// The files that are read whole are far smaller. What is larger is something else.
const FILE_LEN_MAX: usize = 64 << 10;
/// Whose home it is.
const IDENTITY: &str = "IDENTITY";
/// How long the next run waits because of what this one grants, in milliseconds.
const LEASE: &str = "LEASE";
/// The voters of the last configuration in which there was a master, by their ids.
const VOTERS: &str = "VOTERS";
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
    /// Whoever looks at it cannot tell whose it is.
    #[error("{} is not known to be the home of a node: {why}", .home.display())]
    NoHome {
        /// The directory.
        home: PathBuf,
        /// What is wrong with its identity file.
        why: String,
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
pub fn note_restart_wait(disk: &dyn Disk, home: &Path, wait: Duration) -> Result<(), HomeError> {
    let millis = wait.as_millis() + u128::from(!wait.subsec_nanos().is_multiple_of(1_000_000));
    replace(disk, &home.join(LEASE), &format!("{millis}\n"))
}

/// Notes who votes. Durable when this returns.
///
/// # Errors
/// When it cannot be written.
pub fn note_voters(disk: &dyn Disk, home: &Path, voters: &[NodeId]) -> Result<(), HomeError> {
    let ids: Vec<String> = voters.iter().map(|voter| voter.0.to_string()).collect();
    replace(disk, &home.join(VOTERS), &(ids.join(" ") + "\n"))
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// This node's home, locked until it is dropped or the process ends, however it ends.
pub struct Home {
    disk: Arc<dyn HomeDisk>,
    path: PathBuf,
    _lock: FileLock,
}

impl Home {
    /// Opens the home of a node, making it if there is none, and locks it. What it makes is durable when this returns.
    ///
    /// # Errors
    /// When another process runs on it, it is not this node's, or it cannot be written to.
    pub fn open(disk: Arc<dyn HomeDisk>, path: &Path, identity: &Identity) -> Result<Self, HomeError> {
        create_dir(&*disk, path)?;
        let lock = lock(&*disk, path)?;
        let home = Self { disk, path: path.to_owned(), _lock: lock };
        let disk = &*home.disk;
        check_writable(disk, path)?;
        sync_name(disk, path)?;
        create_dir(disk, &home.db_dir())?;
        create_dir(disk, &home.tlog_dir())?;
        home.check_identity(identity)?;
        Ok(home)
    }

    /// Locks the home of a node, of which nothing is made or written: for a disk that is full. `None` when there is none, or
    /// none that says whose it is.
    ///
    /// # Errors
    /// When another process runs on it, or it is not this node's.
    pub fn claim(disk: Arc<dyn HomeDisk>, path: &Path, identity: &Identity) -> Result<Option<Self>, HomeError> {
        if read(&*disk, &path.join(IDENTITY))?.is_none() {
            return Ok(None);
        }
        let lock = lock(&*disk, path)?;
        let home = Self { disk, path: path.to_owned(), _lock: lock };
        home.check_identity(identity)?;
        Ok(Some(home))
    }

    /// Opens the home of whichever node it is, to look at what is there: on a disk that changes nothing (`ReadOnlyDisk`).
    ///
    /// # Errors
    /// When a process runs on it, or it does not say whose it is.
    pub fn look(disk: Arc<dyn HomeDisk>, path: &Path) -> Result<(Self, Identity), HomeError> {
        let lock = lock(&*disk, path)?;
        let no_home = |why: &str| HomeError::NoHome { home: path.to_owned(), why: why.to_owned() };
        let file = path.join("IDENTITY");
        let bytes = read(&*disk, &file)?.ok_or_else(|| no_home("it has no file IDENTITY"))?;
        let identity = decode(&bytes).map_err(|error| match error {
            Unreadable::Damaged(why) => no_home(&format!("its file IDENTITY is damaged ({why})")),
            Unreadable::Format(found) => HomeError::Unsupported { file, found },
        })?;
        Ok((Self { disk, path: path.to_owned(), _lock: lock }, identity))
    }

    /// The home itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store is.
    pub fn db_dir(&self) -> PathBuf {
        self.path.join("db")
    }

    /// The file of the node's store. That of a witness is another one: with the role the node changes stores, and the new one
    /// is replayed from the log.
    pub fn store_path(&self, name: &str, is_witness: bool) -> PathBuf {
        self.db_dir().join(format!("{name}{}", if is_witness { ".witness.db" } else { ".db" }))
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
        let Some(bytes) = read(&*self.disk, &path)? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let millis = text.trim().parse().ok().filter(|millis| *millis <= RESTART_WAIT_MS_MAX);
        Ok(Some(Duration::from_millis(millis.unwrap_or(RESTART_WAIT_MS_MAX))))
    }

    /// Who voted when this node last took part, in order; `None` if it never did.
    ///
    /// # Errors
    /// When the file cannot be read, or makes no sense.
    pub fn voters(&self, ours: &Identity) -> Result<Option<Vec<NodeId>>, HomeError> {
        let file = self.path.join(VOTERS);
        let Some(bytes) = read(&*self.disk, &file)? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let mut voters = text.split_whitespace().map(|id| id.parse().map(NodeId)).collect::<Result<Vec<_>, _>>().ok();
        voters.iter_mut().for_each(|voters| voters.sort_unstable());
        match voters.filter(|voters| !voters.is_empty()) {
            Some(voters) => Ok(Some(voters)),
            None => Err(HomeError::Damaged { file, why: "it names no voters".into(), ours: ours.clone() }),
        }
    }

    fn check_identity(&self, ours: &Identity) -> Result<(), HomeError> {
        let file = self.path.join(IDENTITY);
        let Some(text) = read(&*self.disk, &file)? else {
            for dir in [self.tlog_dir(), self.db_dir()] {
                if !self.disk.list(&dir).map_err(failed("list", &dir))?.is_empty() {
                    return Err(HomeError::Unidentified { dir, ours: ours.clone() });
                }
            }
            return replace(&*self.disk, &file, &encode(ours));
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

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Home").field(&self.path).finish()
    }
}

/// Makes a directory and those above it, each durable in the one above, if it is missing.
fn create_dir(disk: &dyn HomeDisk, path: &Path) -> Result<(), HomeError> {
    if disk.is_dir(path) {
        return Ok(());
    }
    let above = match path.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => path,
    };
    if above != path && above != Path::new(".") {
        create_dir(disk, above)?;
    }
    disk.create_dir(path).map_err(failed("create the directory", path))?;
    sync_dir(disk, above)
}

/// Makes the name of a home durable that was there already: whoever made it, an administrator or a process that was
/// killed in between, may not have done so, and with it everything in it would be lost.
fn sync_name(disk: &dyn HomeDisk, home: &Path) -> Result<(), HomeError> {
    match disk.sync_name(home) {
        // The node need not be allowed to read it, and where the home is a mount it may be of another kind, that has no
        // sync. Then it is for whoever made the home to have done this.
        Err(source) if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => Ok(()),
        outcome => outcome.map_err(failed("make durable", home)),
    }
}

fn lock(disk: &dyn HomeDisk, home: &Path) -> Result<FileLock, HomeError> {
    let path = home.join("LOCK");
    disk.lock(&path).map_err(|error| match error {
        LockError::Held(pid) => HomeError::Locked { home: home.to_owned(), pid },
        LockError::NotWritable(source) => HomeError::NotWritable { dir: home.to_owned(), source },
        LockError::Refused(source) => failed("lock", &path)(source),
    })
}

fn check_writable(disk: &dyn Disk, home: &Path) -> Result<(), HomeError> {
    let path = home.join("WRITABLE.tmp");
    let write = || {
        write_anew(disk, &path, b"may be deleted\n")?;
        disk.remove(&path)
    };
    write().map_err(|source| HomeError::NotWritable { dir: home.to_owned(), source })
}

/// What a small file holds; `None` when there is none.
fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, HomeError> {
    let file = match disk.open_to_read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let mut bytes = vec![0; FILE_LEN_MAX];
    let mut len = 0;
    while len < FILE_LEN_MAX {
        match file.read_at(&mut bytes[len..], len as u64).map_err(failed("read", path))? {
            0 => break,
            more => len += more,
        }
    }
    bytes.truncate(len);
    Ok(Some(bytes))
}

/// Gives a file this content such that a crash leaves the old file or the new one.
fn replace(disk: &dyn Disk, path: &Path, content: &str) -> Result<(), HomeError> {
    let dir = path.parent().expect("the files of a home are in a directory");
    let new = path.with_extension("tmp");
    write_anew(disk, &new, content.as_bytes())
        .and_then(|()| disk.rename(&new, path))
        .map_err(|source| HomeError::NotWritable { dir: dir.to_owned(), source })?;
    sync_dir(disk, dir)
}

/// Writes a durable file in the place of one that may be left over.
fn write_anew(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = disk.create(path)?;
    file.write_at(content, 0)?;
    file.sync_all()
}

fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), HomeError> {
    disk.sync_dir(dir).map_err(failed("make durable", dir))
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
    use crate::disk::RealDisk;

    fn identity() -> Identity {
        Identity { cluster_id: "dev".into(), node: NodeId(1), name: "n1".into() }
    }

    fn open(path: &Path, identity: &Identity) -> Result<Home, HomeError> {
        Home::open(Arc::new(RealDisk), path, identity)
    }

    fn temp() -> TempDir {
        TempDir::new().expect("there is room for temporary files")
    }

    #[test]
    fn a_new_home_is_made_with_all_above_it_and_opens_again() {
        let temp = temp();
        let path = temp.path().join("a/b/home");
        for _ in 0..2 {
            let home = open(&path, &identity()).unwrap();
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
        let home = open(temp.path(), &identity()).unwrap();
        assert_eq!(home.restart_wait().unwrap(), None);
        note_restart_wait(&RealDisk, temp.path(), Duration::from_micros(816_100)).unwrap();
        assert_eq!(home.restart_wait().unwrap(), Some(Duration::from_millis(817)), "rounded up");
        for damaged in [&b""[..], b"x", b"-1", b"99999999999999999999", b"120001", b"\xff"] {
            std::fs::write(temp.path().join(LEASE), damaged).unwrap();
            assert_eq!(home.restart_wait().unwrap(), Some(Duration::from_millis(RESTART_WAIT_MS_MAX)), "{damaged:?}");
        }
    }

    #[test]
    fn the_voters_are_kept_and_what_names_none_is_refused() {
        let temp = temp();
        let home = open(temp.path(), &identity()).unwrap();
        assert_eq!(home.voters(&identity()).unwrap(), None);
        note_voters(&RealDisk, temp.path(), &[NodeId(1), NodeId(30)]).unwrap();
        assert_eq!(home.voters(&identity()).unwrap(), Some(vec![NodeId(1), NodeId(30)]));
        for damaged in [&b""[..], b"x", b"1 -2", b"70000", b"\xff"] {
            std::fs::write(temp.path().join(VOTERS), damaged).unwrap();
            let error = home.voters(&identity()).unwrap_err();
            assert!(matches!(error, HomeError::Damaged { .. }), "{damaged:?}: {error}");
        }
    }

    #[test]
    fn a_second_opener_is_refused_and_told_the_first_ones_process() {
        let temp = temp();
        let first = open(temp.path(), &identity()).unwrap();
        let error = open(temp.path(), &identity()).unwrap_err();
        assert!(matches!(error, HomeError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error:?}");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        open(temp.path(), &identity()).expect("the first one is gone");
    }

    #[test]
    fn the_home_of_another_node_or_cluster_is_refused_with_both_names() {
        let temp = temp();
        drop(open(temp.path(), &identity()).unwrap());
        for other in [
            Identity { cluster_id: "prod".into(), ..identity() },
            Identity { node: NodeId(2), ..identity() },
            Identity { name: "n2".into(), ..identity() },
        ] {
            let error = open(temp.path(), &other).unwrap_err();
            assert!(matches!(error, HomeError::Foreign { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&identity().to_string()) && text.contains(&other.to_string()), "{text}");
        }
        open(temp.path(), &identity()).expect("the refusals changed nothing");
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
        drop(open(temp.path(), &identity()).unwrap());
        let file = temp.path().join("IDENTITY");
        std::fs::write(&file, b"").unwrap();
        let error = open(temp.path(), &identity()).unwrap_err();
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
        drop(open(temp.path(), &identity()).unwrap());
        std::fs::remove_file(temp.path().join("IDENTITY")).unwrap();
        drop(open(temp.path(), &identity()).expect("as after a crash before the identity was written"));
        std::fs::remove_file(temp.path().join("IDENTITY")).unwrap();
        std::fs::write(temp.path().join("tlogs/000.tlog"), b"whose?").unwrap();
        let error = open(temp.path(), &identity()).unwrap_err();
        assert!(matches!(error, HomeError::Unidentified { .. }), "{error:?}");
    }

    #[test]
    fn a_file_in_the_homes_place_and_a_directory_that_takes_no_files_are_refused() {
        let temp = temp();
        let file = temp.path().join("file");
        std::fs::write(&file, b"").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = open(&path, &identity()).unwrap_err();
            assert!(matches!(error, HomeError::Io { what: "create the directory", .. }), "{error:?}");
        }
        // Even root cannot make files there.
        let error = open(Path::new("/proc/self/task"), &identity()).unwrap_err();
        assert!(matches!(error, HomeError::NotWritable { .. }), "{error:?}");
    }
}
