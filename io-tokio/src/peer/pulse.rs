//! Pulses: how a sender knows that its peer still hears it.
//!
//! A connection can be dead without a sign: packets vanish in one direction or both, and the kernel takes bytes for
//! minutes. So the receiver tells at intervals, on the otherwise silent way back, how many bytes it has read:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | 1 while the receiver waits for room in its inbox and therefore does not read; otherwise 0 |
//! | 8 | bytes read since the handshake, `u64` little-endian |
//!
//! The sender hangs up when for too long no pulse came, or when too many came in a row that showed no progress although
//! something was sent. (Pulses are counted there, not timed: after a pause of its own, a sender finds old ones waiting.)

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::MissedTickBehavior;

use super::PeerTiming;

const PULSE_LEN: usize = 9;

/// What a receiver has to tell in its pulses.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    pub(super) read: AtomicU64,
    pub(super) waiting: AtomicBool,
}

impl Hearing {
    /// Sends pulses for ever.
    ///
    /// # Errors
    /// When the connection breaks; that is the only way this ends.
    pub(super) async fn tell(&self, to: &mut (impl AsyncWrite + Unpin), interval: Duration) -> io::Error {
        let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut pulse = [0; PULSE_LEN];
            pulse[0] = u8::from(self.waiting.load(Ordering::Relaxed));
            pulse[1..].copy_from_slice(&self.read.load(Ordering::Relaxed).to_le_bytes());
            let told = async {
                to.write_all(&pulse).await?;
                to.flush().await
            };
            if let Err(error) = told.await {
                return error;
            }
        }
    }
}

/// Why a sender hangs up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unheard {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error("the peer gave no sign for {0:?}")]
    Silent(Duration),
    #[error("the peer reads nothing of what it is sent, as its last {0} signs of life show")]
    Deaf(u32),
}

/// Listens to a receiver's pulses for as long as they show that it hears what was sent: `sent` bytes since the handshake,
/// counted when the stream has taken them.
pub(super) async fn watch(from: &mut (impl AsyncRead + Unpin), sent: &AtomicU64, timing: &PeerTiming) -> Unheard {
    let pulses_max = timing.silence_max.div_duration_f64(timing.pulse_interval).max(2.0) as u32;
    let (mut pulses, mut read) = (0, 0);
    loop {
        let mut pulse = [0; PULSE_LEN];
        match tokio::time::timeout(timing.silence_max, from.read_exact(&mut pulse)).await {
            Err(_) => return Unheard::Silent(timing.silence_max),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Unheard::Closed,
            Ok(Err(error)) => return Unheard::Broken(error),
            Ok(Ok(_)) => {}
        }
        let [waiting, read_now @ ..] = pulse;
        let read_now = u64::from_le_bytes(read_now);
        if waiting != 0 || read_now > read || read_now >= sent.load(Ordering::Relaxed) {
            (pulses, read) = (0, read_now);
        } else {
            pulses += 1;
            if pulses >= pulses_max {
                return Unheard::Deaf(pulses);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: PeerTiming = PeerTiming {
        connect_max: Duration::ZERO,
        handshake_max: Duration::ZERO,
        pulse_interval: Duration::from_millis(250),
        silence_max: Duration::from_secs(2),
        backoff_min: Duration::ZERO,
        backoff_max: Duration::ZERO,
        flush_max: Duration::ZERO,
    };

    async fn pulse(to: &mut (impl AsyncWrite + Unpin), waiting: bool, read: u64) {
        let mut bytes = vec![u8::from(waiting)];
        bytes.extend(read.to_le_bytes());
        to.write_all(&bytes).await.unwrap();
    }

    /// Sends the pulses that `pulses` gives for 0, 1, 2 and so on, at the proper interval, to a sender of `sent` bytes.
    async fn watched(sent: u64, pulses: impl Fn(u64) -> Option<(bool, u64)>) -> Unheard {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let sent = AtomicU64::new(sent);
        let sending = async {
            let mut ticks = tokio::time::interval(TIMING.pulse_interval);
            for number in 0.. {
                ticks.tick().await;
                match pulses(number) {
                    Some((waiting, read)) => pulse(&mut far, waiting, read).await,
                    None => break,
                }
            }
            far
        };
        tokio::select! {
            unheard = watch(&mut near, &sent, &TIMING) => unheard,
            far = sending => { drop(far); watch(&mut near, &sent, &TIMING).await }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_gives_no_pulse_is_silent() {
        let (mut near, _far) = tokio::io::duplex(64);
        let unheard = watch(&mut near, &AtomicU64::new(0), &TIMING).await;
        assert!(matches!(unheard, Unheard::Silent(_)), "{unheard:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_of_what_was_sent_is_deaf() {
        let unheard = watched(100, |_| Some((false, 60))).await;
        assert!(matches!(unheard, Unheard::Deaf(8)), "{unheard:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_read_all_or_reads_on_or_waits_for_room_is_kept() {
        for pulses in [|_| (false, 1000), |number| (false, number), |_| (true, 0)] {
            let unheard = watched(1000, |number| (number < 24).then(|| pulses(number))).await;
            assert!(matches!(unheard, Unheard::Closed), "{unheard:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pulses_tell_what_was_read() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let hearing = Hearing { read: 7.into(), waiting: true.into() };
        let mut bytes = [0; PULSE_LEN];
        tokio::select! {
            error = hearing.tell(&mut near, Duration::from_secs(1)) => panic!("{error}"),
            read = far.read_exact(&mut bytes) => { read.unwrap(); }
        }
        assert_eq!(bytes, [1, 7, 0, 0, 0, 0, 0, 0, 0]);
    }
}
