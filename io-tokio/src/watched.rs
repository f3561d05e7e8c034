//! A value that tasks wait for. They wake in the order in which they began to wait: those that wait for tokio's `watch`
//! wake in random order, and a node is to do the same again in the simulator.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A watched value, for the one who changes it.
#[derive(Debug)]
pub struct Sender<T>(Arc<Watched<T>>);

/// A watched value, for those who wait.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Watched<T>>);

/// The sender is gone: the value is what it will be for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Final;

#[derive(Debug)]
struct Watched<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    is_final: bool,
}

/// A value that is watched from now on.
pub fn channel<T: Copy>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T: Copy> Sender<T> {
    /// A value that nobody waits for yet.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Watched { state: Mutex::new(State { value, is_final: false }), changed: Notify::new() }))
    }

    /// Somebody more who can wait.
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver(self.0.clone())
    }

    /// Changes the value.
    pub fn set(&self, value: T) {
        self.0.lock().value = value;
        self.0.changed.notify_waiters();
    }

    /// Changes the value to one that depends on it; gives that.
    pub fn update(&self, next: impl FnOnce(T) -> T) -> T {
        let value = {
            let mut state = self.0.lock();
            state.value = next(state.value);
            state.value
        };
        self.0.changed.notify_waiters();
        value
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().is_final = true;
        self.0.changed.notify_waiters();
    }
}

impl<T: Copy> Receiver<T> {
    /// The value now.
    pub fn get(&self) -> T {
        self.0.lock().value
    }

    /// Waits until the value is one of these.
    ///
    /// # Errors
    /// When it never will be.
    pub async fn wait_for(&self, is_it: impl Fn(T) -> bool) -> Result<(), Final> {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // Before the look: what changes after that is not missed.
            changed.as_mut().enable();
            {
                let state = self.0.lock();
                if is_it(state.value) {
                    return Ok(());
                }
                if state.is_final {
                    return Err(Final);
                }
            }
            changed.await;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Watched<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Whatever panics under the lock leaves the value as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn waiters_wake_in_the_order_in_which_they_came() {
        let (sender, receiver) = channel(0);
        let (woken, mut order) = tokio::sync::mpsc::unbounded_channel();
        let mut waiters = JoinSet::new();
        for number in 0..100 {
            let (receiver, woken) = (receiver.clone(), woken.clone());
            waiters.spawn(async move {
                receiver.wait_for(|value| value == 1).await.unwrap();
                woken.send(number).unwrap();
            });
            tokio::task::yield_now().await;
        }
        assert_eq!(sender.update(|value| value + 1), 1);
        waiters.join_all().await;
        drop(woken);
        for expected in 0..100 {
            assert_eq!(order.recv().await, Some(expected));
        }
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_sender_unless_the_value_is_there() {
        let (sender, receiver) = channel(7);
        let waiting = tokio::spawn({
            let receiver = receiver.clone();
            async move { receiver.wait_for(|value| value == 8).await }
        });
        tokio::task::yield_now().await;
        drop(sender);
        assert_eq!(waiting.await.unwrap(), Err(Final));
        assert_eq!(receiver.wait_for(|value| value == 7).await, Ok(()));
        assert_eq!(receiver.get(), 7);
    }
}
