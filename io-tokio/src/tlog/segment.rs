//! One file of the log: its name, its header, and its growth while it is the open one.
//!
//! A segment begins with a header of 512 bytes, so that no write of a record ever touches the header's sector:
//!
//! ```text
//! offset  size  field
//!      0     8  magic            "TBALtlog"
//!      8     2  format version   2
//!     10     2  node             the number of the node that writes the log
//!     12     4  segment          the number in the file's name
//!     16     8  previous length  bytes of the segment before this one, which was closed first; 0 in segment 0
//!     24     2  length of the cluster id
//!     26     2  length of the node's name
//!     28     .  cluster id, then the node's name, then zeros
//!    358   150  checkpoint       what all segments before this one add up to:
//!               .   0  10  the highest ballot promised: round 8, node 2
//!               .  10  16  the last `Decided`: slot 8, history hash 8
//!               .  26  16  the last head announced: the same
//!               .  42   8  the last slot in which anything was accepted
//!               .  50   1  0: no memory counts, 1: it does and has no vote, 2: it has one
//!               .  51   8  incarnation
//!               .  59   1  how many nodes the genesis names; for each of them node 2, incarnation 8; then zeros
//!    508     4  CRC32C of bytes 0 to 507
//! ```
//!
//! The frames of `record.rs` follow without gaps. The open segment is longer than what is written in it: the rest is
//! reserved and zero, and no frame has a length of zero. A closed segment ends with its last frame.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use trialbay_engine::NodeId;

use super::checkpoint::{CHECKPOINT_BYTES, Checkpoint};
use super::error::{TlogError, io_error};
use super::record::{self, Salt};
use crate::disk::{Disk, DiskFile};
use crate::identity::Identity;

/// Where the first frame begins.
pub(super) const HEADER_BYTES: u64 = 512;

/// How the names of files end: of a segment,
pub(super) const SEGMENT: &str = ".tlog";
/// of one that is compressed,
pub(super) const ARCHIVE: &str = ".tlx";
/// and of one that was to be.
pub(super) const NEW_ARCHIVE: &str = ".tlx.new";

const HEADER_LEN: usize = HEADER_BYTES as usize;
const MAGIC: [u8; 8] = *b"TBALtlog";
const FORMAT_VERSION: u16 = 2;
const NAMES_AT: usize = 28;
const CHECKSUM_AT: usize = HEADER_LEN - 4;
const CHECKPOINT_AT: usize = CHECKSUM_AT - CHECKPOINT_BYTES;
/// Leaves room for both names.
const NAME_BYTES_MAX: usize = (CHECKPOINT_AT - NAMES_AT) / 2;

/// Where a log is kept, whose it is, and on what.
pub(super) struct Place {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) identity: Identity,
    /// How much of a segment is reserved at a time.
    pub(super) reserve_bytes: u64,
    #[cfg(feature = "planted-bugs")]
    pub(super) planted: Option<crate::planted::PlantedBug>,
}

/// What a sound header says beyond the identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The length of the segment before this one.
    pub(super) previous_bytes: u64,
    /// What all segments before this one add up to.
    pub(super) checkpoint: Checkpoint,
}

/// The open segment.
pub(super) struct Segment {
    pub(super) number: u32,
    salt: Salt,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    written: u64,
    synced: u64,
    reserved: u64,
    reserve_bytes: u64,
    #[cfg(feature = "planted-bugs")]
    planted: Option<crate::planted::PlantedBug>,
}

impl Identity {
    /// Checks that the names fit into a header.
    pub(super) fn check(&self) -> Result<(), TlogError> {
        match [&self.cluster_id, &self.name].into_iter().find(|name| name.len() > NAME_BYTES_MAX) {
            Some(name) => Err(TlogError::NameTooLong { name: name.clone(), max: NAME_BYTES_MAX }),
            None => Ok(()),
        }
    }

    pub(super) fn salt(&self, segment: u32) -> Salt {
        Salt::new(&self.cluster_id, self.node, &self.name, segment)
    }

    fn header(&self, segment: u32, Header { previous_bytes, checkpoint }: &Header) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &FORMAT_VERSION.to_le_bytes());
        put(10, &self.node.0.to_le_bytes());
        put(12, &segment.to_le_bytes());
        put(16, &previous_bytes.to_le_bytes());
        let len_of = |name: &str| u16::try_from(name.len()).expect("names are checked at opening").to_le_bytes();
        put(24, &len_of(&self.cluster_id));
        put(26, &len_of(&self.name));
        put(NAMES_AT, self.cluster_id.as_bytes());
        put(NAMES_AT + self.cluster_id.len(), self.name.as_bytes());
        put(CHECKPOINT_AT, &checkpoint.encode());
        let checksum = crc32c::crc32c(&header[..CHECKSUM_AT]);
        header[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        header
    }

    /// Reads the first bytes of a segment; `None` when they are damaged or not all there.
    ///
    /// # Errors
    /// When they are sound and say that this is another log's file.
    pub(super) fn check_header(&self, bytes: &[u8], segment: u32, path: &Path) -> Result<Option<Header>, TlogError> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..8] != MAGIC || u32_at(CHECKSUM_AT) != crc32c::crc32c(&header[..CHECKSUM_AT]) {
            return Ok(None);
        }
        let path = path.to_owned();
        let names = &header[NAMES_AT..CHECKPOINT_AT];
        let cluster_end = usize::from(u16_at(24));
        let name_end = cluster_end + usize::from(u16_at(26));
        if u16_at(8) != FORMAT_VERSION || name_end > names.len() {
            return Err(TlogError::NewerFormat { path });
        }
        let theirs = String::from_utf8_lossy(&names[..cluster_end]).into_owned();
        if theirs != self.cluster_id {
            return Err(TlogError::OtherCluster { path, ours: self.cluster_id.clone(), theirs });
        }
        let their_name = String::from_utf8_lossy(&names[cluster_end..name_end]).into_owned();
        let their_node = NodeId(u16_at(10));
        if their_name != self.name || their_node != self.node {
            let (our_name, our_node) = (self.name.clone(), self.node);
            return Err(TlogError::OtherNode { path, our_name, our_node, their_name, their_node });
        }
        if u32_at(12) != segment {
            return Err(TlogError::Renumbered { path, number: u32_at(12) });
        }
        let previous_bytes = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
        let checkpoint = header[CHECKPOINT_AT..].first_chunk().and_then(Checkpoint::decode);
        let checkpoint = checkpoint.ok_or(TlogError::NewerFormat { path })?;
        Ok(Some(Header { previous_bytes, checkpoint }))
    }
}

impl Place {
    pub(super) fn path(&self, segment: u32) -> PathBuf {
        self.dir.join(file_name(segment, SEGMENT))
    }

    /// The path of a segment's archive,
    pub(super) fn archive_path(&self, segment: u32) -> PathBuf {
        self.dir.join(file_name(segment, ARCHIVE))
    }

    /// and that of one that is being made.
    pub(super) fn new_archive_path(&self, segment: u32) -> PathBuf {
        self.dir.join(file_name(segment, NEW_ARCHIVE))
    }

    /// Removes a file, durably.
    pub(super) fn remove(&self, path: &Path) -> Result<(), TlogError> {
        self.disk.remove(path).map_err(io_error("remove", path))?;
        self.sync_names()
    }

    pub(super) fn salt(&self, segment: u32) -> Salt {
        self.identity.salt(segment)
    }

    /// Makes the names of the segments durable.
    pub(super) fn sync_names(&self) -> Result<(), TlogError> {
        self.disk.sync_dir(&self.dir).map_err(io_error("sync", &self.dir))
    }
}

impl Segment {
    /// Makes a new segment; its header and its name are durable when this returns.
    pub(super) fn create(place: &Place, number: u32, header: &Header) -> Result<Self, TlogError> {
        let path = place.path(number);
        let reserve_bytes = place.reserve_bytes.max(HEADER_BYTES);
        let file = place.disk.create(&path).map_err(io_error("create", &path))?;
        file.allocate(0, reserve_bytes).map_err(io_error("reserve space in", &path))?;
        let header = place.identity.header(number, header);
        file.write_at(&header, 0).map_err(io_error("write", &path))?;
        if !planted!(place.planted, NullHeaderUnsynced) {
            file.sync_all().map_err(io_error("sync", &path))?;
        }
        if !planted!(place.planted, NameNotSynced) {
            place.sync_names()?;
        }
        Ok(Self::at(place, number, path, file, HEADER_BYTES, reserve_bytes))
    }

    /// Opens a segment again whose records end at `written`, and cuts off what lies behind if `cut` says so. All of it
    /// is durable when this returns: what was read from it may never have been synced by the process that wrote it.
    pub(super) fn reopen(place: &Place, number: u32, written: u64, cut: bool) -> Result<Self, TlogError> {
        let path = place.path(number);
        let file = place.disk.open(&path).map_err(io_error("open", &path))?;
        if cut {
            file.truncate(written).map_err(io_error("truncate", &path))?;
        }
        file.sync_all().map_err(io_error("sync", &path))?;
        let reserved = file.size().map_err(io_error("read", &path))?;
        Ok(Self::at(place, number, path, file, written, reserved))
    }

    /// A segment that is durable up to `written`.
    fn at(place: &Place, number: u32, path: PathBuf, file: Box<dyn DiskFile>, written: u64, reserved: u64) -> Self {
        Self {
            number,
            salt: place.salt(number),
            path,
            file,
            written,
            synced: written,
            reserved,
            reserve_bytes: place.reserve_bytes,
            #[cfg(feature = "planted-bugs")]
            planted: place.planted,
        }
    }

    /// Where the next group begins.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The file's length on disk.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Finishes frames and appends them; they are durable only after [`Segment::sync`].
    pub(super) fn write(&mut self, frames: &mut [u8]) -> Result<(), TlogError> {
        let synced = u32::try_from(self.synced).expect("segments and groups are limited to 1 GiB each");
        record::finish(frames, self.salt, self.written, synced);
        let end = self.written + frames.len() as u64;
        if end > self.reserved {
            let more = self.reserve_bytes.max(end - self.reserved);
            self.file.allocate(self.reserved, more).map_err(io_error("reserve space in", &self.path))?;
            self.reserved += more;
        }
        self.file.write_at(frames, self.written).map_err(io_error("write", &self.path))?;
        self.written = end;
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn sync(&mut self) -> Result<(), TlogError> {
        if planted!(self.planted, SyncLeftOut) {
            return Ok(());
        }
        let mut outcome = self.file.sync_data();
        if planted!(self.planted, SyncErrorBelieved) {
            outcome = outcome.or_else(|_| self.file.sync_data());
        }
        outcome.map_err(io_error("sync", &self.path))?;
        self.synced = self.written;
        Ok(())
    }

    /// Cuts the reserve off, for good; gives the length.
    pub(super) fn close(&self) -> Result<u64, TlogError> {
        self.file.truncate(self.written).map_err(io_error("truncate", &self.path))?;
        self.file.sync_all().map_err(io_error("sync", &self.path))?;
        Ok(self.written)
    }
}

/// The name of a segment's file, in one of its forms.
fn file_name(number: u32, form: &str) -> String {
    format!("{number:03}{form}")
}

/// The number of the segment with a file of this name in this form, if it is one.
pub(super) fn number_in(name: &str, form: &str) -> Option<u32> {
    let number = name.strip_suffix(form)?.parse().ok()?;
    (file_name(number, form) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use trialbay_engine::{Ballot, HistoryHash, Incarnation, Memory, Slot};

    use super::*;

    fn identity() -> Identity {
        Identity { cluster_id: "dev".into(), node: NodeId(1), name: "n1".into() }
    }

    fn behind(previous_bytes: u64) -> Header {
        let memory = Memory { incarnation: Incarnation(9), votes: true, genesis: vec![(NodeId(1), Incarnation(9))] };
        let checkpoint = Checkpoint {
            promised: Ballot { round: 5, node: NodeId(2) },
            decided: (Slot(6), HistoryHash(0xaa)),
            head: (Slot(4), HistoryHash(0xbb)),
            accepted_upto: Slot(8),
            memory: Some(memory),
        };
        Header { previous_bytes, checkpoint }
    }

    #[test]
    fn the_bytes_of_a_header_stay_as_they_are() {
        let header = identity().header(3, &behind(0x1122));
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(&header[..40]),
            "5442414c746c6f6702000100030000002211000000000000030002006465766e3100000000000000"
        );
        assert!(header[40..CHECKPOINT_AT].iter().all(|byte| *byte == 0));
        assert_eq!(
            hex(&header[CHECKPOINT_AT..CHECKPOINT_AT + 70]),
            "050000000000000002000600000000000000aa000000000000000400000000000000bb0000000000000008000000000000\
             000209000000000000000101000900000000000000"
        );
        assert!(header[CHECKPOINT_AT + 70..CHECKSUM_AT].iter().all(|byte| *byte == 0));
        assert_eq!(hex(&header[CHECKSUM_AT..]), "0caaf9ac");
    }

    #[test]
    fn a_header_is_accepted_whole_and_unchanged_only() {
        let header = identity().header(3, &behind(7));
        let check = |bytes: &[u8]| identity().check_header(bytes, 3, Path::new("003.tlog")).unwrap();
        assert_eq!(check(&header), Some(behind(7)));
        for len in 0..HEADER_LEN {
            assert_eq!(check(&header[..len]), None);
        }
        for bit in 0..HEADER_LEN * 8 {
            let mut flipped = header;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn the_files_of_others_are_refused_by_name() {
        let header = identity().header(3, &behind(7));
        let refuse = |identity: Identity, number| {
            identity.check_header(&header, number, Path::new("x.tlog")).unwrap_err().to_string()
        };
        assert_eq!(
            refuse(Identity { cluster_id: "prod".into(), ..identity() }, 3),
            "x.tlog belongs to cluster \"dev\", this node to \"prod\": give it its own home directory"
        );
        assert_eq!(
            refuse(Identity { name: "n2".into(), ..identity() }, 3),
            "x.tlog belongs to node \"n1\" (n1), this is node \"n2\" (n1): give it its own home directory"
        );
        assert_eq!(
            refuse(Identity { node: NodeId(2), ..identity() }, 3),
            "x.tlog belongs to node \"n1\" (n1), this is node \"n1\" (n2): give it its own home directory"
        );
        assert_eq!(refuse(identity(), 4), "x.tlog was written as segment 3: give it back its name");
        let mut newer = header;
        newer[8] = 3;
        let checksum = crc32c::crc32c(&newer[..CHECKSUM_AT]);
        newer[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        let error = identity().check_header(&newer, 3, Path::new("x.tlog"));
        assert!(matches!(error, Err(TlogError::NewerFormat { .. })));
        assert!(Identity { name: "n".repeat(166), ..identity() }.check().is_err());
        let longest = Identity { cluster_id: "c".repeat(165), name: "n".repeat(165), ..identity() };
        longest.check().unwrap();
        assert!(longest.check_header(&longest.header(0, &behind(0)), 0, Path::new("x")).unwrap().is_some());
    }

    #[test]
    fn a_segment_has_exactly_one_name() {
        for (number, name) in [(0, "000.tlog"), (42, "042.tlog"), (1000, "1000.tlog"), (u32::MAX, "4294967295.tlog")] {
            assert_eq!(file_name(number, SEGMENT), name);
            assert_eq!(number_in(name, SEGMENT), Some(number));
        }
        for name in [
            "0.tlog",
            "0000.tlog",
            "-01.tlog",
            "+01.tlog",
            "4294967296.tlog",
            "000.tlx",
            ".tlog",
            "x000.tlog",
            "0x0.tlog",
        ] {
            assert_eq!(number_in(name, SEGMENT), None, "{name}");
        }
    }
}
