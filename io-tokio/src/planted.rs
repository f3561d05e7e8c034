//! Known bugs, for the simulator to find: one is chosen in the options of what has it, `TlogOptions`, the store's
//! `Options` or `NodeOptions`.
//!
//! They exist only with the feature `planted-bugs`. Without it `planted!` is `false`, and the compiler drops what it guards.

/// Whether one of these planted bugs is the chosen one.
#[cfg(feature = "planted-bugs")]
macro_rules! planted {
    ($chosen:expr, $($bug:ident)|+) => {
        matches!($chosen, Some($($crate::planted::PlantedBug::$bug)|+))
    };
}

/// Without the feature no bug is.
#[cfg(not(feature = "planted-bugs"))]
macro_rules! planted {
    ($chosen:expr, $($bug:ident)|+) => {
        false
    };
}

#[cfg(feature = "planted-bugs")]
trialbay_engine::planted_bugs! {
    MiddleTakenForEnd "io-tokio/src/tlog/scan.rs" bug
        "A damaged record in the middle of a segment passes for its end, and what follows is cut off."
    TornTailLeft "io-tokio/src/tlog/mod.rs" bug "A torn tail stays in place, and the log goes on behind it."
    SyncErrorBelieved "io-tokio/src/tlog/segment.rs" bug "A sync that failed is tried again, and believed."
    SyncLeftOut "io-tokio/src/tlog/segment.rs" bug "A group of records is called durable without a sync."
    NameNotSynced "io-tokio/src/tlog/segment.rs" bug "The name of a new segment is not made durable."
    DecidedBelieved "io-tokio/src/tlog/recovery.rs" bug
        "The last Decided record is believed beyond what the log holds."
    DamageForgiven "io-tokio/src/tlog/recovery.rs" bug "A node that has lost records keeps its vote."
    LostTailForgiven "io-tokio/src/tlog/recovery.rs" bug "A log that ends before its store keeps the node's vote."
    AppliedApart "io-tokio/src/store/database.rs" bug
        "The applied slot follows the data in a transaction of its own, which a power cut may take."
    FailedKept "io-tokio/src/store/apply.rs" bug "An update that fails leaves what it wrote before that."
    AheadOfLog "io-tokio/src/store/thread.rs" bug "The store is made durable ahead of what it was logged by."
    RangeMixed "io-tokio/src/store/reader.rs" bug "Each entry of a range comes from the newest state, not from one snapshot."
    LeaseCheckedFirst "io-tokio/src/node/serving.rs" bug
        "Whether the node serves is not looked at again after the snapshot of a read was taken."
    DeposedAnswers "io-tokio/src/node/driver.rs" bug "Quorum reads that wait at a master are answered although it lost its mastership."
    NullHeaderUnsynced "io-tokio/src/tlog/segment.rs" null
        "A new segment's header becomes durable with the first group behind it, and not before."
    NullSealedAlways "io-tokio/src/tlog/mod.rs" null "Every group is sealed at once."
    NullFlushedAlways "io-tokio/src/store/thread.rs" null "The store is made durable as often as its log allows."
}
