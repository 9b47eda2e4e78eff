//! Who gets memory to reassemble messages in, and how much of it a peer may hold (`docs/spec/flow.md#receiving`, `#limits`).

use super::buffers::Buffers;
use super::peers::Peers;
use super::{BURST, Engine};
use crate::flow::{Flow, Need, Store as _};
use crate::{AppChannel, Driver};

impl<D: Driver, C: AppChannel> Engine<D, C> {
    /// Gives buffers that came home to the messages that wait for them, first come, first served. A peer that has its
    /// share waits aside, and who waits for a long buffer holds up nobody who needs a shorter one.
    pub(super) fn serve_waiting(&mut self) {
        self.buffers.set_contended(false);
        // So long that there is none.
        let mut exhausted = u64::MAX;
        for _ in 0..self.waiting.len().min(BURST) {
            let Some((key, id)) = self.waiting.pop_front() else { return };
            let Some(flow) = self.flows.get(key).filter(|flow| flow.id == id) else { continue };
            if let Some(len) = flow.wanted_buffer() {
                let room = self::room(flow, &self.peers, &self.channel, self.config.peer_reassembly_bytes);
                let size = Buffers::frame_size(len);
                self.buffers.set_peer_room(room);
                let frame =
                    if size > room[0] || size >= exhausted { None } else { self.buffers.buffer(len, Need::Next) };
                let Some(frame) = frame else {
                    if size <= room[0] {
                        exhausted = exhausted.min(size);
                        self.buffers.set_contended(true);
                    }
                    self.waiting.push_back((key, id));
                    continue;
                };
                flow.reserve(frame, &mut self.buffers);
            }
            flow.is_waiting = false;
            charge(flow, &mut self.peers);
            self.touch(key);
        }
    }

    /// Notes that a flow's next message waits for a buffer ([`Flow::wanted_buffer`]).
    pub(super) fn note_waiting(&mut self, key: u32) {
        let Some(flow) = self.flows.get(key) else { return };
        if std::mem::replace(&mut flow.is_waiting, true) {
            return;
        }
        let id = flow.id;
        if self.waiting.len() > 2 * self.flows.len() {
            // Flows that ended while they waited: what is left of them must not gather behind one that waits for long.
            let flows = &mut self.flows;
            self.waiting.retain(|&(key, id)| flows.get(key).is_some_and(|flow| flow.id == id));
        }
        self.waiting.push_back((key, id));
    }
}

/// What may be reassembled of a flow: its next message, and others. As much as its peer has left of its share; and nothing while
/// as much waits for its application to read.
pub(super) fn room(flow: &Flow, peers: &Peers, channel: &impl AppChannel, share: u64) -> [u64; 2] {
    if flow.slot.is_some_and(|slot| channel.waiting(slot) >= share.max(1)) {
        return [0; 2];
    }
    flow.peer.map_or([u64::MAX; 2], |membership| peers.room(membership))
}

/// Tells the peer of a flow what of its memory the flow holds now.
pub(super) fn charge(flow: &mut Flow, peers: &mut Peers) {
    let now = flow.reassembling();
    if flow.charged != now
        && let Some(membership) = flow.peer
    {
        peers.charge(membership, flow.charged, now);
        flow.charged = now;
    }
}
