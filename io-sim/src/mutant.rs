//! Known bugs, planted in the world around the engine: in its driver's side of the contract, in clocks and disks. The swarm
//! must find each of them. Null mutants are harmless changes that it must not report.

/// Makes `Mutant` out of a table of names and descriptions.
macro_rules! mutants {
    ($($name:ident $text:literal)+) => {
        /// A planted bug.
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
    LeaseCheckedFirst "Reads look at the lease before they read, and not before they answer."
    LeaseCheckedLast "Reads look at the lease after they read, and not before."
    ReadBeforeApplied "A quorum read does not wait for the slot that it must see."
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
    FailedSyncBelieved "A sync that failed is taken for one that succeeded."
    NullLeaseCheckedFirst "Harmless: reads look at the lease, and give what the store holds then or later."
    NullPersistedTwice "Harmless: durable batches are reported twice."
    NullTicks "Harmless: ticks come when nothing is due."
}

impl Mutant {
    /// Whether the swarm must not report it.
    pub fn is_null(self) -> bool {
        self.name().starts_with("Null")
    }
}

/// The planted bug of this name.
pub fn find(name: &str) -> Option<Mutant> {
    Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name)
}
