//! The sessions of one worker, so that those on a server that is not the one any more can be ended at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use crate::port::Port;
use crate::routes::Bound;

/// Why a session was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its server is not the one any more, or nothing is known for too long.
    Cut,
    /// Nothing was said for too long.
    Idle,
    /// The router stops.
    Stop,
}

/// What others may do to a session.
#[derive(Debug, Default)]
pub(crate) struct Handle {
    end: Cell<Option<Why>>,
    waker: RefCell<Option<Waker>>,
    /// In which tick of the worker it last copied something.
    active: Cell<u32>,
}

impl Handle {
    /// Has it ended when it is polled next, which is at once.
    pub(crate) fn end(&self, why: Why) {
        self.end.set(Some(why));
        self.wake();
    }

    /// Has it polled.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether it is to end. Otherwise it is woken when that changes, or it has ended by itself.
    pub(crate) fn ended(&self, context: &Context<'_>) -> Option<Why> {
        if self.end.get().is_none() {
            let mut waker = self.waker.borrow_mut();
            if waker.as_ref().is_none_or(|known| !known.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
        }
        self.end.get()
    }

    /// It has copied something.
    pub(crate) fn active(&self, tick: u32) {
        self.active.set(tick);
    }

    fn quiet_since(&self, tick: u32) -> u32 {
        tick.wrapping_sub(self.active.get())
    }
}

/// One session among others.
#[derive(Debug)]
struct Entry {
    port: Arc<Port>,
    bound: Rc<Bound>,
    handle: Rc<Handle>,
}

/// All sessions of a worker.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    next: Cell<u64>,
    entries: RefCell<BTreeMap<u64, Entry>>,
}

impl Sessions {
    /// Adds one; it is gone when what is given back is dropped.
    pub(crate) fn add(self: &Rc<Self>, port: Arc<Port>, bound: Rc<Bound>, tick: u32) -> Registered {
        let number = self.next.get();
        self.next.set(number + 1);
        let handle = Rc::new(Handle::default());
        handle.active(tick);
        self.entries.borrow_mut().insert(number, Entry { port, bound, handle: Rc::clone(&handle) });
        Registered { sessions: Rc::clone(self), number, handle }
    }

    /// Ends those that may not go on.
    pub(crate) fn end(&self, why: Why, mut ends: impl FnMut(&Arc<Port>, &Bound) -> bool) {
        for entry in self.entries.borrow().values().filter(|entry| ends(&entry.port, &entry.bound)) {
            entry.handle.end(why);
        }
    }

    /// Ends those that have been quiet for that many ticks.
    pub(crate) fn end_idle(&self, tick: u32, ticks: u32) {
        for entry in self.entries.borrow().values().filter(|entry| entry.handle.quiet_since(tick) > ticks) {
            entry.handle.end(Why::Idle);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.borrow().len()
    }
}

/// A session that is among the others.
#[derive(Debug)]
pub(crate) struct Registered {
    sessions: Rc<Sessions>,
    number: u64,
    /// What others may do to it.
    pub(crate) handle: Rc<Handle>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sessions.entries.borrow_mut().remove(&self.number);
    }
}
