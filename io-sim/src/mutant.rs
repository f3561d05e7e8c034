//! Known bugs, planted: the swarm must find each of them. Null ones are harmless changes that it must not report.
//!
//! Those of this file are planted in the world around the engine: in its driver's side of the contract, in clocks and
//! disks. Those of the engine and of the node's own code are in a build with the feature `planted-bugs` only.

use std::fmt;

use crate::scenario::draw::Kind;

/// Makes `Mutant` out of a table of names and descriptions.
macro_rules! mutants {
    ($($name:ident $text:literal)+) => {
        /// A bug planted in the world around the engine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $(#[doc = $text] $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// What it does, in a sentence.
            pub fn describe(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

mutants! {
    PersistedEarly "Records are called durable before they are."
    PromisesForgotten "Promises are not on disk after a restart."
    SyncLies "A sync returns success and does nothing."
    ClocksBeyondBound "Clocks run far beyond the declared bound."
    LeaseUnchecked "Reads look at no lease."
    LeaseCheckedLast "Reads look at the lease after they read, and not before."
    DeposedAnswers "Quorum reads that wait at a master are answered although it lost its mastership."
    ReadBeforeApplied "A quorum read does not wait for the slot that it must see."
    AtLeastUnchecked "A read that must see a slot is answered by a node that has not applied it."
    RangeMixesSlots "A range is read half before and half after other updates are applied."
    WipedNodeVotes "A wiped node is told that it votes."
    GrantsForgotten "A restarted node does not wait out the grants that it may have given."
    StampedLate "Events are stamped with a time that passed long ago."
    UnknownRetried "An update of unknown outcome is proposed again."
    UnknownCalledRefused "An update of unknown outcome is reported as one that did not happen."
    AcknowledgedEarly "An update is acknowledged when it is proposed."
    AcceptanceCountedTwice "An acceptance arrives in another node's name as well."
    ReplaySkipped "The store is not brought to the end of the decided prefix at a restart."
    StoreAheadOfLog "The store is made durable before the log has what it rests on."
    AppliedBeforeData "A durable commit of the store names slots whose data is not in it."
    HeadInPart "A head is installed without some of its keys."
    TrimmedTooFar "A log loses entries that the store has not passed."
    CollapsedTooFar "Segments are removed that the store has passed, but not durably."
    HeadNotAnnounced "A head is taken without a word of it in the log."
    FailedSyncBelieved "A sync that failed is taken for one that succeeded."
    NullLeaseCheckedFirst "Harmless: reads look at the lease once, and give what the store holds later."
    NullPersistedTwice "Harmless: durable batches are reported twice."
    NullTicks "Harmless: ticks come when nothing is due."
}

/// A planted bug, wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// In the world around the engine.
    World(Mutant),
    /// In the engine.
    #[cfg(feature = "planted-bugs")]
    Engine(trialbay_engine::PlantedBug),
    /// In the log, the store or the driver of production.
    #[cfg(feature = "planted-bugs")]
    Node(trialbay::planted::PlantedBug),
}

impl Planted {
    /// All that this build has.
    pub fn all() -> Vec<Self> {
        let all: Vec<Self> = Mutant::ALL.iter().copied().map(Self::World).collect();
        #[cfg(feature = "planted-bugs")]
        let all = {
            let mut all = all;
            all.extend(trialbay_engine::PlantedBug::ALL.iter().copied().map(Self::Engine));
            all.extend(trialbay::planted::PlantedBug::ALL.iter().copied().map(Self::Node));
            all
        };
        all
    }

    /// The one of this name, as [`Planted`] displays it.
    pub fn find(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|planted| planted.to_string() == name)
    }

    /// What it does, in a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Self::World(mutant) => mutant.describe(),
            #[cfg(feature = "planted-bugs")]
            Self::Engine(bug) => bug.describe(),
            #[cfg(feature = "planted-bugs")]
            Self::Node(bug) => bug.describe(),
        }
    }

    /// The swarms that it is hunted with in turn, by the code that it is planted in: those of the core world if it has it.
    pub fn grounds(self) -> &'static [Kind] {
        match self {
            Self::World(_) => &[Kind::Harsh, Kind::Churn],
            #[cfg(feature = "planted-bugs")]
            Self::Engine(_) => &[Kind::Harsh, Kind::Churn],
            #[cfg(feature = "planted-bugs")]
            Self::Node(bug) => match bug.place() {
                place if place.starts_with("io-tokio/src/tlog/") => &[Kind::Losses, Kind::Harsh, Kind::Churn],
                "io-tokio/src/store/apply.rs" => &[Kind::Harsh, Kind::Churn],
                "io-tokio/src/node/serving.rs" => &[Kind::StackPauses, Kind::StackHarsh],
                _ => &[Kind::StackHarsh, Kind::Stack],
            },
        }
    }

    /// Whether it is harmless, and must not be reported.
    pub fn is_null(self) -> bool {
        match self {
            Self::World(mutant) => mutant.name().starts_with("Null"),
            #[cfg(feature = "planted-bugs")]
            Self::Engine(bug) => bug.is_null(),
            #[cfg(feature = "planted-bugs")]
            Self::Node(bug) => bug.is_null(),
        }
    }

    /// Whether an assertion of the engine may stop the node before anybody else can see it.
    pub fn is_asserted(self) -> bool {
        match self {
            Self::World(_) => false,
            #[cfg(feature = "planted-bugs")]
            Self::Engine(bug) => bug.is_asserted(),
            #[cfg(feature = "planted-bugs")]
            Self::Node(_) => false,
        }
    }
}

impl fmt::Display for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::World(mutant) => write!(f, "world/{}", mutant.name()),
            #[cfg(feature = "planted-bugs")]
            Self::Engine(bug) => write!(f, "engine/{}", bug.name()),
            #[cfg(feature = "planted-bugs")]
            Self::Node(bug) => write!(f, "node/{}", bug.name()),
        }
    }
}

/// What is planted in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bugs {
    /// The bug.
    pub planted: Option<Planted>,
    /// Whether assertions of the engine that could stop a node at it are off.
    pub assertions_off: bool,
}

impl Bugs {
    /// None.
    pub const NONE: Self = Self { planted: None, assertions_off: false };

    /// This one.
    pub fn of(planted: Planted) -> Self {
        Self { planted: Some(planted), assertions_off: false }
    }

    /// The one in the world around the engine.
    pub fn in_world(self) -> Option<Mutant> {
        match self.planted {
            Some(Planted::World(mutant)) => Some(mutant),
            #[cfg(feature = "planted-bugs")]
            Some(Planted::Engine(_) | Planted::Node(_)) => None,
            None => None,
        }
    }

    /// The one in the engine.
    #[cfg(feature = "planted-bugs")]
    pub fn in_engine(self) -> Option<trialbay_engine::PlantedBug> {
        if let Some(Planted::Engine(bug)) = self.planted { Some(bug) } else { None }
    }

    /// The one in the code of production around the engine.
    #[cfg(feature = "planted-bugs")]
    pub fn in_node(self) -> Option<trialbay::planted::PlantedBug> {
        if let Some(Planted::Node(bug)) = self.planted { Some(bug) } else { None }
    }
}
