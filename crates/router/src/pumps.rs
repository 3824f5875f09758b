//! The sessions of a worker that copy. The kernel tells of all their connections in one list, which the runtime waits for as for one
//! thing: a task that is woken for each packet costs more than the copying (`docs/adr/0008-sessions-of-the-router-are-one-loop.md`).

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData};
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::pump::{Next, Pump, Tools};
use crate::sessions::{Handle, Registered, Why};
use crate::side::TELL;
use crate::worker::Clock;

/// What the kernel tells at once, so that whoever is accepted does not wait for longer than these take.
const EVENTS_AT_ONCE: usize = 256;
/// Not waited for: the runtime has waited.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// Pause when the kernel does not tell, so that it does not become a busy loop.
const FAILED_PAUSE: Duration = Duration::from_millis(20);

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By one of the two.
    Itself,
    /// From outside.
    Outside(Why),
}

/// All of them.
pub(crate) struct Pumps {
    epoll: AsyncFd<OwnedFd>,
    all: RefCell<All>,
}

struct All {
    sessions: Slab<Session>,
    /// Who goes on in the next turn, each once.
    due: Vec<usize>,
    events: Vec<Event>,
    tools: Tools,
}

#[derive(Debug)]
struct Session {
    pump: Pump,
    handle: Rc<Handle>,
    /// It is among those who go on: a second entry would give it a second turn, and so on with each word of the kernel.
    due: bool,
    over: bool,
}

impl Pumps {
    /// None yet. To be made inside the runtime that runs them.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = pgbaton_sys::watched::readable(epoll::create(CreateFlags::CLOEXEC)?)?;
        let events = Vec::with_capacity(EVENTS_AT_ONCE);
        let all = All { sessions: Slab::new(), due: Vec::new(), events, tools: Tools::default() };
        Ok(Self { epoll, all: RefCell::new(all) })
    }

    /// Begins to copy; `first` is what the server has said already.
    pub(crate) fn add(
        self: &Rc<Self>,
        client: TcpStream,
        server: TcpStream,
        first: Vec<u8>,
        registered: Registered,
    ) -> io::Result<Copying> {
        let pump = Pump::new(client.into_std()?, server.into_std()?, first);
        let session = Session { pump, handle: Rc::clone(&registered.handle), due: false, over: false };
        let key = self.all.borrow_mut().sessions.insert(session);
        // From here on it is taken out again whatever happens.
        let copying = Copying { pumps: Rc::clone(self), key, registered };
        let all = self.all.borrow();
        let pump = &all.sessions[key].pump;
        // What is there already is told as well.
        epoll::add(&self.epoll, &pump.client.stream, data(key, Of::Client), TELL)?;
        epoll::add(&self.epoll, &pump.server.stream, data(key, Of::Server), TELL)?;
        drop(all);
        Ok(copying)
    }

    /// Copies, for ever. By the clock it is known who has been quiet.
    pub(crate) async fn run(&self, clock: &Clock) {
        loop {
            if let Err(error) = self.run_until_failed(clock).await {
                tracing::error!(%error, "no session goes on: the kernel does not tell which of them can; restart the router if this is said again");
                sleep(FAILED_PAUSE).await;
            }
        }
    }

    async fn run_until_failed(&self, clock: &Clock) -> io::Result<()> {
        loop {
            let mut ready = self.epoll.readable().await?;
            while self.all.borrow_mut().turn(&self.epoll, clock.tick())? {
                yield_now().await;
            }
            ready.clear_ready();
        }
    }
}

impl All {
    /// Has those go on who can. Whether there may be more, of which the kernel does not tell the runtime again.
    fn turn(&mut self, epoll: &AsyncFd<OwnedFd>, tick: u32) -> io::Result<bool> {
        self.events.clear();
        epoll::wait(epoll, spare_capacity(&mut self.events), Some(&AT_ONCE))?;
        for at in 0..self.events.len() {
            let event = self.events[at];
            let (key, of) = session_of(event.data);
            if let Some(session) = self.sessions.get_mut(key) {
                let side = match of {
                    Of::Client => &mut session.pump.client,
                    Of::Server => &mut session.pump.server,
                };
                side.told(event.flags);
                self.is_due(key);
            }
        }
        let now = self.due.len();
        for at in 0..now {
            self.go_on(self.due[at], tick);
        }
        self.due.drain(..now);
        Ok(self.events.len() == EVENTS_AT_ONCE || !self.due.is_empty())
    }

    fn is_due(&mut self, key: usize) {
        if let Some(session) = self.sessions.get_mut(key).filter(|session| !session.due) {
            session.due = true;
            self.due.push(key);
        }
    }

    fn go_on(&mut self, key: usize, tick: u32) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| !session.over) else { return };
        session.due = false;
        let before = session.pump.bytes();
        let next = session.pump.turn(&mut self.tools);
        if session.pump.bytes() != before {
            session.handle.active(tick);
        }
        match next {
            Next::Waits => {}
            Next::Again => self.is_due(key),
            Next::Over => {
                session.over = true;
                session.handle.wake();
            }
        }
    }
}

/// One of them, until it has ended. It closes its connections when this is dropped.
pub(crate) struct Copying {
    pumps: Rc<Pumps>,
    key: usize,
    registered: Registered,
}

impl Copying {
    /// Bytes from and to the client so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.pumps.all.borrow().sessions[self.key].pump.bytes()
    }
}

impl Future for Copying {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let all = self.pumps.all.borrow();
        let session = &all.sessions[self.key];
        if let Some(why) = self.registered.handle.ended(context) {
            session.pump.reset_at_close();
            return Poll::Ready(Ended::Outside(why));
        }
        if session.over { Poll::Ready(Ended::Itself) } else { Poll::Pending }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        let mut all = self.pumps.all.borrow_mut();
        if all.sessions.remove(self.key).due {
            // The next session may get its key.
            all.due.retain(|key| *key != self.key);
        }
    }
}

/// Which of its two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Client,
    Server,
}

fn data(key: usize, of: Of) -> EventData {
    EventData::new_u64((key as u64) << 1 | u64::from(of == Of::Server))
}

fn session_of(data: EventData) -> (usize, Of) {
    let number = data.u64();
    // Made of a key above.
    let key = usize::try_from(number >> 1).unwrap_or(usize::MAX);
    (key, if number & 1 == 1 { Of::Server } else { Of::Client })
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::sync::{Arc, mpsc};
    use std::thread;

    use rustix::event::{PollFd, PollFlags, poll};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::sync::oneshot;

    use super::*;
    use crate::port::Port;
    use crate::routes::Bound;
    use crate::sessions::Sessions;
    use crate::settings::{Mode, PortSettings};

    /// No answer takes so long.
    const PATIENCE: Duration = Duration::from_secs(20);
    /// What the server has said before the session begins.
    const FIRST: &[u8] = b"first";

    /// A session, from outside.
    struct Outer {
        client: TcpStream,
        server: TcpStream,
        /// Ends it.
        end: Option<oneshot::Sender<Why>>,
        /// How it ended, with its bytes from and to the client.
        ended: mpsc::Receiver<(Ended, (u64, u64))>,
    }

    /// Begins so many sessions on one worker, each with its first word read.
    fn sessions<const N: usize>() -> [Outer; N] {
        let (send, receive) = mpsc::channel();
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
            runtime.block_on(async {
                let pumps = Rc::new(Pumps::new().unwrap());
                let all = Rc::new(Sessions::default());
                let work: Vec<_> = (0..N)
                    .map(|_| {
                        let (outer, work) = session(&pumps, &all);
                        send.send(outer).unwrap();
                        tokio::task::spawn_local(work)
                    })
                    .collect();
                tokio::task::spawn_local(async move { pumps.run(&Clock::default()).await });
                for work in work {
                    work.await.unwrap();
                }
            });
        });
        std::array::from_fn(|_| {
            let mut outer = receive.recv_timeout(PATIENCE).unwrap();
            assert_eq!(read(&mut outer.client, FIRST.len()), FIRST);
            outer
        })
    }

    fn session(pumps: &Rc<Pumps>, all: &Rc<Sessions>) -> (Outer, impl Future<Output = ()> + use<>) {
        let ((client, inner_client), (server, inner_server)) = (connected(), connected());
        let mode = Mode::ReadWrite;
        let (name, listen) = ("rw".to_owned(), String::new());
        let settings = PortSettings { name, listen, mode, accept_proxy: false, send_proxy: false };
        let port = Arc::new(Port::new(settings));
        let bound = Bound { member: "a".parse().unwrap(), address: String::new(), reign: None };
        let registered = all.add(port, Rc::new(bound), 0);
        let mut copying = pumps.add(inner_client, inner_server, FIRST.to_vec(), registered).unwrap();
        let (end, asked) = oneshot::channel();
        let (tell, ended) = mpsc::channel();
        let all = Rc::clone(all);
        let work = async move {
            tokio::task::spawn_local(async move {
                if let Ok(why) = asked.await {
                    all.end(why, |_, _| true);
                }
            });
            let how = (&mut copying).await;
            tell.send((how, copying.bytes())).unwrap();
        };
        (Outer { client, server, end: Some(end), ended }, work)
    }

    /// Both ends of a connection, the second one for the worker.
    fn connected() -> (TcpStream, tokio::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let outer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        outer.set_read_timeout(Some(PATIENCE)).unwrap();
        outer.set_write_timeout(Some(PATIENCE)).unwrap();
        let inner = listener.accept().unwrap().0;
        inner.set_nonblocking(true).unwrap();
        (outer, tokio::net::TcpStream::from_std(inner).unwrap())
    }

    fn read(from: &mut TcpStream, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        from.read_exact(&mut read).unwrap();
        read
    }

    /// Bytes of which none is where another one could be by mistake.
    fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
        (0..bytes).map(|at| ((at + seed).wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
    }

    #[test]
    fn much_more_than_connections_hold_comes_through_both_ways_at_once() {
        const BYTES: usize = 40 << 20;
        let [mut outer] = sessions();
        let (up, down) = (pattern(BYTES, 1), pattern(BYTES, 2));
        thread::scope(|scope| {
            let (mut client, mut server) = (outer.client.try_clone().unwrap(), outer.server.try_clone().unwrap());
            let (sent_up, sent_down) = (&up, &down);
            scope.spawn(move || client.write_all(sent_up).unwrap());
            scope.spawn(move || server.write_all(sent_down).unwrap());
            let (client, server) = (&mut outer.client, &mut outer.server);
            let read_down = scope.spawn(move || read(client, BYTES));
            assert!(read(server, BYTES) == up, "what the server read is not what was sent");
            assert!(read_down.join().unwrap() == down, "what the client read is not what was sent");
        });
        drop(outer.server);
        let (how, bytes) = outer.ended.recv_timeout(PATIENCE).unwrap();
        assert_eq!((how, bytes), (Ended::Itself, (BYTES as u64, (BYTES + FIRST.len()) as u64)));
    }

    #[test]
    fn a_client_that_ends_its_half_hears_the_rest() {
        let [mut outer] = sessions();
        outer.client.write_all(b"last words").unwrap();
        outer.client.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        outer.server.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"last words");
        outer.server.write_all(b"the rest").unwrap();
        drop(outer.server);
        let mut rest = Vec::new();
        outer.client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"the rest");
        assert_eq!(outer.ended.recv_timeout(PATIENCE).unwrap().0, Ended::Itself);
    }

    #[test]
    fn a_reset_is_heard_at_the_other_end() {
        let [mut outer] = sessions();
        crate::connect::reset_at_close(&outer.client);
        drop(outer.client);
        assert_eq!(outer.server.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(outer.ended.recv_timeout(PATIENCE).unwrap().0, Ended::Itself);
    }

    #[test]
    fn both_hear_a_reset_when_it_is_ended_from_outside() {
        let [mut outer] = sessions();
        outer.end.take().unwrap().send(Why::Cut).unwrap();
        for end in [&mut outer.client, &mut outer.server] {
            assert_eq!(end.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        assert_eq!(outer.ended.recv_timeout(PATIENCE).unwrap().0, Ended::Outside(Why::Cut));
    }

    #[test]
    fn a_session_is_answered_beside_one_that_does_not_pause() {
        /// Takes seconds, of which the questions need a small part.
        const MIBS: usize = 8 << 10;
        const QUESTIONS: u8 = 10;
        let [mut busy, mut other] = sessions();
        let sender = thread::spawn(move || {
            let much = vec![0; 1 << 20];
            (0..MIBS).all(|_| busy.server.write_all(&much).is_ok())
        });
        read(&mut busy.client, 64 << 20);
        let mut client = busy.client.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while client.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
        });
        for question in 0..QUESTIONS {
            other.client.write_all(&[question]).unwrap();
            assert_eq!(read(&mut other.server, 1), [question]);
        }
        busy.client.shutdown(Shutdown::Both).unwrap();
        reader.join().unwrap();
        drop(busy.client);
        assert!(!sender.join().unwrap(), "the answers came after the whole transfer");
    }

    #[test]
    fn who_is_due_twice_has_one_turn() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let (pumps, all) = (Rc::new(Pumps::new().unwrap()), Rc::new(Sessions::default()));
            let (mut outer, _work) = session(&pumps, &all);
            // Both connections are told of at once, and the session is due already.
            outer.client.write_all(b"up").unwrap();
            outer.server.write_all(b"down").unwrap();
            let mut all = pumps.all.borrow_mut();
            let key = all.sessions.iter().next().unwrap().0;
            let pump = &all.sessions[key].pump;
            for stream in [&pump.client.stream, &pump.server.stream] {
                // What was written is not there at once on every machine.
                let within = PATIENCE.try_into().unwrap();
                assert_eq!(poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&within)).unwrap(), 1);
            }
            all.is_due(key);
            all.is_due(key);
            assert_eq!(all.due, [key]);
            assert!(!all.turn(&pumps.epoll, 0).unwrap(), "it has more to do");
            assert!(all.due.is_empty());
            assert_eq!(read(&mut outer.server, 2), b"up");
            assert_eq!(read(&mut outer.client, 9), b"firstdown");
        });
    }

    #[test]
    fn a_session_that_ends_leaves_the_others_alone() {
        let [mut first, mut second] = sessions();
        drop(first.server);
        assert_eq!(first.ended.recv_timeout(PATIENCE).unwrap().0, Ended::Itself);
        assert_eq!(first.client.read(&mut [0]).unwrap(), 0);
        second.client.write_all(b"on").unwrap();
        assert_eq!(read(&mut second.server, 2), b"on");
    }
}
