//! A client, and a hub, made by hand: they say and write what they like.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use machnet_channel::{ForeignRegion, Words, ring_words};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind, connect, listen, recv, recvmsg, sendmsg,
    socket_with,
};
use rustix::process::geteuid;

pub(crate) const HELLO_LEN: usize = 16;
pub(crate) const REPLY_LEN: usize = 48;
pub(crate) const MAGIC: u32 = 0x4d53_484d;

/// Sizes of a wire by default.
pub(crate) const DESCRIPTORS: u32 = 1024;
pub(crate) const DATA: usize = 1 << 20;

fn address(name: &str) -> SocketAddrUnix {
    SocketAddrUnix::new_abstract_name(format!("machnet-shm/{}/{name}", geteuid().as_raw()).as_bytes()).unwrap()
}

fn socket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

pub(crate) fn dial(name: &str) -> OwnedFd {
    let socket = socket();
    connect(&socket, &address(name)).unwrap();
    socket
}

pub(crate) fn hello(oldest: u16, newest: u16) -> Vec<u8> {
    let mut bytes = MAGIC.to_ne_bytes().to_vec();
    bytes.extend(oldest.to_ne_bytes());
    bytes.extend(newest.to_ne_bytes());
    bytes.resize(HELLO_LEN, 0);
    bytes
}

/// Sends, with descriptors.
pub(crate) fn say(socket: &OwnedFd, bytes: &[u8], fds: &[&OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// Receives; nothing if the other side has closed.
pub(crate) fn hear(socket: &OwnedFd) -> Vec<u8> {
    let mut bytes = [0; 256];
    let len = recv(socket, &mut bytes[..], RecvFlags::empty()).map_or(0, |(len, _)| len);
    bytes[..len].to_vec()
}

/// A client that has attached in order, and holds the memory.
pub(crate) struct RawClient {
    pub(crate) socket: OwnedFd,
    pub(crate) region: Arc<ForeignRegion>,
    pub(crate) fd: OwnedFd,
}

/// Words of the region.
pub(crate) struct Layout {
    pub(crate) down: usize,
    pub(crate) up: usize,
    pub(crate) descriptors: usize,
    pub(crate) consumed: usize,
    pub(crate) words: usize,
}

impl RawClient {
    pub(crate) const LAYOUT: Layout = Layout {
        down: 0,
        up: ring_words(DESCRIPTORS),
        descriptors: ring_words(DESCRIPTORS) - DESCRIPTORS as usize,
        consumed: 16,
        words: ((2 * ring_words(DESCRIPTORS) * 8).next_multiple_of(4096) + 2 * DATA) / 8,
    };

    pub(crate) fn attach(name: &str) -> Self {
        let socket = dial(name);
        say(&socket, &hello(1, 1), &[]);
        let mut bytes = [0; REPLY_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert_eq!(received.bytes, REPLY_LEN);
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let fd = fd.unwrap();
        let region = Arc::new(ForeignRegion::open(&fd, 8 * Self::LAYOUT.words).unwrap());
        Self { socket, region, fd }
    }

    pub(crate) fn write(&self, word: usize, value: u64) {
        self.region.words()[word].store(value, Relaxed);
    }
}

/// A hub that answers its first caller with `reply`.
pub(crate) fn false_hub(name: &str, reply: Vec<u8>, memory: Option<OwnedFd>) -> std::thread::JoinHandle<OwnedFd> {
    let listener = socket();
    bind(&listener, &address(name)).unwrap();
    listen(&listener, 1).unwrap();
    std::thread::spawn(move || {
        let caller = accept(&listener).unwrap();
        assert_eq!(hear(&caller).len(), HELLO_LEN);
        let memory: Vec<_> = memory.iter().collect();
        say(&caller, &reply, &memory);
        caller
    })
}

/// A hub that never looks.
pub(crate) fn deaf_hub(name: &str) -> OwnedFd {
    let listener = socket();
    bind(&listener, &address(name)).unwrap();
    listen(&listener, 1).unwrap();
    listener
}
