//! Applications that write what they like where they like, beside honest ones: the body of the fuzz target `tenants`.
//!
//! Two engines serve each application, as those of one daemon do. At each of them an honest pair sends messages and opens flows, while
//! two others use their channels as they should, write any word of the shared memory, leave and come back. It must be true that
//!
//! - honest applications are served on, and what they send arrives once, in order and unchanged;
//! - nobody holds more than its quota, over all engines;
//! - who is gone leaves nothing behind: no flow, listener, port or byte is counted for him any more, and no frame is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use machnet_channel::shared::{Incoming, STATUS_BYTES};
use machnet_channel::{FlowOptions, Intent, UNIT, Words as _};

use super::rig::{App, GEOMETRY, MAX_MESSAGE, Rig, peer};
use super::{Account, Claims, Ports, Quota};
use crate::Config;

const ENGINES: usize = 2;
/// Where honest servers listen, each at both engines; liars would like to.
const PORT: u16 = 9000;
const LIARS: usize = 2;
/// Frames of an engine.
const FRAMES: u32 = 512;
/// What an application may hold.
const MEMORY: u64 = 1 << 20;
/// Lengths of messages: pieces are of up to 8 KiB, and a pipe is of 64 KiB.
const SIZES: [usize; 8] = [0, 1, 64, 700, 1500, 8192, 8193, 30_000];
/// Rounds in which everything ends that is to end.
const ROUNDS: usize = 40_000;

/// An honest pair at one engine, and a flow between the two.
struct Pair {
    server: App,
    client: App,
    flow: u32,
    accepted: u32,
    /// Lengths of messages that were begun, and how many came.
    sent: Vec<usize>,
    received: usize,
    /// How far the last one is in the pipe, if it is not in as a whole.
    underway: Option<usize>,
}

/// An application of the other kind, at both engines.
struct Liar {
    account: Arc<Account>,
    apps: [App; ENGINES],
}

struct Field {
    rigs: [Rig; ENGINES],
    claims: Arc<Claims>,
    pairs: Vec<Pair>,
    liars: Vec<Liar>,
    /// Who is gone, and whether his ports were left to the engines.
    gone: Vec<(bool, Arc<Account>)>,
}

/// Runs the operations that `bytes` say.
pub(crate) fn tenants(bytes: &[u8]) {
    let mut field = Field::new();
    // The operations end where the bytes do.
    let _ = field.operate(&mut Unstructured::new(bytes));
    field.finish();
}

fn quota() -> Quota {
    Quota { flows: 16, listeners: 3, memory: MEMORY, ports: Ports::new(vec![0..=0, 8990..=9010]) }
}

fn message(index: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (index * 7 + i / 3) as u8).collect()
}

/// An application, at all engines.
fn attach(rigs: &mut [Rig; ENGINES]) -> (Arc<Account>, [App; ENGINES]) {
    let account = Account::new(rigs.iter_mut().map(Rig::bell).collect());
    let mut number = 0..;
    let apps = rigs.each_mut().map(|rig| {
        let engine = number.next().expect("a number");
        rig.attach_as(quota(), Arc::clone(&account), engine)
    });
    (account, apps)
}

impl Pair {
    /// A message is begun, if there is room for it.
    fn send(&mut self, len: usize) {
        if self.underway.is_none() && self.client.has_room(self.flow) {
            self.sent.push(len);
            self.underway = Some(0);
            self.go_on();
        }
    }

    /// Puts more of the last message into the pipe.
    fn go_on(&mut self) {
        let (Some(from), Some(&len)) = (&mut self.underway, self.sent.last()) else { return };
        if self.client.put(self.flow, &message(self.sent.len() - 1, len), from) {
            self.underway = None;
        }
    }

    /// Both look; what came is what was sent.
    fn look(&mut self) {
        self.go_on();
        self.client.look();
        self.server.look();
        for (slot, known) in &mut self.server.flows {
            for got in known.received.drain(..).filter(|_| *slot == self.accepted) {
                let len = self.sent.get(self.received).copied().expect("nothing comes that was not sent");
                assert!(got == message(self.received, len), "message {}: {} bytes for {len}", self.received, got.len());
                self.received += 1;
            }
        }
        assert!(self.client.is_open(self.flow) && self.server.is_open(self.accepted), "nobody ended the flow");
    }
}

impl Field {
    fn new() -> Self {
        let config = Config {
            receive_window: 64 << 10,
            reassembly_bytes: 8 << 20,
            peer_reassembly_bytes: 2 << 20,
            linger: Duration::from_millis(100),
            ..Config::default()
        };
        let claims = Arc::<Claims>::default();
        let mut rigs = [(); ENGINES].map(|()| Rig::one_of(config, FRAMES, Arc::clone(&claims)));
        let (servers, clients) = (attach(&mut rigs).1, attach(&mut rigs).1);
        let mut pairs = Vec::new();
        for ((rig, mut server), mut client) in rigs.iter_mut().zip(servers).zip(clients) {
            let listener = server.listen(PORT);
            rig.run(&mut [&mut server], |apps| matches!(apps[0].listeners.get(&listener), Some(Ok(_))));
            let flow = client.connect(PORT);
            rig.run(&mut [&mut server, &mut client], |apps| apps[1].is_open(flow) && !apps[0].flows.is_empty());
            let accepted = server.accepted();
            pairs.push(Pair { server, client, flow, accepted, sent: Vec::new(), received: 0, underway: None });
        }
        let mut field = Self { rigs, claims, pairs, liars: Vec::new(), gone: Vec::new() };
        (0..LIARS).for_each(|_| field.invite());
        field
    }

    /// Another liar, who uses his channels as he should so far.
    fn invite(&mut self) {
        let (account, mut apps) = attach(&mut self.rigs);
        for app in &mut apps {
            app.listen(PORT + 1);
            let flow = app.connect(PORT);
            let _ = app.side.put(flow, &[9; 700], &mut 0);
            let _ = app.side.publish();
        }
        self.liars.push(Liar { account, apps });
    }

    fn operate(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        while !u.is_empty() {
            let operation: u8 = u.arbitrary()?;
            let at = usize::from(operation >> 4 & 1);
            let who = usize::from(operation >> 5 & 1);
            match operation & 15 {
                0..=2 => self.rounds(u.int_in_range(1..=8)?, 20),
                3 => self.rounds(1, 1 << u.int_in_range(0..=20)?),
                4..=6 => self.pairs[at].send(SIZES[u.choose_index(SIZES.len())?]),
                7 => self.pairs[at].server.reads ^= true,
                8..=11 => lie(&self.liars[who].apps[at], u)?,
                12 => {
                    // All marks, so that it is looked at.
                    let words = self.liars[who].apps[at].memory.words();
                    words[32..64].iter().for_each(|mark| mark.store(u64::MAX, Relaxed));
                }
                13 | 14 => act(&mut self.liars[who].apps[at], u)?,
                _ => {
                    let liar = self.liars.remove(who);
                    self.leave(&liar, u.arbitrary()?);
                    self.invite();
                }
            }
            self.check();
        }
        Ok(())
    }

    /// Rounds of both engines, each after `us` microseconds.
    fn rounds(&mut self, count: usize, us: u64) {
        for _ in 0..count {
            for (rig, pair) in self.rigs.iter_mut().zip(&mut self.pairs) {
                rig.round(us);
                pair.look();
            }
        }
    }

    /// A liar is gone, from both engines.
    fn leave(&mut self, liar: &Liar, late: bool) {
        let id = liar.apps[0].id;
        if !late {
            // As a daemon does, whatever its engines have heard.
            self.claims.forget(id);
        }
        self.rigs[0].gone(&liar.apps[0]);
        if late {
            self.rounds(3, 20);
        }
        self.rigs[1].gone(&liar.apps[1]);
        self.gone.push((late, Arc::clone(&liar.account)));
    }

    fn check(&mut self) {
        for (rig, pair) in self.rigs.iter_mut().zip(&self.pairs) {
            assert_eq!([rig.end_of(&pair.server), rig.end_of(&pair.client)], [None, None], "honest ones are served");
        }
        for Liar { account, .. } in &self.liars {
            // Each engine may exceed a number by one, and the memory by a message (`account.rs`).
            let [held, flows, listeners] =
                [&account.held, &account.flows, &account.listeners].map(super::account::Sum::get);
            assert!(held * UNIT <= MEMORY + ENGINES as u64 * u64::from(MAX_MESSAGE), "{account:?}");
            assert!(flows < 16 + ENGINES as u64 && listeners < 3 + ENGINES as u64, "{account:?}");
        }
    }

    /// The liars are gone, and the honest get everything.
    fn finish(mut self) {
        for liar in std::mem::take(&mut self.liars) {
            self.leave(&liar, true);
        }
        for _ in 0..ROUNDS {
            self.pairs.iter_mut().for_each(|pair| pair.server.reads = true);
            self.rounds(1, 200);
            let pending = |pair: &Pair| pair.received < pair.sent.len() || pair.underway.is_some();
            let are_left = |rig: &mut Rig| rig.tenants().report().tenants.len() > 2;
            if !self.pairs.iter().any(pending) && !self.rigs.iter_mut().any(are_left) {
                break;
            }
        }
        self.check();
        // Tombstones, and what is acknowledged late.
        self.rounds(200, 100_000);
        // What is on its way from one round to the next.
        self.rounds(8, 20);
        for pair in &self.pairs {
            assert_eq!((pair.received, pair.underway), (pair.sent.len(), None), "everything came");
        }
        for (counts, account) in &self.gone {
            let Account { flows, listeners, held, promised, waiting, .. } = &**account;
            let sums = [flows, held, promised, waiting].map(super::account::Sum::get);
            assert_eq!(sums, [0; 4], "left: flows, held, promised, waiting");
            assert!(listeners.get() == 0 || !counts, "left: {} listeners", listeners.get());
        }
        for port in [PORT + 1, PORT + 2, 49_152, 49_153] {
            assert_eq!(self.claims.claim(port, u64::MAX >> 8), Some(true), "port {port} is free");
        }
        for rig in &mut self.rigs {
            let tenants = rig.tenants().report().tenants;
            assert_eq!(tenants.len(), 2, "{tenants:?}");
            assert_eq!(tenants.iter().map(|tenant| (tenant.held, tenant.waiting)).collect::<Vec<_>>(), [(0, 0); 2]);
            assert_eq!((rig.engine.stats().flows, rig.engine.stats().buffers_in_use), (2, 0));
            rig.check_frames(FRAMES);
        }
    }
}

/// A word of an application's memory is anything.
fn lie(app: &App, u: &mut Unstructured<'_>) -> Result<()> {
    let words = app.memory.words();
    let tables = (GEOMETRY.bytes() - 2 * GEOMETRY.data as usize) / 8;
    // Words before the data, and those behind, which say whether anybody asks.
    let at = usize::from(u.arbitrary::<u16>()?) % (tables + STATUS_BYTES / 8);
    let word = &words[if at < tables { at } else { GEOMETRY.bytes() / 8 + at - tables }];
    match u.int_in_range(0..=6)? {
        0 => word.store(u.arbitrary()?, Relaxed),
        1 => word.store(u64::from(u.arbitrary::<u16>()?), Relaxed),
        2 => word.store(u64::MAX, Relaxed),
        3 => drop(word.fetch_xor(1 << u.int_in_range(0..=63)?, Relaxed)),
        4 => drop(word.fetch_add(u.int_in_range(1..=4)?, Relaxed)),
        5 => drop(word.fetch_sub(1, Relaxed)),
        // What another word says, or said.
        _ => word.store(words[usize::from(u.arbitrary::<u16>()?) % tables].load(Relaxed), Relaxed),
    }
    Ok(())
}

/// Something that an application may do, by one that may have written anything before.
fn act(app: &mut App, u: &mut Unstructured<'_>) -> Result<()> {
    let slot = u.int_in_range(0..=2 * GEOMETRY.flows - 1)?;
    let App { side, .. } = app;
    match u.int_in_range(0..=7)? {
        0 => drop(side.connect(peer(PORT + u16::from(u.arbitrary::<bool>()?)), FlowOptions::new())),
        1 => drop(side.listen([0, PORT, PORT + 1, PORT + 2, 80][u.choose_index(5)?], 4, FlowOptions::new())),
        2 | 3 => {
            let bytes = [7; 20_000];
            let _ = side.put(slot, &bytes[..SIZES[u.choose_index(SIZES.len())?].min(bytes.len())], &mut 0);
        }
        4 => side.set_intent(slot, [Intent::FIN, Intent::STOP, Intent::ABORT][u.choose_index(3)?]),
        5 => side.ask(),
        6 => side.set_consumed(slot, u.int_in_range(0..=1000)?),
        _ => {
            // It takes what came, or some of it.
            for _ in 0..u.int_in_range(1..=8)? {
                let _ = side.next_note();
                let Ok(Some(Incoming::Piece(piece))) = side.peek() else { break };
                side.take(&piece, &mut vec![0; piece.len]);
            }
        }
    }
    let _ = side.publish();
    Ok(())
}
