//! From a backup to the homes of a new cluster (`docs/adr/0018-restore.md`).
//!
//! All homes are made in one run, for a cluster with an id that no cluster ever had. In each of them the store is that of the
//! backup, the log begins with the word that it is (as for a head, rule F3) and with a life that votes, and nothing is promised: as if
//! all of these nodes had decided just that together, and their logs had been collapsed.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trialbay_engine::{Incarnation, NodeId, Record};

use super::{BackupError, BackupReader, Manifest};
use crate::config::{Config, NodeConfig, NodeRole};
use crate::disk::RealDisk;
use crate::identity::Identity;
use crate::node::NodeError;
use crate::node::home::{Home, note_voters};
use crate::store::{self, Head, HeadError, HeadFile, StoreError, StorePlace};
use crate::tlog::{Tlog, TlogOptions};

/// The configuration of the new cluster, beside its homes.
const CONFIG: &str = "cluster.toml";

/// While homes are made, their directory has this behind its name.
const UNFINISHED: &str = ".partial";

/// What tells the new cluster from others: so many hexadecimal digits behind a `-`, at the end of its id.
const SUFFIX_DIGITS: usize = 8;

/// Why no homes were made.
#[derive(Debug, thiserror::Error)]
pub enum NotRestored {
    /// The backup is not whole.
    #[error("the backup is of no use: {0}")]
    Backup(#[from] BackupError),
    /// There is nothing in it.
    #[error("the backup is of a cluster that had decided nothing yet: start the new one with empty homes")]
    Nothing,
    /// There is something where the homes should go.
    #[error("{} is there, and not an empty directory: name another one", .0.display())]
    Taken(PathBuf),
    /// An earlier run did not end.
    #[error("{} is left over from a run that did not end: remove it", .0.display())]
    Unfinished(PathBuf),
    /// A home cannot be made.
    #[error(transparent)]
    Home(#[from] NodeError),
    /// Another operation failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes `dir` with a home for each node of `config`, named like the node, and a configuration that is `config` with an id of
/// its own. All of it is durable when this returns; until then there is no `dir`. Gives that configuration, and what was in the
/// backup. Blocks.
///
/// # Errors
/// When the backup is not whole, `dir` is not empty, or files cannot be made. Nothing is left then.
pub fn restore(from: impl Read, config: &Config, dir: &Path) -> Result<(Config, Manifest), NotRestored> {
    let is_free = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let Some(mut name) = dir.file_name().filter(|_| is_free).map(ToOwned::to_owned) else {
        return Err(NotRestored::Taken(dir.to_owned()));
    };
    name.push(UNFINISHED);
    let unfinished = dir.with_file_name(name);
    let backup = BackupReader::begin(from)?;
    if backup.head().slot.0 == 0 {
        return Err(NotRestored::Nothing);
    }
    let config = Config { cluster_id: new_cluster_id(&config.cluster_id)?, ..config.clone() };
    fs::create_dir(&unfinished).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => NotRestored::Unfinished(unfinished.clone()),
        _ => NotRestored::Io { what: "make", path: unfinished.clone(), source },
    })?;
    let done = fill(&unfinished, backup, &config).and_then(|manifest| {
        fs::rename(&unfinished, dir).map_err(failed("name", dir))?;
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync(above)?;
        Ok((config, manifest))
    });
    if done.is_err() {
        // Nobody could use it: its cluster has an id that was told to nobody.
        let _ = fs::remove_dir_all(&unfinished);
    }
    done
}

/// The same cluster, but for its id: no node of another cluster, the backup's own and one that was made of the same backup
/// included, talks to one of these.
fn new_cluster_id(old: &str) -> Result<String, NotRestored> {
    let base = match old.rsplit_once('-') {
        Some((base, suffix)) if suffix.len() == SUFFIX_DIGITS && u32::from_str_radix(suffix, 16).is_ok() => base,
        _ => old,
    };
    Ok(format!("{base}-{:08x}", random()? >> 32))
}

fn random() -> Result<u64, NodeError> {
    getrandom::u64().map_err(|error| NodeError::System { what: "random numbers", source: io::Error::other(error) })
}

/// Reads the backup once, into all homes. They are whole only once all of it was found to be.
fn fill(dir: &Path, mut backup: BackupReader<impl Read>, config: &Config) -> Result<Manifest, NotRestored> {
    let voters: Vec<NodeId> =
        config.nodes.iter().filter(|node| node.role != NodeRole::Learner).map(|node| NodeId(node.id)).collect();
    let begin = |node: &NodeConfig| NewHome::begin(dir, &config.cluster_id, node, backup.head(), backup.admin());
    let mut homes = config.nodes.iter().map(begin).collect::<Result<Vec<_>, _>>()?;
    while let Some(block) = backup.next_block()? {
        homes.iter_mut().try_for_each(|home| home.put(&block))?;
    }
    homes.into_iter().try_for_each(|home| home.finish(backup.digest(), &voters))?;
    let path = dir.join(CONFIG);
    let written = File::create_new(&path).and_then(|mut file| {
        file.write_all(config.to_toml().as_bytes())?;
        file.sync_all()
    });
    written.map_err(failed("write", &path))?;
    sync(dir)?;
    Ok(backup.manifest())
}

/// A home in the making.
struct NewHome {
    home: Home,
    place: StorePlace,
    head: Head,
    file: HeadFile,
    keeps_data: bool,
}

impl NewHome {
    fn begin(dir: &Path, cluster_id: &str, node: &NodeConfig, head: Head, admin: &[u8]) -> Result<Self, NodeError> {
        let disk = Arc::new(RealDisk);
        let id = NodeId(node.id);
        let identity = Identity { cluster_id: cluster_id.to_owned(), node: id, name: node.name.clone() };
        let home = Home::open(disk.clone(), &dir.join(&node.name), &identity)?;
        let keeps_data = node.role != NodeRole::Witness;
        let options = store::Options { keeps_data, ..store::Options::default() };
        let place = StorePlace::new(disk, home.store_path(&node.name, !keeps_data), identity, options);
        let (head, admin) = if keeps_data { (head, admin) } else { (Head { entries: 0, ..head }, &[][..]) };
        let file = place.begin_head(head, admin, id)?;
        Ok(Self { home, place, head, file, keeps_data })
    }

    fn put(&mut self, block: &[u8]) -> Result<(), NodeError> {
        let next = self.file.progress().entries;
        if self.keeps_data { self.file.put(next, block).map_err(node_error) } else { Ok(()) }
    }

    fn finish(self, digest: u64, voters: &[NodeId]) -> Result<(), NodeError> {
        let Self { home, place, head, file, keeps_data } = self;
        file.finish(head.entries, if keeps_data { digest } else { 0 }).map_err(node_error)?;
        place.adopt_head()?;
        let nothing = Default::default();
        let (disk, identity) = (place.disk.clone(), place.identity.clone());
        let (mut tlog, _) = Tlog::open(disk, home.path(), identity, TlogOptions::default(), nothing)?;
        let incarnation = Incarnation(random()?);
        tlog.append(&[Record::MemoryBegan(incarnation)])?;
        if voters.contains(&place.identity.node) {
            tlog.append(&[Record::VoteRegained { incarnation, genesis: Vec::new() }])?;
        }
        tlog.announce_head(head.slot, head.hash)?;
        tlog.append(&[Record::Decided { upto: head.slot, hash: head.hash }])?;
        tlog.sync()?;
        tlog.seal()?;
        note_voters(&*place.disk, home.path(), voters)?;
        Ok(())
    }
}

fn node_error(error: HeadError) -> NodeError {
    match error {
        HeadError::Store(error) => error.into(),
        HeadError::Broken(why) => StoreError::Damaged { why: why.to_owned() }.into(),
    }
}

fn sync(dir: &Path) -> Result<(), NotRestored> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("make durable", dir))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NotRestored {
    let path = path.to_owned();
    move |source| NotRestored::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::sync::Semaphore;
    use trialbay_engine::{Ballot, HistoryHash, Slot, Value};

    use super::super::Backup;
    use super::*;
    use crate::store::{Decided, Store};
    use crate::update::{Update, encode_command};

    const KEYS: u16 = 300;

    /// A store of so many keys, each in a slot of its own, as a backup.
    async fn backup(keys: u16) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { cluster_id: "old".into(), node: NodeId(1), name: "n1".into() };
        let path = dir.path().join("n1.db");
        let mut store = Store::open(&RealDisk, &path, &identity, store::Options::default()).unwrap();
        for key in 0..keys {
            let update = Update::Set { key: key.to_be_bytes().to_vec().into(), value: vec![1; 10_000].into() };
            let value = Value::batch([&encode_command(&update)[..]]);
            let (slot, hash) = store.applied();
            let hash = hash.extend(slot.next(), &value);
            store.apply(&[Decided { slot: slot.next(), hash, value }], false).unwrap();
        }
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let (mut backup, _) = Backup::begin(store.reader().snapshot().unwrap(), "old", permit).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = backup.next().unwrap() {
            bytes.extend(piece);
        }
        bytes
    }

    fn config() -> Config {
        let mut config = Config::dev(4000, 4, Path::new("homes")).unwrap();
        config.nodes[1].role = NodeRole::Witness;
        config.nodes[3].role = NodeRole::Learner;
        config
    }

    /// What a node finds that starts on this home.
    fn found(config: &Config, node: &NodeConfig, home: &Path) -> (Store, crate::tlog::RecoveredLog) {
        let identity =
            Identity { cluster_id: config.cluster_id.clone(), node: NodeId(node.id), name: node.name.clone() };
        let home = Home::open(Arc::new(RealDisk), home, &identity).unwrap();
        assert_eq!(home.voters(&identity).unwrap(), Some(vec![NodeId(1), NodeId(2), NodeId(3)]));
        let path = home.store_path(&node.name, node.role == NodeRole::Witness);
        let store = Store::open(&RealDisk, &path, &identity, store::Options::default()).unwrap();
        let disk = Arc::new(RealDisk);
        let (_, log) = Tlog::open(disk, home.path(), identity, TlogOptions::default(), store.applied()).unwrap();
        (store, log)
    }

    #[tokio::test]
    async fn every_home_begins_at_the_slot_of_the_backup_and_all_voters_vote() {
        let bytes = backup(KEYS).await;
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("restored");
        let (config, manifest) = restore(&bytes[..], &config(), &dir).unwrap();
        assert_eq!((manifest.entries, manifest.slot), (KEYS.into(), KEYS.into()));
        assert_eq!(Config::load(&dir.join(CONFIG)).unwrap().cluster_id, config.cluster_id);
        assert!(!temp.path().join("restored.partial").exists());
        let slot = Slot(KEYS.into());
        let hash = HistoryHash(u64::from_str_radix(&manifest.history_hash, 16).unwrap());
        for node in &config.nodes {
            for run in 0..2 {
                let (store, log) = found(&config, node, &dir.join(&node.name));
                assert_eq!(store.applied(), (slot, hash));
                let keys = store.reader().snapshot().unwrap().len().unwrap();
                assert_eq!(keys, if node.role == NodeRole::Witness { 0 } else { KEYS.into() });
                let recovered = log.recovered;
                assert_eq!((recovered.decided_upto, recovered.decided_hash), (slot, hash), "{} {run}", node.name);
                assert_eq!((recovered.promised, recovered.log_start), (Ballot::ZERO, slot.next()));
                assert_eq!(recovered.memory.unwrap().votes, node.role != NodeRole::Learner);
                assert_eq!((log.damage, log.notes), (vec![], vec![]));
            }
        }
    }

    #[tokio::test]
    async fn no_two_runs_make_homes_of_one_cluster() {
        let bytes = backup(1).await;
        let temp = tempfile::tempdir().unwrap();
        let restored = |name: &str, config: &Config| restore(&bytes[..], config, &temp.path().join(name)).unwrap().0;
        let (first, second) = (restored("a", &config()), restored("b", &config()));
        let third = restored("c", &second);
        let mut ids = [first.cluster_id, second.cluster_id, third.cluster_id, config().cluster_id];
        assert!(ids.iter().all(|id| id.len() <= "dev-01234567".len() && id.starts_with("dev")), "{ids:?}");
        ids.sort();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    }

    #[tokio::test]
    async fn what_is_not_a_whole_backup_leaves_nothing() {
        let bytes = backup(KEYS).await;
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("restored");
        for at in [0, 20, 40, 100_000, bytes.len() - 30, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            for of_no_use in [&bytes[..at], &damaged[..]] {
                let error = restore(of_no_use, &config(), &dir).unwrap_err();
                assert!(matches!(error, NotRestored::Backup(_)), "{error}");
                assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "at {at}");
            }
        }
        let error = restore(&backup(0).await[..], &config(), &dir).unwrap_err();
        assert!(matches!(error, NotRestored::Nothing), "{error}");
    }

    #[tokio::test]
    async fn nothing_that_is_there_is_touched() {
        let bytes = Bytes::from(backup(1).await);
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("restored");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("mine"), b"").unwrap();
        let run = || restore(&bytes[..], &config(), &dir);
        assert!(matches!(run(), Err(NotRestored::Taken(_))));
        std::fs::remove_file(dir.join("mine")).unwrap();
        let unfinished = temp.path().join("restored.partial");
        std::fs::create_dir(&unfinished).unwrap();
        assert!(matches!(run(), Err(NotRestored::Unfinished(_))));
        std::fs::remove_dir(&unfinished).unwrap();
        run().expect("an empty directory may be there");
    }
}
