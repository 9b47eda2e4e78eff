//! The async layer against an engine played by hand: every wake, every result, nothing but the channel in between.

mod api;
mod messages;
mod states;
mod streams;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::executor::block_on;
use machnet_channel::{CloseReason, Doorbell, FlowState, Frame, Intake, Intent, Message};
use machnet_core::{AppChannel, Capabilities, Driver, Hint, ListenSlot, LocalChannel, RxPacket, Slot, TxPacket};

use crate::datapath::{Datapath, EngineHandle, Outcome};
use crate::{Config, Endpoint, Flow, FlowError, IdlePolicy, Listener, SendErrorReason};

const LIMIT: usize = 1000;

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// An endpoint whose engine is the test.
pub(crate) struct Rig {
    channel: LocalChannel,
    intake: Arc<Intake>,
}

impl Rig {
    pub(crate) fn new() -> (Endpoint, Self) {
        let handle = EngineHandle::new(Intake::new(), addr(1), LIMIT, Duration::ZERO);
        let intake = Arc::clone(handle.intake());
        (Endpoint::on(vec![handle]), Self { channel: LocalChannel::new(Arc::clone(&intake)), intake })
    }

    fn set_state(&mut self, slot: Slot, state: FlowState) {
        self.channel.set_state(slot, state);
        self.channel.end_round();
    }

    pub(crate) fn deliver(&mut self, slot: Slot, message: &'static str) {
        self.channel.deliver(slot, Message::from(message).into());
        self.channel.end_round();
    }

    fn room(&mut self, slot: Slot, units: u64) {
        self.channel.set_progress(slot, units, 0);
        self.channel.end_round();
    }

    fn next_connect(&mut self) -> Slot {
        match self.channel.next_hint() {
            Some(Hint::Connect(slot, _)) => slot,
            other => panic!("{other:?}"),
        }
    }

    fn next_listen(&mut self) -> ListenSlot {
        match self.channel.next_hint() {
            Some(Hint::Listen(slot, _)) => slot,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn flow(&mut self, endpoint: &Endpoint) -> (Flow, Slot) {
        let mut connect = Task::new(endpoint.connect(addr(2)));
        assert!(connect.poll().is_pending());
        let slot = self.next_connect();
        self.channel.set_local(slot, addr(77));
        self.room(slot, 100);
        self.set_state(slot, FlowState::OPEN);
        let Poll::Ready(Ok(flow)) = connect.poll() else { panic!("not connected") };
        (flow, slot)
    }

    fn listener(&mut self, endpoint: &Endpoint) -> (Listener, ListenSlot) {
        let mut listen = Task::new(endpoint.listen(0));
        assert!(listen.poll().is_pending());
        let slot = self.next_listen();
        self.channel.set_listening(slot, Ok(addr(99)));
        let Poll::Ready(Ok(listener)) = listen.poll() else { panic!("not listening") };
        (listener, slot)
    }
}

/// A future with a waker that counts.
struct Task<F> {
    future: Pin<Box<F>>,
    wakes: Arc<Wakes>,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<F: Future> Task<F> {
    fn new(future: F) -> Self {
        Self { future: Box::pin(future), wakes: Arc::default() }
    }

    fn poll(&mut self) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    fn woken(&self) -> usize {
        self.wakes.0.swap(0, Ordering::Relaxed)
    }
}

fn ready<T>(poll: Poll<T>) -> T {
    match poll {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("pending"),
    }
}

#[test]
fn connect_waits_for_the_handshake_and_knows_both_addresses() {
    let (endpoint, mut rig) = Rig::new();
    let mut connect = Task::new(endpoint.connect(addr(2)));
    assert!(connect.poll().is_pending());
    let slot = rig.next_connect();
    rig.channel.end_round();
    assert_eq!(connect.woken(), 0);
    rig.channel.set_local(slot, addr(77));
    rig.set_state(slot, FlowState::OPEN);
    assert_eq!(connect.woken(), 1);
    let flow = ready(connect.poll()).unwrap();
    assert_eq!((flow.local_addr(), flow.peer_addr(), flow.max_message_size()), (addr(77), addr(2), LIMIT));
}

#[test]
fn connect_fails_with_the_kind_of_the_reason() {
    for (reason, kind) in [
        (CloseReason::Refused, ErrorKind::ConnectionRefused),
        (CloseReason::ConnectTimeout, ErrorKind::TimedOut),
        (CloseReason::Unreachable, ErrorKind::HostUnreachable),
        (CloseReason::DaemonGone, ErrorKind::NetworkDown),
        (CloseReason::DaemonSilent, ErrorKind::NetworkDown),
        (CloseReason::NoRoom, ErrorKind::ResourceBusy),
        (CloseReason::Version, ErrorKind::Unsupported),
    ] {
        let (endpoint, mut rig) = Rig::new();
        let mut connect = Task::new(endpoint.connect(addr(2)));
        assert!(connect.poll().is_pending());
        let slot = rig.next_connect();
        rig.set_state(slot, FlowState::CONNECTING.closed(reason));
        let error = ready(connect.poll()).unwrap_err();
        assert_eq!(error.kind(), kind);
        let source = error.get_ref().unwrap().downcast_ref::<FlowError>().unwrap();
        assert_eq!((source.reason(), source.peer()), (reason, addr(2)));
    }
    let (endpoint, _rig) = Rig::new();
    assert_eq!(block_on(endpoint.connect(addr(0))).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn dropping_connect_gives_the_flow_up() {
    let (endpoint, mut rig) = Rig::new();
    drop(endpoint.connect(addr(2)));
    assert!(rig.channel.next_hint().is_none(), "not polled, not begun");
    let mut connect = Task::new(endpoint.connect(addr(2)));
    assert!(connect.poll().is_pending());
    let slot = rig.next_connect();
    assert_eq!(rig.channel.intent(slot), Intent::default());
    drop(connect);
    assert_eq!(rig.channel.intent(slot), Intent::FIN.with(Intent::STOP));
    assert_eq!(rig.channel.next_hint(), Some(Hint::Flow(slot)));
}

#[test]
fn send_waits_for_room_and_is_all_or_nothing() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    rig.room(slot, 2);
    block_on(flow.send("one")).unwrap();
    let mut send = Task::new(flow.send("two"));
    assert!(send.poll().is_pending());
    rig.room(slot, 2);
    assert_eq!(send.woken(), 1, "woken, though there is no more room");
    assert!(send.poll().is_pending());
    rig.room(slot, 3);
    assert_eq!(send.woken(), 1);
    // Dropped on the brink: nothing of it was sent.
    drop(send);
    block_on(flow.send("three")).unwrap();
    let sent: Vec<_> = std::iter::from_fn(|| rig.channel.take(slot)).collect();
    assert_eq!(sent, ["one", "three"]);
}

#[test]
fn a_message_over_the_limit_comes_back_and_the_flow_goes_on() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    let error = block_on(flow.send(vec![7; LIMIT + 1])).unwrap_err();
    assert_eq!(error.reason(), SendErrorReason::TooLarge { len: LIMIT + 1, limit: LIMIT });
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("limit of 1000 bytes"));
    assert_eq!(error.into_message(), vec![7; LIMIT + 1]);
    block_on(flow.send(vec![7; LIMIT])).unwrap();
    assert_eq!(rig.channel.take(slot).unwrap().len(), LIMIT);
}

#[test]
fn a_waiting_send_hears_that_the_peer_stopped_and_that_the_flow_is_over() {
    for (state, kind) in [
        (FlowState::OPEN.with(FlowState::WRITE_ENDED), ErrorKind::BrokenPipe),
        (FlowState::OPEN.closed(CloseReason::Finished), ErrorKind::BrokenPipe),
        (FlowState::OPEN.closed(CloseReason::Reset), ErrorKind::ConnectionReset),
        (FlowState::OPEN.closed(CloseReason::PeerDead), ErrorKind::TimedOut),
        (FlowState::OPEN.closed(CloseReason::Shutdown), ErrorKind::NotConnected),
    ] {
        let (endpoint, mut rig) = Rig::new();
        let (mut flow, slot) = rig.flow(&endpoint);
        rig.room(slot, 0);
        let mut send = Task::new(flow.send("late"));
        assert!(send.poll().is_pending());
        rig.set_state(slot, state);
        assert_eq!(send.woken(), 1);
        let error = ready(send.poll()).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.into_message(), "late");
    }
}

#[test]
fn after_finish_sending_fails_and_receiving_goes_on() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    block_on(flow.send("last")).unwrap();
    flow.finish();
    assert_eq!(rig.channel.intent(slot), Intent::FIN);
    let error = block_on(flow.send("later")).unwrap_err();
    assert_eq!((error.reason(), error.kind()), (SendErrorReason::Finished, ErrorKind::BrokenPipe));
    rig.deliver(slot, "reply");
    assert_eq!(block_on(flow.recv()).unwrap().unwrap(), "reply");
}

#[test]
fn recv_is_woken_once_per_round_and_ends_with_none() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    let mut recv = Task::new(async { (flow.recv().await, flow.recv().await, flow.recv().await, flow.recv().await) });
    assert!(recv.poll().is_pending());
    rig.channel.deliver(slot, Message::from("a").into());
    rig.channel.deliver(slot, Message::new().into());
    rig.set_state(slot, FlowState::OPEN.with(FlowState::READ_ENDED));
    assert_eq!(recv.woken(), 1);
    let (a, b, c, d) = ready(recv.poll());
    assert_eq!(a.unwrap().unwrap(), "a");
    assert_eq!(b.unwrap().unwrap(), "");
    assert!(c.unwrap().is_none() && d.unwrap().is_none());
}

#[test]
fn what_arrived_before_the_flow_failed_comes_before_the_error() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    rig.deliver(slot, "arrived");
    rig.set_state(slot, FlowState::OPEN.closed(CloseReason::Reset));
    rig.channel.release(slot);
    rig.channel.end_round();
    assert_eq!(block_on(flow.recv()).unwrap().unwrap(), "arrived");
    for _ in 0..2 {
        assert_eq!(block_on(flow.recv()).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_flow_that_the_endpoint_ended_fails() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    rig.deliver(slot, "arrived");
    rig.room(slot, 0);
    let mut shutdown = Task::new(endpoint.shutdown());
    assert!(shutdown.poll().is_pending());
    assert_eq!(block_on(flow.send("late")).unwrap_err().kind(), ErrorKind::NotConnected);
    // The engine finished and stopped for the application; only the peer's FIN is an end of the stream.
    rig.set_state(slot, FlowState::OPEN.with(FlowState::FIN_ACKED).closed(CloseReason::Finished));
    assert_eq!(block_on(flow.recv()).unwrap().unwrap(), "arrived");
    assert_eq!(block_on(flow.recv()).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(block_on(flow.send("late")).unwrap_err().kind(), ErrorKind::NotConnected);
    block_on(flow.close()).unwrap();
}

#[test]
fn close_says_fin_and_stop_and_waits_for_the_acknowledgement() {
    let (endpoint, mut rig) = Rig::new();
    let (mut flow, slot) = rig.flow(&endpoint);
    block_on(flow.send("last")).unwrap();
    let mut close = Task::new(flow.close());
    assert_eq!(rig.channel.intent(slot), Intent::FIN.with(Intent::STOP));
    assert!(close.poll().is_pending());
    assert_eq!(rig.channel.take(slot).unwrap(), "last");
    rig.channel.set_progress(slot, 100, 2);
    rig.set_state(slot, FlowState::OPEN.with(FlowState::FIN_ACKED));
    assert_eq!(close.woken(), 1);
    ready(close.poll()).unwrap();
}

#[test]
fn close_tells_if_the_flow_failed_before_the_acknowledgement() {
    let open = FlowState::OPEN;
    for (state, kind) in [
        (open.closed(CloseReason::Finished), None),
        (open.with(FlowState::FIN_ACKED).closed(CloseReason::Reset), None),
        (open.closed(CloseReason::Reset), Some(ErrorKind::ConnectionReset)),
        (open.closed(CloseReason::Aborted), Some(ErrorKind::ConnectionAborted)),
    ] {
        let (endpoint, mut rig) = Rig::new();
        let (flow, slot) = rig.flow(&endpoint);
        let mut close = Task::new(flow.close());
        assert!(close.poll().is_pending());
        rig.set_state(slot, state);
        assert_eq!(ready(close.poll()).err().map(|e| e.kind()), kind);
    }
}

#[test]
fn halves_work_apart_and_fit_only_their_own() {
    let (endpoint, mut rig) = Rig::new();
    let ((a, slot), (b, _)) = (rig.flow(&endpoint), rig.flow(&endpoint));
    let ((mut send, recv), (_, stranger)) = (a.into_split(), b.into_split());
    block_on(send.send("x")).unwrap();
    let crate::ReuniteError(send, _) = Flow::reunite(send, stranger).unwrap_err();
    let flow = Flow::reunite(send, recv).unwrap();
    assert_eq!(rig.channel.intent(slot), Intent::default());
    let (send, recv) = flow.into_split();
    drop(recv);
    assert_eq!(rig.channel.intent(slot), Intent::STOP);
    drop(send);
    assert_eq!(rig.channel.intent(slot), Intent::FIN.with(Intent::STOP));
}

#[test]
fn listen_errors_name_the_port() {
    let (endpoint, mut rig) = Rig::new();
    let mut listen = Task::new(endpoint.listen(4242));
    assert!(listen.poll().is_pending());
    let slot = rig.next_listen();
    rig.channel.set_listening(slot, Err(&ErrorKind::AddrInUse.into()));
    assert_eq!(listen.woken(), 1);
    let error = ready(listen.poll()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains("127.0.0.1:4242"), "{error}");
}

#[test]
fn accept_hands_over_flows_and_dropping_it_loses_none() {
    let (endpoint, mut rig) = Rig::new();
    let (mut listener, slot) = rig.listener(&endpoint);
    assert_eq!(listener.local_addr(), addr(99));
    let mut accept = Task::new(listener.accept());
    assert!(accept.poll().is_pending());
    rig.channel.accept(slot, addr(99), addr(5));
    rig.channel.end_round();
    assert_eq!(accept.woken(), 1);
    drop(accept);
    let (flow, peer) = block_on(listener.accept()).unwrap();
    assert_eq!((flow.local_addr(), flow.peer_addr(), peer), (addr(99), addr(5), addr(5)));
    drop(listener);
    assert_eq!(rig.channel.next_hint(), Some(Hint::Unlisten(slot)));
}

#[test]
fn the_last_handle_of_any_kind_asks_the_engine_to_end() {
    let (endpoint, mut rig) = Rig::new();
    let (flow, _) = rig.flow(&endpoint);
    let (listener, _) = rig.listener(&endpoint);
    let clone = endpoint.clone();
    drop(endpoint);
    drop(clone);
    assert!(!rig.intake.is_closing());
    drop(listener);
    let (send, recv) = flow.into_split();
    drop(send);
    assert!(!rig.intake.is_closing());
    drop(recv);
    assert!(rig.intake.is_closing());
}

#[test]
fn an_engine_that_dies_leaves_nobody_waiting() {
    let handle = EngineHandle::new(Intake::new(), addr(1), LIMIT, Duration::ZERO);
    let channel = LocalChannel::new(Arc::clone(handle.intake()));
    let endpoint = Endpoint::on(vec![Arc::clone(&handle)]);
    let mut rig = Rig { channel, intake: Arc::clone(handle.intake()) };
    let (mut flow, slot) = rig.flow(&endpoint);
    let (mut listener, _) = rig.listener(&endpoint);
    rig.room(slot, 0);
    let (mut send_half, mut recv_half) = flow.into_split();
    let mut send = Task::new(send_half.send("x"));
    let mut recv = Task::new(recv_half.recv());
    let mut accept = Task::new(listener.accept());
    // These two the engine never meets.
    let mut connect = Task::new(endpoint.connect(addr(3)));
    let mut listen = Task::new(endpoint.listen(0));
    let mut shutdown = Task::new(endpoint.shutdown());
    assert!(send.poll().is_pending() && recv.poll().is_pending() && accept.poll().is_pending());
    assert!(connect.poll().is_pending() && listen.poll().is_pending() && shutdown.poll().is_pending());

    drop(rig);
    handle.end();
    assert_eq!(
        (send.woken(), recv.woken(), accept.woken(), connect.woken(), listen.woken(), shutdown.woken()),
        (1, 1, 1, 1, 1, 1)
    );
    assert_eq!(ready(send.poll()).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(ready(recv.poll()).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(ready(accept.poll()).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(ready(connect.poll()).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(ready(listen.poll()).unwrap_err().kind(), ErrorKind::NotConnected);
    ready(shutdown.poll()).unwrap();

    // And nobody begins to wait.
    assert_eq!(block_on(endpoint.connect(addr(3))).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(block_on(endpoint.listen(1)).unwrap_err().kind(), ErrorKind::NotConnected);
    (flow, _) = match Flow::reunite(send_half, recv_half) {
        Ok(flow) => (flow, ()),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(block_on(flow.close()).unwrap_err().kind(), ErrorKind::NotConnected);
}

/// A driver on which nothing ever happens, unless it blows up.
#[derive(Debug)]
struct Silence {
    capabilities: Capabilities,
    blows_up: bool,
}

impl Silence {
    fn new(blows_up: bool) -> Self {
        Self { capabilities: Capabilities::minimal(1232), blows_up }
    }
}

impl Driver for Silence {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn home(&self) -> SocketAddr {
        addr(1)
    }
    fn open(&mut self, port: u16) -> std::io::Result<SocketAddr> {
        Ok(addr(port))
    }
    fn close(&mut self, _port: u16) {}
    fn split(self, drivers: usize) -> std::io::Result<Vec<Self>> {
        Ok((1..=drivers).map(|n| Self::new(self.blows_up && n == drivers)).collect())
    }
    fn frame(&mut self) -> Option<Frame> {
        None
    }
    fn rx_burst(&mut self, _out: &mut Vec<RxPacket>, _max: usize) -> usize {
        assert!(!self.blows_up, "boom");
        0
    }
    fn tx_burst(&mut self, batch: &mut std::collections::VecDeque<TxPacket>) -> usize {
        std::mem::take(batch).len()
    }
    fn set_bell(&mut self, _bell: Arc<Doorbell>) {}
    fn starve(&mut self) -> bool {
        assert!(!self.blows_up, "boom");
        false
    }
}

#[test]
fn the_thread_ends_after_shutdown_whatever_its_idle_policy() {
    let brief = IdlePolicy::YieldThenPark { yield_for: Duration::from_micros(10) };
    for idle in [IdlePolicy::Spin, IdlePolicy::default(), brief, IdlePolicy::Park] {
        let endpoint = Endpoint::builder().driver(Silence::new(false)).idle(idle).start().unwrap();
        block_on(endpoint.shutdown()).unwrap();
        block_on(endpoint.clone().shutdown()).unwrap();
        assert_eq!(block_on(endpoint.connect(addr(3))).unwrap_err().kind(), ErrorKind::NotConnected);
    }
}

#[test]
fn the_thread_ends_by_itself_after_the_last_handle() {
    let datapath = Datapath {
        driver: Silence::new(false),
        config: Config::default(),
        idle: IdlePolicy::Park,
        thread_name: String::new(),
        core: None,
        recv_spin: Duration::ZERO,
    };
    let handle = datapath.start().unwrap();
    let ended = handle.ended();
    drop(handle);
    assert_eq!(block_on(ended), Outcome::Finished);
}

#[test]
fn a_panic_of_the_engine_reaches_who_waits() {
    let endpoint = Endpoint::builder().driver(Silence::new(true)).idle(IdlePolicy::Park).start().unwrap();
    assert_eq!(block_on(endpoint.connect(addr(3))).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(block_on(endpoint.shutdown()).unwrap_err().kind(), ErrorKind::Other);
}

/// Its endpoint goes on with the flows that other engines have, and takes no others.
#[test]
fn a_panic_of_one_engine_of_several_ends_neither_the_others_nor_in_silence() {
    let endpoint = Endpoint::builder().driver(Silence::new(true)).engines(3).start().unwrap();
    while !endpoint.is_closing() {
        std::thread::yield_now();
    }
    for _ in 0..6 {
        assert_eq!(block_on(endpoint.connect(addr(3))).unwrap_err().kind(), ErrorKind::NotConnected);
    }
    assert_eq!(block_on(endpoint.listen(7)).unwrap_err().kind(), ErrorKind::NotConnected);
    // All three end, and the last to end is none that has to wait for the one that is gone.
    assert_eq!(block_on(endpoint.shutdown()).unwrap_err().kind(), ErrorKind::Other);
}

#[test]
fn start_refuses_what_cannot_be() {
    for core in [CORES, CORES * 100] {
        let error = Endpoint::builder().driver(Silence::new(false)).pin_to_core(core).start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().starts_with(&format!("cannot pin the engine to core {core}; ")), "{error}");
    }
    let error = Endpoint::builder().driver(Silence::new(false)).thread_name("a\0b").start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn the_thread_has_its_name_and_its_core() {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let core = (0..CORES).rfind(|&core| allowed.is_set(core)).unwrap();
    let builder = Endpoint::builder().driver(Silence::new(false)).thread_name("its-own-name").pin_to_core(core);
    let endpoint = builder.start().unwrap();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let found = tasks
        .map(|task| task.unwrap().path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == "its-own-name"));
    let status = std::fs::read_to_string(found.unwrap().join("status")).unwrap();
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    assert_eq!(cores.trim(), core.to_string());
    block_on(endpoint.shutdown()).unwrap();
}

/// More cores than a test machine has.
const CORES: usize = 1000;

#[test]
fn handles_may_be_shared_and_sent() {
    fn anywhere<T: Send + Sync + Unpin + 'static>() {}
    anywhere::<Endpoint>();
    anywhere::<Listener>();
    anywhere::<Flow>();
    anywhere::<crate::SendHalf>();
    anywhere::<crate::RecvHalf>();
    anywhere::<crate::SendError>();
    anywhere::<Config>();
    fn sendable<T: Send>() {}
    sendable::<crate::future::Connect>();
    sendable::<crate::future::Listen>();
    sendable::<crate::future::Send<'_>>();
    sendable::<crate::future::Recv<'_>>();
    sendable::<crate::future::Close>();
    sendable::<crate::future::Shutdown>();
}
