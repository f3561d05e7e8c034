//! The requests of one connection that are under way: begun in order, run together where that changes nothing that a
//! client could see, answered in order.
//!
//! A client may send a write and then, before its reply, a read; the read must see the write. So requests that are under
//! way together are either all updates (which reach the node in the order of their first polls, and keep it) or all
//! reads; where the kind changes, the next request waits for those before it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::reply::Reply;

/// A request under way.
pub(crate) type Execution = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// With which others a request may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    /// With other updates.
    Updates,
    /// With other reads.
    Reads,
    /// With none: it reads and then writes, or it may need much memory.
    Nobody,
}

/// How much of one connection may be under way or wait to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) requests_max: usize,
    pub(crate) bytes_max: usize,
}

/// The requests of one connection that are not answered yet.
pub(crate) struct Pipeline {
    bounds: Bounds,
    entries: VecDeque<Entry>,
    /// The entries before this one have begun.
    begun: usize,
    /// How many of those are not done, and of what kind all of them are.
    running: usize,
    company: Company,
    request_bytes: usize,
    reply_bytes: usize,
}

struct Entry {
    request_bytes: usize,
    company: Company,
    state: State,
}

enum State {
    /// Waits to begin, or is under way.
    Running(Execution),
    Done(Reply),
}

impl Pipeline {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: VecDeque::new(),
            begun: 0,
            running: 0,
            company: Company::Nobody,
            request_bytes: 0,
            reply_bytes: 0,
        }
    }

    /// Whether another request may be added now.
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < self.bounds.requests_max
            && (self.entries.is_empty() || self.request_bytes + self.reply_bytes < self.bounds.bytes_max)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a request of so many bytes. It begins, at the earliest, with the next [`Pipeline::poll`].
    pub(crate) fn push(&mut self, request_bytes: usize, company: Company, execution: Execution) {
        self.request_bytes += request_bytes;
        self.entries.push_back(Entry { request_bytes, company, state: State::Running(execution) });
    }

    /// Adds a reply behind all those that are to come.
    pub(crate) fn push_reply(&mut self, reply: Reply) {
        self.push(0, Company::Nobody, Box::pin(std::future::ready(reply)));
    }

    /// Forgets what has not begun.
    pub(crate) fn drop_waiting(&mut self) {
        for entry in self.entries.drain(self.begun..) {
            self.request_bytes -= entry.request_bytes;
        }
    }

    /// Drives what is under way and begins what may begin. `Ready` while the first reply can be taken.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for index in 0..self.begun {
            // What is under way may end with a long reply each, so while many bytes wait only the first goes on, which
            // the others wait for. They are polled again when replies were taken: whoever takes some polls again.
            if index == 0 || self.reply_bytes < self.bounds.bytes_max {
                self.poll_entry(index, cx);
            }
        }
        while self.may_begin_next() {
            self.company = self.entries[self.begun].company;
            self.begun += 1;
            self.running += 1;
            self.poll_entry(self.begun - 1, cx);
        }
        match self.entries.front() {
            Some(Entry { state: State::Done(_), .. }) => Poll::Ready(()),
            Some(_) | None => Poll::Pending,
        }
    }

    /// Takes the first reply, if it is there.
    pub(crate) fn take_reply(&mut self) -> Option<Reply> {
        let State::Done(_) = self.entries.front()?.state else {
            return None;
        };
        let first = self.entries.pop_front()?;
        let State::Done(reply) = first.state else { return None };
        self.begun -= 1;
        self.request_bytes -= first.request_bytes;
        self.reply_bytes -= reply.len();
        Some(reply)
    }

    fn may_begin_next(&self) -> bool {
        let Some(next) = self.entries.get(self.begun) else {
            return false;
        };
        let fits = self.running == 0 || (self.company == next.company && next.company != Company::Nobody);
        fits && (self.begun == 0 || self.reply_bytes < self.bounds.bytes_max)
    }

    fn poll_entry(&mut self, index: usize, cx: &mut Context<'_>) {
        let entry = &mut self.entries[index];
        let State::Running(execution) = &mut entry.state else {
            return;
        };
        if let Poll::Ready(reply) = execution.as_mut().poll(cx) {
            self.running -= 1;
            self.reply_bytes += reply.len();
            entry.state = State::Done(reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::oneshot;

    use super::*;

    const BOUNDS: Bounds = Bounds { requests_max: 8, bytes_max: 1000 };

    /// A pipeline whose requests say when they begin and end when told.
    struct Scene {
        pipeline: Pipeline,
        begun: Arc<Mutex<Vec<usize>>>,
        ends: Vec<Option<oneshot::Sender<()>>>,
    }

    impl Scene {
        fn of(companies: &[Company]) -> Self {
            let mut scene = Self { pipeline: Pipeline::new(BOUNDS), begun: Arc::default(), ends: Vec::new() };
            for (index, &company) in companies.iter().enumerate() {
                let (end, ended) = oneshot::channel();
                scene.ends.push(Some(end));
                let begun = Arc::clone(&scene.begun);
                let execution = async move {
                    begun.lock().unwrap().push(index);
                    ended.await.unwrap();
                    Reply::string(&[u8::try_from(index).unwrap()])
                };
                scene.pipeline.push(10, company, Box::pin(execution));
            }
            scene
        }

        fn poll(&mut self) -> Vec<usize> {
            let _ = self.pipeline.poll(&mut Context::from_waker(std::task::Waker::noop()));
            self.begun.lock().unwrap().clone()
        }

        fn end(&mut self, index: usize) {
            self.ends[index].take().unwrap().send(()).unwrap();
        }

        fn replies(&mut self) -> Vec<u8> {
            std::iter::from_fn(|| self.pipeline.take_reply()).map(|reply| *reply.pieces()[0].last().unwrap()).collect()
        }
    }

    #[test]
    fn updates_run_together_and_are_answered_in_order() {
        let mut scene = Scene::of(&[Company::Updates; 3]);
        assert_eq!(scene.poll(), [0, 1, 2]);
        scene.end(2);
        scene.end(1);
        scene.poll();
        assert_eq!(scene.replies(), [0; 0]);
        scene.end(0);
        scene.poll();
        assert_eq!(scene.replies(), [0, 1, 2]);
        assert!(scene.pipeline.is_empty());
    }

    #[test]
    fn a_request_of_another_kind_waits_for_all_before_it() {
        use Company::{Nobody, Reads, Updates};
        for (first, second) in
            [(Updates, Reads), (Reads, Updates), (Nobody, Nobody), (Nobody, Updates), (Reads, Nobody)]
        {
            let mut scene = Scene::of(&[first, second, second]);
            assert_eq!(scene.poll(), [0], "{first:?} {second:?}");
            scene.end(0);
            let begun = if second == Nobody { vec![0, 1] } else { vec![0, 1, 2] };
            assert_eq!(scene.poll(), begun, "{first:?} {second:?}");
        }
    }

    #[test]
    fn a_read_waits_for_the_second_of_two_updates_as_well() {
        let mut scene = Scene::of(&[Company::Updates, Company::Updates, Company::Reads]);
        scene.poll();
        scene.end(0);
        assert_eq!(scene.poll(), [0, 1]);
        scene.end(1);
        assert_eq!(scene.poll(), [0, 1, 2]);
    }

    #[test]
    fn what_has_not_begun_can_be_dropped_and_the_rest_is_still_answered() {
        let mut scene = Scene::of(&[Company::Updates, Company::Reads]);
        scene.poll();
        scene.pipeline.drop_waiting();
        scene.pipeline.push_reply(Reply::string(&[9]));
        scene.end(0);
        scene.poll();
        assert_eq!(scene.replies(), [0, 9]);
        assert!(scene.pipeline.has_room());
    }

    #[test]
    fn replies_that_nobody_takes_stop_further_reads() {
        let mut pipeline = Pipeline::new(BOUNDS);
        for _ in 0..3 {
            pipeline.push(1, Company::Reads, Box::pin(async { Reply::string(&[0; 800]) }));
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(pipeline.poll(&mut cx).is_ready());
        assert_eq!((pipeline.begun, pipeline.has_room()), (2, false));
        pipeline.take_reply();
        pipeline.take_reply();
        assert!(pipeline.poll(&mut cx).is_ready());
        assert!(pipeline.has_room());
    }

    #[test]
    fn requests_that_end_at_once_do_not_make_all_their_replies_at_once() {
        let mut pipeline = Pipeline::new(BOUNDS);
        let mut ends = Vec::new();
        for index in 0..8 {
            let (end, ended) = oneshot::channel();
            ends.push(end);
            let execution = async move {
                ended.await.unwrap();
                Reply::string(&[index; 400])
            };
            pipeline.push(1, Company::Updates, Box::pin(execution));
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(pipeline.poll(&mut cx).is_pending());
        let mut ends = ends.into_iter();
        let first = ends.next().unwrap();
        ends.for_each(|end| end.send(()).unwrap());
        assert!(pipeline.poll(&mut cx).is_pending());
        assert!(pipeline.reply_bytes < BOUNDS.bytes_max + 500, "{}", pipeline.reply_bytes);
        first.send(()).unwrap();
        let mut answered = Vec::new();
        while pipeline.poll(&mut cx).is_ready() {
            assert!(pipeline.reply_bytes < BOUNDS.bytes_max + 1_000, "{}", pipeline.reply_bytes);
            answered.extend(std::iter::from_fn(|| pipeline.take_reply()).map(|reply| reply.pieces()[0][8]));
        }
        assert_eq!(answered, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn the_number_and_the_bytes_of_requests_are_bounded() {
        let mut scene = Scene::of(&[Company::Updates; 8]);
        assert!(!scene.pipeline.has_room());
        scene.end(0);
        scene.poll();
        assert_eq!(scene.replies(), [0]);
        assert!(scene.pipeline.has_room());
        scene.pipeline.push(1000, Company::Updates, Box::pin(std::future::pending()));
        assert!(!scene.pipeline.has_room());
    }
}
