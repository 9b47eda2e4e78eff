//! What the engine sees of applications.
//!
//! [`AppChannel`] is the seam: [`LocalChannel`] serves tasks of the engine's own process through [`machnet_channel`]'s
//! mailboxes, [`Tenants`] serves processes that nobody trusts, through memory shared with each. No call blocks, and none can fail: an engine never waits for an application.

mod local;
mod tenants;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use machnet_channel::{Chunks, Doorbell, FlowOptions, FlowState, FlowStats, Frame, Intent, Message};

use crate::EngineStats;
pub use local::LocalChannel;
#[cfg(any(test, fuzzing))]
pub(crate) use tenants::fuzz::tenants as fuzz_tenants;
pub use tenants::{
    Account, Arrival, Claims, Counters, Ended, FlowReport, Gate, News, Ports, Quota, Report, TenantReport, Tenants,
};

/// A flow of the channel. Given out by the channel, valid until [`AppChannel::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

/// A listener of the channel. Given out by the channel, valid until [`AppChannel::unlisten`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenSlot(pub u32);

/// Frames that applications build messages in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Building {
    /// Given, and not home.
    pub away: u32,
    /// Those of them that nobody has taken yet.
    pub waiting: u32,
    /// How often an application would have built a message in a frame, and found none.
    pub missed: u64,
}

/// Something an application did that the engine has not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A new flow wants to be connected.
    Connect(Slot, SocketAddr),
    /// A flow has messages to send, has consumed, or has a new intent.
    Flow(Slot),
    /// A new listener wants UDP port `port` (0: any).
    Listen(ListenSlot, u16),
    /// A listener is gone.
    Unlisten(ListenSlot),
}

/// The applications of one engine.
pub trait AppChannel: Send {
    /// The next thing to look at.
    fn next_hint(&mut self) -> Option<Hint>;

    /// The engine wants to sleep: from now on, whoever does something that [`AppChannel::has_work`] would tell, rings.
    /// Called before it, and after the doorbell was armed. It holds until the next [`AppChannel::next_hint`].
    fn doze(&mut self) {}

    /// True if [`AppChannel::next_hint`] would find something: the engine must not sleep.
    fn has_work(&self) -> bool;

    /// A file descriptor that polls readable when somebody rings who cannot ring the doorbell. It stays the same for the
    /// channel's life.
    fn wait(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// True once the application wants every flow ended.
    fn is_closing(&self) -> bool;

    /// The bell that wakes this channel's engine.
    fn bell(&self) -> Arc<Doorbell>;

    /// Whose a flow is: an engine shares out what it sends between groups, and only then between their flows. Small numbers,
    /// used again.
    fn group(&self, slot: Slot) -> u32 {
        let _ = slot;
        0
    }

    /// Applications may build messages of up to `room` bytes in at most `limit` frames of the engine's driver, from byte `start` on. Before
    /// anything else.
    fn set_building(&mut self, start: u32, room: u32, limit: u32) {
        let _ = (start, room, limit);
    }

    /// Applications may build messages of more than `above` and up to `room` bytes in at most `limit` long frames of the engine's driver.
    /// Likewise, and after [`AppChannel::set_building`].
    fn set_building_long(&mut self, above: u32, room: u32, limit: u32) {
        let _ = (above, room, limit);
    }

    /// False while applications surely want no frames for that: asked at the end of each round, before anybody is woken.
    fn wants_frames(&self) -> bool {
        false
    }

    /// How many empty frames, and long frames, they want.
    fn wanted_frames(&self) -> [u32; 2] {
        [0; 2]
    }

    /// Gives applications an empty frame that they wanted.
    fn give_frame(&mut self, frame: Frame) {
        drop(frame);
    }

    /// Likewise, a long frame.
    fn give_long_frame(&mut self, frame: Frame) {
        drop(frame);
    }

    /// What became of the frames that were given, and of the long ones.
    fn building(&self) -> [Building; 2] {
        [Building::default(); 2]
    }

    /// While some of the groups did much lately, and others little, the channel *sorts* them: in each step of a round the engine
    /// serves the latter first, and does so many bytes at most of each kind of work for the former, looking at
    /// [`AppChannel::is_pressed`] in between.
    fn grain(&self) -> Option<u32> {
        None
    }

    /// While the channel [sorts](AppChannel::grain): whether a group is one of those that did much.
    fn is_heavy(&self, group: u32) -> bool {
        let _ = group;
        false
    }

    /// True if a round is for those alone that did little. Known from [`AppChannel::next_hint`] on.
    fn is_express(&self) -> bool {
        false
    }

    /// True if one of those that did little has something for the engine to look at.
    fn is_pressed(&self) -> bool {
        false
    }

    /// The engine has received, or built, a packet of `bytes` for a flow.
    fn charge(&mut self, slot: Slot, bytes: usize) {
        let _ = (slot, bytes);
    }

    /// What the application chose for a flow that is to be connected.
    fn options(&self, slot: Slot) -> FlowOptions;

    /// What the application chose for the flows that a listener accepts.
    fn listen_options(&self, listener: ListenSlot) -> FlowOptions;

    /// What the application wants of a flow. Read it before draining [`AppChannel::take`].
    fn intent(&mut self, slot: Slot) -> Intent;

    /// Takes the next message to send.
    fn take(&mut self, slot: Slot) -> Option<Message>;

    /// Cumulative units the application has consumed.
    fn consumed(&mut self, slot: Slot) -> u64;

    /// Asks for a hint when `consumed` reaches `units`; returns `consumed` as it is after that.
    fn set_tell_at(&mut self, slot: Slot, units: u64) -> u64;

    /// Hands over a received message.
    fn deliver(&mut self, slot: Slot, message: Chunks);

    /// Bytes that wait in the engine's memory for the flow's application to make room for them: all its flows' together. While
    /// it is not less than [`Config::peer_reassembly_bytes`](crate::Config), no buffer is given to long messages of any of them.
    fn waiting(&self, slot: Slot) -> u64 {
        let _ = slot;
        0
    }

    /// Cumulative units that may be posted, and that were acknowledged.
    fn set_progress(&mut self, slot: Slot, room: u64, acknowledged: u64);

    /// Publishes where the flow stands.
    fn set_state(&mut self, slot: Slot, state: FlowState);

    /// The address the flow uses on this side.
    fn set_local(&mut self, slot: Slot, local: SocketAddr);

    /// The largest message the flow carries, bytes.
    fn set_max_message(&mut self, slot: Slot, bytes: u32);

    /// Publishes the flow's counters.
    fn set_stats(&mut self, slot: Slot, stats: &FlowStats);

    /// Gives back the memory of past traffic: the flow is idle.
    fn shed(&mut self, slot: Slot);

    /// The engine has forgotten the flow. Whoever waits for it is woken.
    fn release(&mut self, slot: Slot);

    /// The result of a [`Hint::Listen`].
    fn set_listening(&mut self, listener: ListenSlot, opened: Result<SocketAddr, &std::io::Error>);

    /// True if the listener takes another flow now.
    fn can_accept(&mut self, listener: ListenSlot) -> bool;

    /// Queues a flow that finished its handshake at a listener.
    fn accept(&mut self, listener: ListenSlot, local: SocketAddr, peer: SocketAddr) -> Slot;

    /// The engine has forgotten the listener.
    fn unlisten(&mut self, listener: ListenSlot);

    /// True if an application wants to know how the engine does: [`AppChannel::set_engine_stats`].
    fn wants_stats(&self) -> bool {
        false
    }

    /// Publishes the engine's counters.
    fn set_engine_stats(&mut self, stats: &EngineStats) {
        let _ = stats;
    }

    /// Wakes everybody that the round concerns: the last thing an engine does in a round.
    fn end_round(&mut self);
}
