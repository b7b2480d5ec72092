//! Seats: who has one, who waits, and whose turn it is.
//!
//! A level has its share of all seats. What it does not lend is kept for it; of the rest everybody may take, first those
//! who are below their own share. Within a level, requests of one flow share a hand of queues (shuffle sharding), and the
//! queue that was served least comes next (start-time fair queueing, every request counting the same).
//!
//! Upstream moves borrowed seats every ten seconds; here they move with each request.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::config::{Config, Limits, Queuing};

/// All levels of a server.
pub(super) struct Levels {
    seats: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    levels: BTreeMap<String, Level>,
    next_waiter: u64,
}

/// A limited level.
#[derive(Debug, Default)]
struct Level {
    /// Seats of its own, those of them that it keeps, and the most that it may have.
    nominal: u32,
    least: u32,
    most: u32,
    queuing: Option<Queuing>,
    executing: u32,
    queues: Vec<Queue>,
    /// Where the queue that was served last began.
    virtual_time: u64,
    /// Whether its object is gone: it ends when nobody uses it any more.
    ends: bool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiter>,
    executing: u32,
    /// Where its next request begins.
    start: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    sender: oneshot::Sender<Seat>,
}

/// The right to run one request; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Option<Held>);

#[derive(Debug)]
struct Held {
    levels: Arc<Levels>,
    level: String,
    queue: usize,
}

impl std::fmt::Debug for Levels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Levels").finish_non_exhaustive()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.levels.release(&held.level, held.queue);
        }
    }
}

/// Becomes a seat; leaves its queue when it is dropped before.
pub(super) struct Waiting {
    levels: Arc<Levels>,
    level: String,
    queue: usize,
    id: u64,
    seat: Result<Seat, oneshot::Receiver<Seat>>,
}

impl Future for Waiting {
    type Output = Seat;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Seat> {
        match &mut self.seat {
            Ok(seat) => Poll::Ready(std::mem::replace(seat, Seat(None))),
            Err(receiver) => Pin::new(receiver).poll(context).map(|seat| {
                // A sender goes without a seat only with the levels themselves.
                seat.unwrap_or(Seat(None))
            }),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.seat.is_err() {
            let mut state = self.levels.lock();
            if let Some(queue) =
                state.levels.get_mut(&self.level).and_then(|level| level.queues.get_mut(self.queue))
            {
                queue.waiting.retain(|waiter| waiter.id != self.id);
            }
        }
    }
}

impl Levels {
    /// Shares out so many seats.
    pub(super) fn new(seats: u32) -> Arc<Self> {
        Arc::new(Self { seats, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// Takes over what the objects say.
    pub(super) fn configure(self: &Arc<Self>, config: &Config) {
        let mut state = self.lock();
        state.levels.values_mut().for_each(|level| level.ends = true);
        let limited = || config.levels.iter().filter_map(|level| Some((&level.name, level.limits.as_ref()?)));
        let shares: u64 = limited().map(|(_, limits)| u64::from(limits.shares)).sum();
        for (name, limits) in limited() {
            state.levels.entry(name.clone()).or_default().limit(limits, self.seats, shares.max(1));
        }
        state.levels.retain(|_, level| !level.ends || level.is_used());
        let granted = self.grant(&mut state);
        drop(state);
        deliver(granted);
    }

    /// Takes a seat or a place in a queue; nothing when there is neither.
    pub(super) fn seat(self: &Arc<Self>, name: &str, flow: u64) -> Option<Waiting> {
        let mut state = self.lock();
        let free = self.is_free(&state, name);
        let id = state.next_waiter;
        state.next_waiter += 1;
        let waiting = |queue, seat| Waiting { levels: self.clone(), level: name.to_owned(), queue, id, seat };
        // One that is exempt has no level here.
        let Some(level) = state.levels.get_mut(name) else {
            drop(state);
            return Some(waiting(0, Ok(Seat(None))));
        };
        let queue = level.choose(flow);
        if free && level.waiting() == 0 {
            level.start(queue);
            drop(state);
            return Some(waiting(queue, Ok(self.taken(name, queue))));
        }
        let length = level.queuing.map_or(0, |queuing| queuing.length);
        let now = level.virtual_time;
        let chosen = &mut level.queues[queue];
        if chosen.waiting.len() >= length {
            return None;
        }
        if chosen.waiting.is_empty() && chosen.executing == 0 {
            chosen.start = chosen.start.max(now);
        }
        let (sender, receiver) = oneshot::channel();
        chosen.waiting.push_back(Waiter { id, sender });
        drop(state);
        Some(waiting(queue, Err(receiver)))
    }

    fn taken(self: &Arc<Self>, level: &str, queue: usize) -> Seat {
        Seat(Some(Held { levels: self.clone(), level: level.to_owned(), queue }))
    }

    fn release(self: &Arc<Self>, name: &str, queue: usize) {
        let mut state = self.lock();
        if let Some(level) = state.levels.get_mut(name) {
            level.executing = level.executing.saturating_sub(1);
            if let Some(queue) = level.queues.get_mut(queue) {
                queue.executing = queue.executing.saturating_sub(1);
            }
        }
        let granted = self.grant(&mut state);
        state.levels.retain(|_, level| !level.ends || level.is_used());
        drop(state);
        deliver(granted);
    }

    /// Gives the free seats to those who wait: first to levels below their share.
    fn grant(self: &Arc<Self>, state: &mut State) -> Vec<(Waiter, Seat)> {
        let mut granted = Vec::new();
        loop {
            let waits = |(_, level): &(&String, &Level)| level.waiting() > 0;
            let owed = |level: &Level| level.executing < level.nominal;
            let mut waiting: Vec<_> =
                state.levels.iter().filter(waits).map(|(name, level)| (!owed(level), name.clone())).collect();
            waiting.sort();
            let next = waiting.into_iter().map(|(_, name)| name).find(|name| self.is_free(state, name));
            let Some(name) = next else { return granted };
            let level = state.levels.get_mut(&name).expect("it was just found");
            let queue = level.next_queue().expect("somebody waits");
            let waiter = level.queues[queue].waiting.pop_front().expect("somebody waits in it");
            level.start(queue);
            granted.push((waiter, self.taken(&name, queue)));
        }
    }

    /// Whether a level may take one seat more.
    fn is_free(&self, state: &State, name: &str) -> bool {
        let Some(level) = state.levels.get(name) else { return true };
        if level.executing < level.least {
            return true;
        }
        let taken: u32 = state.levels.values().map(|level| level.executing).sum();
        // What others keep for themselves and do not use now.
        let others = state.levels.iter().filter(|(other, _)| *other != name);
        let kept: u32 = others.map(|(_, other)| other.least.saturating_sub(other.executing)).sum();
        level.executing < level.most && taken + kept < self.seats
    }
}

/// Seats are handed over without the lock: one whose waiter is gone gives itself back.
fn deliver(granted: Vec<(Waiter, Seat)>) {
    for (waiter, seat) in granted {
        let _ = waiter.sender.send(seat);
    }
}

impl Level {
    fn limit(&mut self, limits: &Limits, seats: u32, shares: u64) {
        let part = |whole: u32, percent: u32| (u64::from(whole) * u64::from(percent)).div_ceil(100);
        let own = (u64::from(seats) * u64::from(limits.shares)).div_ceil(shares);
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        self.nominal = small(own);
        self.least = self.nominal - small(part(self.nominal, limits.lendable_percent)).min(self.nominal);
        self.most = match limits.borrowing_percent {
            Some(percent) => self.nominal.saturating_add(small(part(self.nominal, percent))),
            None => seats,
        };
        self.queuing = limits.queuing;
        let queues = limits.queuing.map_or(1, |queuing| queuing.queues);
        while self.queues.len() > queues && self.queues.last().is_some_and(Queue::is_idle) {
            self.queues.pop();
        }
        let queues = self.queues.len().max(queues);
        self.queues.resize_with(queues, Queue::default);
        self.ends = false;
    }

    fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }

    fn is_used(&self) -> bool {
        self.executing > 0 || self.queues.iter().any(|queue| !queue.is_idle())
    }

    /// Chooses the queue of a flow's hand in which least is going on.
    fn choose(&self, flow: u64) -> usize {
        let Some(queuing) = self.queuing else { return 0 };
        let load = |index: &usize| {
            let queue = &self.queues[*index];
            queue.waiting.len() + queue.executing as usize
        };
        hand(flow, queuing.queues, queuing.hand).into_iter().min_by_key(load).unwrap_or(0)
    }

    /// Returns the queue whose turn it is.
    fn next_queue(&self) -> Option<usize> {
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        waiting.min_by_key(|(_, queue)| queue.start).map(|(index, _)| index)
    }

    /// Counts a request that begins.
    fn start(&mut self, queue: usize) {
        self.executing += 1;
        let queue = &mut self.queues[queue];
        queue.executing += 1;
        self.virtual_time = self.virtual_time.max(queue.start);
        queue.start = queue.start.max(self.virtual_time) + 1;
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.executing == 0
    }
}

/// Deals a flow its hand of queues, like cards: no queue twice.
fn hand(flow: u64, queues: usize, size: usize) -> Vec<usize> {
    let mut left = flow;
    let mut dealt: Vec<usize> = Vec::with_capacity(size);
    for index in 0..size.min(queues) {
        let remaining = (queues - index) as u64;
        let mut card = usize::try_from(left % remaining).expect("less than the number of queues");
        left /= remaining;
        let mut before = dealt.clone();
        before.sort_unstable();
        for earlier in before {
            if card >= earlier {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests;
