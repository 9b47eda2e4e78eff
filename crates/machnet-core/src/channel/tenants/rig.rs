//! An engine, its tenants, and applications that a test plays.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use machnet_channel::shared::{AppSide, DaemonSide, FlowView, Geometry, Incoming, ListenerView, Note, STATUS_BYTES};
use machnet_channel::{
    Doorbell, FlowOptions, FlowState, ForeignRegion, Frame, FramePool, Intent, Region, cost_in_units,
};

use super::{Account, Arrival, Claims, Ended, Gate, News, Ports, Quota, Report, Tenants};
use crate::{Capabilities, Config, Driver, Engine, Hairpin, Instant, RxPacket, TxPacket};

pub(super) const HOME: &str = "10.0.0.1:5000";
pub(super) const MAX_MESSAGE: u32 = 1 << 20;
pub(super) const GEOMETRY: Geometry =
    Geometry { flows: 64, listeners: 4, descriptors: 64, data: 64 << 10, max_piece: 8192 };

pub(super) type Memory = Arc<ForeignRegion>;

/// A device that nothing leaves and nothing comes in by.
pub(super) struct Nic {
    capabilities: Capabilities,
    pool: FramePool,
    pub(super) open: BTreeMap<u16, u32>,
}

impl Driver for Nic {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn home(&self) -> SocketAddr {
        HOME.parse().unwrap()
    }
    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        let free = || (49_152..).find(|port| !self.open.contains_key(port)).expect("a free port");
        let port = if port == 0 { free() } else { port };
        *self.open.entry(port).or_default() += 1;
        Ok(SocketAddr::new(self.home().ip(), port))
    }
    fn close(&mut self, port: u16) {
        let count = self.open.get_mut(&port).expect("an open port");
        *count -= 1;
        if *count == 0 {
            self.open.remove(&port);
        }
    }
    fn frame(&mut self) -> Option<Frame> {
        self.pool.take()
    }
    fn is_short_of_frames(&self) -> bool {
        self.pool.free() < self.pool.capacity() / 2
    }
    fn rx_burst(&mut self, _: &mut Vec<RxPacket>, _: usize) -> usize {
        0
    }
    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        let n = batch.len();
        batch.clear();
        n
    }
    fn set_bell(&mut self, _: Arc<Doorbell>) {}
    fn starve(&mut self) -> bool {
        false
    }
}

/// A gate that a test opens.
pub(super) struct Door {
    pub(super) news: VecDeque<News<Memory>>,
    pub(super) rings: BTreeMap<u64, u64>,
    pub(super) dismissed: Vec<(u64, Ended)>,
    pub(super) closing: bool,
    bell: Arc<Doorbell>,
}

impl Gate for Door {
    type Words = Memory;

    fn has_news(&self) -> bool {
        !self.news.is_empty()
    }
    fn next(&mut self) -> Option<News<Memory>> {
        self.news.pop_front()
    }
    fn ring(&mut self, tenant: u64) {
        *self.rings.entry(tenant).or_default() += 1;
    }
    fn dismiss(&mut self, tenant: u64, why: &Ended, _: Box<DaemonSide<Memory>>) {
        self.dismissed.push((tenant, *why));
    }
    fn report(&mut self, _: Report) {}
    fn is_closing(&self) -> bool {
        self.closing
    }
    fn bell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.bell)
    }
}

pub(super) struct Rig {
    pub(super) engine: Engine<Hairpin<Nic>, Tenants<Door>>,
    pub(super) now: Instant,
    next: u64,
}

/// A port of the only host.
pub(super) fn peer(port: u16) -> SocketAddr {
    SocketAddr::new(HOME.parse::<SocketAddr>().unwrap().ip(), port)
}

pub(super) fn quota() -> Quota {
    Quota { flows: 64, listeners: 4, memory: 8 << 20, ports: Ports::new(vec![1000..=9999]) }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(super) fn with(config: Config) -> Self {
        Self::one_of(config, 4096, Arc::default())
    }

    /// With so many frames, and ports that other rigs know of.
    pub(super) fn one_of(config: Config, frames: u32, claims: Arc<Claims>) -> Self {
        let config = Config { max_message: MAX_MESSAGE, ..config };
        let pool = Region::anonymous(2048, frames).unwrap().1;
        let nic = Nic { capabilities: Capabilities::minimal(1472), pool, open: BTreeMap::new() };
        let door = Door {
            news: VecDeque::new(),
            rings: BTreeMap::new(),
            dismissed: Vec::new(),
            closing: false,
            bell: Arc::new(Doorbell::new()),
        };
        let tenants = Tenants::one_of(door, claims).unwrap();
        let engine = Engine::new(Hairpin::alone(nic), tenants, config, [7; 32]).unwrap();
        Self { engine, now: Instant::ZERO, next: 1 }
    }

    pub(super) fn tenants(&mut self) -> &mut Tenants<Door> {
        self.engine.channel_mut()
    }

    /// The engine's bell.
    pub(super) fn bell(&mut self) -> Arc<Doorbell> {
        self.tenants().gate().bell()
    }

    /// Lets an application in.
    pub(super) fn attach(&mut self, quota: Quota) -> App {
        self.attach_as(quota, Account::new(Vec::new()), 0)
    }

    /// Lets an application in that engines with other rigs serve, too.
    pub(super) fn attach_as(&mut self, quota: Quota, account: Arc<Account>, engine: u8) -> App {
        let region = Arc::new(ForeignRegion::create("test", GEOMETRY.bytes() + STATUS_BYTES).unwrap().0);
        let side = DaemonSide::new(Arc::clone(&region), &GEOMETRY, MAX_MESSAGE).with_status(true);
        let (id, slots) = (self.next, (GEOMETRY.flows, GEOMETRY.listeners));
        self.next += 1;
        let arrival = Arrival { id, side, slots, max_message: MAX_MESSAGE, quota, account, engine };
        self.tenants().gate_mut().news.push_back(News::Came(Box::new(arrival)));
        App::new(id, region)
    }

    pub(super) fn gone(&mut self, app: &App) {
        self.tenants().gate_mut().news.push_back(News::Gone(app.id));
    }

    /// A round, after `us` microseconds.
    pub(super) fn round(&mut self, us: u64) {
        self.now += Duration::from_micros(us);
        let _ = self.engine.poll(self.now);
    }

    /// No frame is lost, of so many.
    pub(super) fn check_frames(&mut self, frames: u32) {
        let stats = self.engine.stats();
        let free: Vec<Frame> = std::iter::from_fn(|| self.engine.driver_mut().frame()).collect();
        assert_eq!(free.len() as u64 + stats.build_frames_waiting, u64::from(frames), "{stats:?}");
    }

    /// Rounds until `done`, each followed by a look of every application.
    pub(super) fn run(&mut self, apps: &mut [&mut App], mut done: impl FnMut(&mut [&mut App]) -> bool) {
        for _ in 0..20_000 {
            if done(apps) {
                return;
            }
            self.round(20);
            for app in apps.iter_mut() {
                app.look();
            }
        }
        panic!("it never happens");
    }

    /// Why an application is no longer served.
    pub(super) fn end_of(&mut self, app: &App) -> Option<Ended> {
        let dismissed = &self.tenants().gate().dismissed;
        dismissed.iter().find(|(id, _)| *id == app.id).map(|(_, why)| *why)
    }
}

/// An application that does as it should, and what it was told.
pub(super) struct App {
    pub(super) id: u64,
    pub(super) memory: Memory,
    pub(super) side: AppSide<Memory>,
    pub(super) flows: BTreeMap<u32, Known>,
    pub(super) listeners: BTreeMap<u32, Result<SocketAddr, io::Error>>,
    /// It reads what comes.
    pub(super) reads: bool,
    taken: BTreeMap<u32, u64>,
    buffer: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) view: Option<FlowView>,
    pub(super) received: Vec<Vec<u8>>,
    pub(super) bytes: u64,
    pub(super) messages: u64,
    units: u64,
    posted: u64,
    partial: Vec<u8>,
    pub(super) keep: bool,
    pub(super) ended: Option<FlowState>,
}

impl App {
    fn new(id: u64, memory: Memory) -> Self {
        let side = AppSide::new(Arc::clone(&memory), &GEOMETRY, MAX_MESSAGE).with_status(true);
        let (flows, listeners, taken) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { id, memory, side, flows, listeners, reads: true, taken, buffer: vec![0; 1 << 16] }
    }

    pub(super) fn listen(&mut self, port: u16) -> u32 {
        let slot = self.side.listen(port, 64, FlowOptions::new()).unwrap().0;
        let _ = self.side.publish();
        slot
    }

    pub(super) fn connect(&mut self, port: u16) -> u32 {
        let slot = self.side.connect(peer(port), FlowOptions::new()).unwrap();
        self.flows.insert(slot, Known { keep: true, ..Known::default() });
        let _ = self.side.publish();
        slot
    }

    pub(super) fn state(&self, slot: u32) -> FlowState {
        let known = &self.flows[&slot];
        known.ended.or(known.view.map(|view| view.state)).unwrap_or(FlowState::CONNECTING)
    }

    pub(super) fn is_open(&self, slot: u32) -> bool {
        self.state(slot).has(FlowState::OPEN)
    }

    /// The flow that was accepted, if there is just one.
    pub(super) fn accepted(&self) -> u32 {
        *self.flows.keys().find(|slot| **slot >= GEOMETRY.flows).expect("an accepted flow")
    }

    /// True if the flow takes another message.
    pub(super) fn has_room(&mut self, slot: u32) -> bool {
        self.flows[&slot].posted < self.side.progress(slot, false).0
    }

    /// Puts a message into the pipe, from where the last attempt ended. True if all of it is in.
    pub(super) fn put(&mut self, slot: u32, message: &[u8], from: &mut usize) -> bool {
        let all = self.side.put(slot, message, from).unwrap();
        self.flows.get_mut(&slot).unwrap().posted += if all { cost_in_units(message.len()) } else { 0 };
        let _ = self.side.publish();
        all
    }

    /// Sends a message if there is room for it, in the flow and in the pipe.
    pub(super) fn send(&mut self, slot: u32, message: &[u8]) -> bool {
        if !self.has_room(slot) {
            return false;
        }
        let mut from = 0;
        let all = self.put(slot, message, &mut from);
        assert!(all || from == 0, "tests send what fits a pipe, or retry from the beginning");
        all
    }

    /// Sends a message, letting the engine run until all of it is in the pipe.
    pub(super) fn send_all(&mut self, rig: &mut Rig, slot: u32, message: &[u8]) {
        let mut from = 0;
        for _ in 0..100_000 {
            if self.put(slot, message, &mut from) {
                return;
            }
            rig.round(20);
        }
        panic!("no room for ever");
    }

    pub(super) fn intend(&mut self, slot: u32, intent: Intent) {
        self.side.set_intent(slot, intent);
        let _ = self.side.publish();
    }

    /// Does what an application does when it is awake.
    pub(super) fn look(&mut self) {
        while let Some(note) = self.side.next_note().unwrap() {
            match note {
                Note::Accepted(slot) => self.adopt(slot),
                Note::Flow(slot) => self.look_at(slot),
                Note::Listener(slot) => match self.side.listener(slot).unwrap() {
                    ListenerView::Opening => {}
                    ListenerView::Listening(address) => drop(self.listeners.insert(slot, Ok(address))),
                    ListenerView::Refused(error) => drop(self.listeners.insert(slot, Err(error))),
                    ListenerView::Released => drop(self.listeners.remove(&slot)),
                },
            }
        }
        while self.reads {
            let piece = match self.side.peek().unwrap() {
                None => break,
                Some(Incoming::Accepted(slot)) => {
                    self.adopt(slot);
                    continue;
                }
                Some(Incoming::Piece(piece)) => piece,
            };
            self.side.take(&piece, &mut self.buffer[..piece.len]);
            let known = self.flows.get_mut(&piece.slot).unwrap();
            if piece.begins {
                known.partial.clear();
            }
            known.partial.extend(&self.buffer[..piece.len]);
            if piece.more {
                continue;
            }
            let message = std::mem::take(&mut known.partial);
            known.messages += 1;
            known.bytes += message.len() as u64;
            known.units += cost_in_units(message.len());
            let units = known.units;
            if known.keep {
                known.received.push(message);
            }
            self.side.set_consumed(piece.slot, units);
            self.look_at(piece.slot);
        }
        let _ = self.side.publish();
    }

    fn adopt(&mut self, slot: u32) {
        let accepted = self.side.adopt(slot).unwrap();
        self.flows.insert(slot, Known { keep: true, ..Known::default() });
        let taken = self.taken.entry(accepted.listener.0).or_default();
        *taken += 1;
        self.side.set_taken(accepted.listener.0, *taken);
        self.look_at(slot);
    }

    fn look_at(&mut self, slot: u32) {
        let Some(known) = self.flows.get_mut(&slot).filter(|known| known.ended.is_none()) else { return };
        let view = self.side.flow(slot).unwrap();
        known.view = Some(view);
        if view.released && known.messages == view.delivered {
            known.ended = Some(view.state);
            self.side.done(slot);
        }
    }
}
