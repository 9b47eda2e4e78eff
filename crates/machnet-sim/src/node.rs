//! What an application on a simulated host uses: the mailboxes of `machnet-channel`, as futures.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut;
use machnet_channel::{
    Accepted, Backlog, BacklogConsumer, CloseReason, FlowOptions, FlowState, Intake, Mailbox, Message, RecvEnd, SendEnd,
};

use crate::executor::Handle;

/// An application's view of the engine of its host, and of the world's clock.
#[derive(Clone, Debug)]
pub struct Node {
    home: SocketAddr,
    intake: Arc<Intake>,
    handle: Handle,
}

impl Node {
    pub(crate) const fn new(home: SocketAddr, intake: Arc<Intake>, handle: Handle) -> Self {
        Self { home, intake, handle }
    }

    /// The address flows leave from.
    #[must_use]
    pub const fn home(&self) -> SocketAddr {
        self.home
    }

    /// The address of `port` on this host.
    #[must_use]
    pub const fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.home.ip(), port)
    }

    /// The seam itself.
    #[must_use]
    pub const fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    /// Connects a flow.
    ///
    /// # Errors
    /// Why it did not open.
    pub async fn connect(&self, to: SocketAddr) -> Result<Flow, CloseReason> {
        self.connect_with(to, FlowOptions::new()).await
    }

    /// [`Node::connect`] with options.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub async fn connect_with(&self, to: SocketAddr, options: FlowOptions) -> Result<Flow, CloseReason> {
        let (send, recv) = Mailbox::connect_with(&self.intake, to, options);
        let mut flow = Flow { send, recv };
        let state = flow.reaches(FlowState::OPEN).await;
        match state.reason() {
            Some(reason) if !state.has(FlowState::OPEN) => Err(reason),
            _ => Ok(flow),
        }
    }

    /// Listens on `port`.
    ///
    /// # Errors
    /// What the driver said.
    pub async fn listen(&self, port: u16, limit: u32) -> io::Result<Listener> {
        self.listen_with(port, limit, FlowOptions::new()).await
    }

    /// [`Node::listen`] with options for the flows it accepts.
    ///
    /// # Errors
    /// As [`Node::listen`].
    pub async fn listen_with(&self, port: u16, limit: u32, options: FlowOptions) -> io::Result<Listener> {
        let mut backlog = Backlog::listen_with(&self.intake, port, limit, options);
        let local = poll_fn(|cx| backlog.poll_opened(cx)).await?;
        Ok(Listener { backlog, local })
    }
}

impl Deref for Node {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

/// A listener.
#[derive(Debug)]
pub struct Listener {
    backlog: BacklogConsumer,
    local: SocketAddr,
}

impl Listener {
    /// Where it listens.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The next flow; `None` when the engine is gone.
    pub async fn accept(&mut self) -> Option<Flow> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`Listener::accept`] for who has several.
    pub fn poll_accept(&mut self, cx: &Context<'_>) -> Poll<Option<Flow>> {
        self.backlog.poll_accept(cx).map(|accepted| accepted.map(|Accepted { send, recv }| Flow { send, recv }))
    }
}

/// Both application ends of a flow.
#[derive(Debug)]
pub struct Flow {
    /// The sending end.
    pub send: SendEnd,
    /// The receiving end.
    pub recv: RecvEnd,
}

impl Flow {
    /// Where the flow stands.
    #[must_use]
    pub fn state(&self) -> FlowState {
        self.send.mailbox().state()
    }

    /// Waits until the state has all of `bits`, or the flow is over.
    pub async fn reaches(&mut self, bits: FlowState) -> FlowState {
        reaches(&mut self.send, bits).await
    }

    /// Sends one message; see [`send`].
    ///
    /// # Errors
    /// The state, if it says that nothing can be sent any more.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), FlowState> {
        send(&mut self.send, message.into()).await
    }

    /// Receives one message; see [`receive`].
    pub async fn receive(&mut self) -> Option<Message> {
        receive(&mut self.recv).await
    }
}

/// Waits until the state has all of `bits`, or the flow is over.
pub async fn reaches(send: &mut SendEnd, bits: FlowState) -> FlowState {
    poll_fn(|cx| send.poll_state(cx, |state| state.has(bits) || state.has(FlowState::CLOSED))).await
}

/// Sends one message when there is room.
///
/// # Errors
/// The state, if it says that nothing can be sent any more.
///
/// # Panics
/// If there is no room after all: the channel broke its promise.
pub async fn send(send: &mut SendEnd, message: Message) -> Result<(), FlowState> {
    has_room(send).await?;
    assert!(send.post(message).is_ok(), "room was there and is not");
    Ok(())
}

/// Sends one message when there is room, built where [`SendEnd::reserve`] says.
///
/// # Errors
/// As [`send`].
///
/// # Panics
/// As [`send`].
pub async fn send_built(send: &mut SendEnd, message: &[u8]) -> Result<(), FlowState> {
    has_room(send).await?;
    let mut place = send.reserve(message.len());
    place.put_slice(message);
    place.send();
    Ok(())
}

async fn has_room(send: &mut SendEnd) -> Result<(), FlowState> {
    poll_fn(|cx| send.poll_room(cx)).await;
    let state = send.mailbox().state();
    if state.has(FlowState::WRITE_ENDED) { Err(state) } else { Ok(()) }
}

/// Receives one message; `None` after the last one.
pub async fn receive(recv: &mut RecvEnd) -> Option<Message> {
    poll_fn(|cx| recv.poll_take(cx)).await
}
