//! Images: an engine as bytes, from which the same program makes the same engine again, that goes on as the first one
//! would have. For recordings of what a node went through.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bincode::{Decode, Encode};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::acceptor::Acceptor;
use crate::catch_up::CatchUp;
use crate::codec;
use crate::config::Config;
use crate::disk_queue::DiskQueue;
use crate::engine::{Engine, Mastership};
use crate::hand_over::HandOver;
use crate::ids::{Ballot, NodeId};
use crate::lease::Grant;
use crate::log::{Log, LogImage};
use crate::quorum::Quorum;
use crate::recall::Franchise;
use crate::time::Instant;
use crate::timers::Timers;

/// Changes with any change of what an image holds.
const FORMAT: u16 = 4;

/// The program that can read an image.
const BUILD: &str = env!("CARGO_PKG_VERSION");

/// What an image keeps of the decided values that the engine has in memory: a cache for slaves slightly behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedValues {
    /// All of them.
    Whole,
    /// Their lengths and first bytes. The engine does nothing with a decided value but hand it on, so one with zeros in
    /// place of the rest decides the same, and [`codec::hash_actions`] tells no difference; its messages to slaves that
    /// are behind have the zeros.
    Outlined,
}

/// Why bytes are not the image of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Another version of the program made it, and its engine may decide otherwise.
    OtherBuild {
        /// Its version.
        build: String,
        /// Its format of images.
        format: u16,
    },
    /// The bytes end too early, go on too long, or say what cannot be.
    Malformed,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherBuild { build, format } => write!(
                f,
                "made by version {} (images of format {format}), and this is version {BUILD} (format {FORMAT})",
                build.escape_debug()
            ),
            Self::Malformed => f.write_str("not the image of an engine"),
        }
    }
}

impl core::error::Error for ImageError {}

/// Every field of [`Engine`] that outlasts a step, but for what follows from others.
#[derive(Encode, Decode)]
struct Image {
    config: Config,
    rng: RngImage,
    now: Instant,
    timers: Timers,
    log: LogImage,
    disk: DiskQueue,
    acceptor: Acceptor,
    grant: Grant,
    franchise: Franchise,
    mastership: Mastership,
    hand_over: HandOver,
    catch_up: CatchUp,
    connected: BTreeSet<NodeId>,
    ballot_seen: Ballot,
    store_paused: bool,
    canvasses: u32,
    halted: bool,
}

#[derive(Encode, Decode)]
struct RngImage {
    seed: [u8; 32],
    stream: u64,
    word_pos: u128,
}

impl Engine {
    /// Appends an image of this engine to `out`.
    pub fn image(&self, decided: DecidedValues, out: &mut Vec<u8>) {
        // Named one by one: a field that is added must be thought of here.
        let Self {
            config,
            quorum: _,
            rng,
            now,
            timers,
            log,
            disk,
            acceptor,
            grant,
            franchise,
            mastership,
            hand_over,
            catch_up,
            connected,
            ballot_seen,
            store_paused,
            canvasses,
            out: orders,
            halted,
        } = self;
        assert!(orders.is_empty(), "between steps all orders are given");
        let image = Image {
            config: config.clone(),
            rng: RngImage { seed: rng.get_seed(), stream: rng.get_stream(), word_pos: rng.get_word_pos() },
            now: *now,
            timers: timers.clone(),
            log: log.image(decided),
            disk: disk.clone(),
            acceptor: acceptor.clone(),
            grant: grant.clone(),
            franchise: franchise.clone(),
            mastership: mastership.clone(),
            hand_over: hand_over.clone(),
            catch_up: catch_up.clone(),
            connected: connected.clone(),
            ballot_seen: *ballot_seen,
            store_paused: *store_paused,
            canvasses: *canvasses,
            halted: *halted,
        };
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.push(u8::try_from(BUILD.len()).expect("a version is short"));
        out.extend_from_slice(BUILD.as_bytes());
        codec::encode(&image, out);
    }

    /// The engine that `bytes` are an image of.
    ///
    /// # Errors
    /// When another version of the program made the image, or it is none.
    pub fn from_image(bytes: &[u8]) -> Result<Self, ImageError> {
        let image: Image = codec::decode(check_build(bytes)?).ok_or(ImageError::Malformed)?;
        let voters = image.config.voters.clone();
        if !image.config.is_sound() {
            return Err(ImageError::Malformed);
        }
        let mut rng = ChaCha8Rng::from_seed(image.rng.seed);
        rng.set_stream(image.rng.stream);
        rng.set_word_pos(image.rng.word_pos);
        Ok(Self {
            config: image.config,
            quorum: Quorum::new(voters),
            rng,
            now: image.now,
            timers: image.timers,
            log: Log::from_image(image.log).ok_or(ImageError::Malformed)?,
            disk: image.disk,
            acceptor: image.acceptor,
            grant: image.grant,
            franchise: image.franchise,
            mastership: image.mastership,
            hand_over: image.hand_over,
            catch_up: image.catch_up,
            connected: image.connected,
            ballot_seen: image.ballot_seen,
            store_paused: image.store_paused,
            canvasses: image.canvasses,
            out: Vec::new(),
            halted: image.halted,
        })
    }
}

/// What follows the name of the build, which must be this one.
fn check_build(bytes: &[u8]) -> Result<&[u8], ImageError> {
    let (format, rest) = bytes.split_first_chunk::<2>().ok_or(ImageError::Malformed)?;
    let (len, rest) = rest.split_first().ok_or(ImageError::Malformed)?;
    let (build, rest) = rest.split_at_checked(usize::from(*len)).ok_or(ImageError::Malformed)?;
    let format = u16::from_le_bytes(*format);
    let build = core::str::from_utf8(build).map_err(|_| ImageError::Malformed)?;
    if format != FORMAT || build != BUILD {
        return Err(ImageError::OtherBuild { build: build.into(), format });
    }
    Ok(rest)
}
