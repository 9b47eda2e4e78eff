//! An application, word by word: what `Endpoint::attach` does, without its tasks.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use machnet_channel::shared::{AppSide, Attach, Call, FlowView, Incoming, ListenerView, Note, Refused, Reply, Welcome};
use machnet_channel::{FlowOptions, FlowState, ForeignRegion, Intent, cost_in_units};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, send, socket_with,
};

use crate::stage::until;

pub(crate) type Memory = Arc<ForeignRegion>;

/// A connection to a daemon, on which nothing was said yet.
pub(crate) fn connected(path: &Path) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// Waits for what the daemon says: nothing if it closes.
pub(crate) fn hear(socket: &OwnedFd) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; 1 << 18];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(128))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
    let len = received.map_or(0, |received| received.bytes);
    bytes.truncate(len);
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    (bytes, fds.flatten().collect())
}

/// Says something, and what is answered.
pub(crate) fn ask(path: &Path, message: &[u8]) -> (OwnedFd, Vec<u8>, Vec<OwnedFd>) {
    let socket = connected(path);
    send(&socket, message, SendFlags::NOSIGNAL).unwrap();
    let (answer, fds) = hear(&socket);
    (socket, answer, fds)
}

/// Attaches by the first channel alone, or is refused.
pub(crate) fn attach(path: &Path, attach: Attach) -> Result<Client, Refused> {
    attach_all(path, attach).map(|channels| channels.into_iter().next().expect("a channel"))
}

/// Attaches, or is refused. A client for each channel.
pub(crate) fn attach_all(path: &Path, attach: Attach) -> Result<Vec<Client>, Refused> {
    let (line, answer, mut fds) = ask(path, &Call::Attach(attach).emit());
    match Reply::parse(&answer).unwrap() {
        Reply::Welcome(welcome) => {
            let lines = fds.split_off(welcome.channels as usize);
            let lines = std::iter::once(line).chain(lines);
            let channels: Vec<_> = lines.zip(fds).map(|(line, fd)| Client::new(line, welcome, fd)).collect();
            assert_eq!(channels.len(), welcome.channels as usize);
            Ok(channels)
        }
        Reply::Refused(refused) => Err(refused),
    }
}

/// What an application says that knows of no features.
pub(crate) fn plain() -> Attach {
    Attach { features: 0, ..Attach::new("test".to_owned(), 0) }
}

pub(crate) struct Client {
    pub(crate) line: OwnedFd,
    pub(crate) fd: OwnedFd,
    pub(crate) welcome: Welcome,
    pub(crate) memory: Memory,
    pub(crate) side: AppSide<Memory>,
    pub(crate) flows: BTreeMap<u32, Known>,
    pub(crate) listeners: BTreeMap<u32, Result<SocketAddr, std::io::Error>>,
    taken: BTreeMap<u32, u64>,
    buffer: Vec<u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) view: Option<FlowView>,
    pub(crate) last: Vec<u8>,
    pub(crate) messages: u64,
    pub(crate) posted: u64,
    units: u64,
    pub(crate) ended: Option<FlowState>,
}

impl Client {
    /// Attached, by name.
    pub(crate) fn attached(path: &Path) -> Self {
        attach(path, plain()).unwrap()
    }

    fn new(line: OwnedFd, welcome: Welcome, fd: OwnedFd) -> Self {
        let memory = Arc::new(ForeignRegion::open(&fd, welcome.region_bytes()).unwrap());
        let side = AppSide::new(Arc::clone(&memory), &welcome.geometry, welcome.max_message);
        let side = side.with_status(welcome.has_status());
        let (flows, listeners, taken) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { line, fd, welcome, memory, side, flows, listeners, taken, buffer: vec![0; 1 << 16] }
    }

    /// Shows what was done, and rings if the daemon sleeps.
    pub(crate) fn show(&mut self) {
        if self.side.publish() {
            let _ = send(&self.line, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    pub(crate) fn listen(&mut self, port: u16) -> std::io::Result<SocketAddr> {
        let slot = self.side.listen(port, 64, FlowOptions::new()).unwrap().0;
        self.show();
        until(|| {
            self.look();
            self.listeners.contains_key(&slot)
        });
        match &self.listeners[&slot] {
            Ok(address) => Ok(*address),
            Err(error) => Err(std::io::Error::new(error.kind(), error.to_string())),
        }
    }

    pub(crate) fn connect(&mut self, to: SocketAddr) -> u32 {
        let slot = self.side.connect(to, FlowOptions::new()).unwrap();
        self.flows.insert(slot, Known::default());
        self.show();
        slot
    }

    /// Sends a message if there is room for it.
    pub(crate) fn send(&mut self, slot: u32, message: &[u8]) -> bool {
        let (room, _) = self.side.progress(slot, false);
        let known = self.flows.get_mut(&slot).unwrap();
        let mut from = 0;
        let all = known.posted < room && self.side.put(slot, message, &mut from).unwrap();
        assert!(all || from == 0, "tests send what fits a piece");
        known.posted += if all { cost_in_units(message.len()) } else { 0 };
        self.show();
        all
    }

    pub(crate) fn intend(&mut self, slot: u32, intent: Intent) {
        self.side.set_intent(slot, intent);
        self.show();
    }

    pub(crate) fn state(&self, slot: u32) -> FlowState {
        let known = &self.flows[&slot];
        known.ended.or(known.view.map(|view| view.state)).unwrap_or(FlowState::CONNECTING)
    }

    pub(crate) fn is_open(&self, slot: u32) -> bool {
        self.state(slot).has(FlowState::OPEN)
    }

    /// The flows that were accepted.
    pub(crate) fn accepted(&self) -> Vec<u32> {
        self.flows.keys().copied().filter(|slot| *slot >= self.welcome.geometry.flows).collect()
    }

    /// Looks at everything that the daemon did.
    pub(crate) fn look(&mut self) {
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
        while let Some(incoming) = self.side.peek().unwrap() {
            let piece = match incoming {
                Incoming::Accepted(slot) => {
                    self.adopt(slot);
                    continue;
                }
                Incoming::Piece(piece) => piece,
            };
            self.side.take(&piece, &mut self.buffer[..piece.len]);
            let known = self.flows.get_mut(&piece.slot).unwrap();
            if piece.begins {
                known.last.clear();
            }
            known.last.extend(&self.buffer[..piece.len]);
            if !piece.more {
                known.messages += 1;
                known.units += cost_in_units(known.last.len());
                let units = known.units;
                self.side.set_consumed(piece.slot, units);
                self.look_at(piece.slot);
            }
        }
        self.show();
    }

    fn adopt(&mut self, slot: u32) {
        let accepted = self.side.adopt(slot).unwrap();
        self.flows.insert(slot, Known::default());
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

/// A listening application and one connected to it, with the slots of their flow.
pub(crate) fn pair(path: &Path) -> (Client, Client, u32, u32) {
    let (mut server, mut client) = (Client::attached(path), Client::attached(path));
    let address = server.listen(0).unwrap();
    let flow = client.connect(address);
    until(|| {
        server.look();
        client.look();
        client.is_open(flow) && !server.accepted().is_empty()
    });
    let accepted = server.accepted()[0];
    (server, client, accepted, flow)
}

/// A message there and one back, as often as said; nothing is lost, and all is as it was sent.
pub(crate) fn echo(server: &mut Client, client: &mut Client, accepted: u32, flow: u32, rounds: u64) {
    for n in 0..rounds {
        let message: Vec<u8> = (0..1 + n % 3000).map(|i| (i * 7 + n) as u8).collect();
        pass(client, server, flow, accepted, &message);
        pass(server, client, accepted, flow, &message);
    }
}

fn pass(from: &mut Client, to: &mut Client, sent_on: u32, comes_on: u32, message: &[u8]) {
    let before = to.flows[&comes_on].messages;
    until(|| {
        from.look();
        from.send(sent_on, message)
    });
    until(|| {
        to.look();
        to.flows[&comes_on].messages > before
    });
    assert_eq!(to.flows[&comes_on].messages, before + 1);
    assert!(to.flows[&comes_on].last == message);
}
