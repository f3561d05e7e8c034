//! Known bugs, for the simulator to find: one is chosen by `Config::planted`, for one node.
//!
//! They exist only with the feature `planted-bugs`. Without it `planted!` is `false`, and the compiler drops what it guards.

/// Whether one of these planted bugs is chosen in this configuration.
#[cfg(feature = "planted-bugs")]
macro_rules! planted {
    ($config:expr, $($bug:ident)|+) => {
        matches!($config.planted, Some($($crate::planted::PlantedBug::$bug)|+))
    };
}

/// Without the feature no bug is.
#[cfg(not(feature = "planted-bugs"))]
macro_rules! planted {
    ($config:expr, $($bug:ident)|+) => {
        false
    };
}

/// As `assert!`, for what a planted bug may break without making the rest meaningless: such an assertion can be
/// switched off, to see whether checkers outside the engine find the bug as well.
#[cfg(feature = "planted-bugs")]
macro_rules! invariant {
    ($config:expr, $holds:expr, $($story:tt)+) => {
        assert!($config.assertions_off || $holds, $($story)+)
    };
}

/// As `assert!`.
#[cfg(not(feature = "planted-bugs"))]
macro_rules! invariant {
    ($config:expr, $holds:expr, $($story:tt)+) => {
        assert!($holds, $($story)+)
    };
}

/// Makes `PlantedBug` out of a table of names, files, kinds and descriptions.
///
/// The kinds are `bug`; `asserted`, a bug at which an assertion stops the node before anybody else can see it; and `null`,
/// a harmless change that must not be reported.
#[cfg(feature = "planted-bugs")]
#[macro_export]
macro_rules! planted_bugs {
    ($(#[$attribute:meta])* $($name:ident $place:literal $kind:ident $description:literal)+) => {
        /// A planted bug.
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum PlantedBug {
            $(#[doc = $description] $name,)+
        }

        impl PlantedBug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name, as it stands in the code.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// What it does, in a sentence.
            pub fn describe(self) -> &'static str {
                match self { $(Self::$name => $description,)+ }
            }

            /// The file that it is planted in.
            pub fn place(self) -> &'static str {
                match self { $(Self::$name => $place,)+ }
            }

            /// Whether it is harmless, and must not be reported.
            pub fn is_null(self) -> bool {
                self.kind() == "null"
            }

            /// Whether an assertion may stop the node before anybody else can see the bug.
            pub fn is_asserted(self) -> bool {
                self.kind() == "asserted"
            }

            fn kind(self) -> &'static str {
                match self { $(Self::$name => stringify!($kind),)+ }
            }
        }
    };
}

#[cfg(feature = "planted-bugs")]
planted_bugs! {
    #[derive(bincode::Encode, bincode::Decode)]
    PromiseBeforeFsync "engine/src/acceptor.rs" bug "A promise is sent before it is durable."
    AcceptedBeforeFsync "engine/src/acceptor.rs" bug "An acceptance is acknowledged before it is durable."
    PromiseBelowPromise "engine/src/acceptor.rs" asserted "A candidate below the promised ballot is promised too."
    AcceptBelowPromise "engine/src/acceptor.rs" asserted "Values of a ballot below the promised one are accepted."
    PromiseInsideLease "engine/src/acceptor.rs" bug "A candidate is promised while another node's lease runs."
    PromiseToOneBehind "engine/src/acceptor.rs" bug "A candidate that lacks decided slots is promised."
    ResentAcceptIgnored "engine/src/acceptor.rs" bug
        "A value sent again in a newer ballot is acknowledged, and the older entry kept."
    StaleTakenForNew "engine/src/acceptor.rs" bug
        "What was accepted in an older ballot passes for what the new master proposed."
    HashNotCompared "engine/src/acceptor.rs" bug
        "As ResentAcceptIgnored, and the history hash that would tell of it is not compared."
    StalePromiseCounted "engine/src/campaign.rs" bug "A promise of an earlier ballot counts for this one."
    HighestBallotIgnored "engine/src/campaign.rs" bug
        "A new master proposes what it accepted itself, whatever others accepted in higher ballots."
    BallotReusedAfterRestart "engine/src/engine.rs" bug "A restarted node forgets its own ballots, and may use one again."
    RestartedGrantForgotten "engine/src/engine.rs" bug "A restarted node does not wait for the grants of its earlier run."
    HalfIsQuorum "engine/src/quorum.rs" bug "Half of the voters, rounded down, are a quorum."
    NoopOverChosen "engine/src/master.rs" bug
        "A new master fills with no-ops the slots in which only others accepted something."
    ServesTooSoon "engine/src/master.rs" bug "A new master serves before it has applied what it inherited."
    AcceptanceCountedTwice "engine/src/master.rs" bug "A repeated acknowledgement counts for another slave."
    OldAcceptanceCounted "engine/src/campaign.rs" bug
        "What a slave accepted in older ballots, as its promise says, counts as accepted in this one."
    OwnUndurableCounted "engine/src/master.rs" bug "A master counts itself before its own record is durable."
    LeaseFromReply "engine/src/master.rs" bug "A master counts its lease from the answer instead of the asking."
    NoDriftMargin "engine/src/master.rs" bug "A master counts the whole lease, as if clocks did not drift."
    LeaseWithoutQuorum "engine/src/master.rs" bug "A master's lease needs no grants but its own."
    UnknownCalledRefused "engine/src/master.rs" bug
        "An update that was proposed and may happen yet is refused as one that did not happen."
    ReadWithoutRound "engine/src/master.rs" bug "A quorum read is served without a quorum's answer."
    ReadMissesInherited "engine/src/master.rs" bug "A new master's quorum read does not wait for what it inherited."
    HandOverKeepsLease "engine/src/master.rs" bug "A master that stops resigns, and serves on until it has stopped."
    SentTooFar "engine/src/catch_up.rs" bug "Catch-up hands out one entry more than is decided."
    NoCatchUp "engine/src/catch_up.rs" bug "A node that is behind does not fetch what it lacks."
    WipedNodeVotes "engine/src/recall.rs" bug "A node that has lost its memory votes at once."
    VoteRegainedTooSoon "engine/src/recall.rs" bug
        "A wiped node votes once it has asked all others, before it holds what they accepted."
    LearnerCounted "engine/src/master.rs" bug "What a learner acknowledges counts for a voter that lags."
    WitnessCampaigns "engine/src/campaign.rs" bug "A witness campaigns, and others promise it their votes."
    WitnessGivesHead "engine/src/catch_up.rs" bug "A witness is asked for a head, and has nothing in it."
    DropKeepsLease "engine/src/hand_over.rs" bug "A master that is dropped resigns, and serves on until its lease is over."
    NullSmallMessages "engine/src/master.rs" null "Each value is sent in a message of its own."
    NullFrequentHeartbeats "engine/src/master.rs" null "Heartbeats are sent four times as often."
    NullSentAgain "engine/src/master.rs" null "With each heartbeat everything not acknowledged is sent again."
    NullHalfLease "engine/src/master.rs" null "A master counts only half of its lease."
    NullAcknowledgedTwice "engine/src/acceptor.rs" null "Each acceptance is acknowledged twice."
}
