//! What two applications do with one flow: both send all their messages and read all of the other's.

use machnet_channel::{CloseReason, FlowState, FlowStats};

use crate::pair::listen;
use crate::setup::PORT;
use crate::{Flow, MachineId, Node, Pace, Plan, Task, World, reaches};

/// A flow from one machine to another, and the messages of both directions.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// The port that is called.
    pub port: u16,
    /// Messages of the side that connects, and of the other.
    pub plans: [Plan; 2],
    /// How each side reads.
    pub paces: [Pace; 2],
    /// False where corruption passes unnoticed: contents may be anything.
    pub verify: bool,
    /// Whether each side takes messages in pieces.
    pub chunked: [bool; 2],
}

/// How a side ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Messages posted.
    pub posted: usize,
    /// Messages received.
    pub received: usize,
    /// The flow's last state.
    pub state: FlowState,
    /// The flow's counters.
    pub stats: FlowStats,
}

impl Dialog {
    /// A dialog of eager readers.
    #[must_use]
    pub const fn new(there: Plan, back: Plan) -> Self {
        Self { port: PORT, plans: [there, back], paces: [Pace::Eager; 2], verify: true, chunked: [false; 2] }
    }

    /// The tasks of both sides; they end when their flow is over.
    ///
    /// # Panics
    /// If the listener does not come about; the tasks, if the flow does not open or a message is not as it should be.
    pub fn start(&self, world: &mut World, a: MachineId, b: MachineId) -> [Task<Ended>; 2] {
        let name = format!("dialog to {b:?}:{}", self.port);
        self.start_tolerant(world, a, b).map(|task| {
            world.spawn(&name, async move { task.await.unwrap_or_else(|reason| panic!("not connected: {reason:?}")) })
        })
    }

    /// As `start`, for links on which the handshake may go wrong.
    ///
    /// # Panics
    /// If the listener does not come about.
    pub fn start_tolerant(
        &self,
        world: &mut World,
        a: MachineId,
        b: MachineId,
    ) -> [Task<Result<Ended, CloseReason>>; 2] {
        let mut listener = listen(world, b, self.port, 128).unwrap();
        let (node, dialog) = (world.node(b), self.clone());
        let accepting = world.spawn("accept", async move {
            let flow = listener.accept().await.expect("a flow");
            Ok(dialog.side(1, &node, flow).await)
        });
        let (node, dialog, to) = (world.node(a), self.clone(), world.node(b).at(self.port));
        let connecting = world.spawn("connect", async move {
            let flow = node.connect(to).await?;
            Ok(dialog.side(0, &node, flow).await)
        });
        [connecting, accepting]
    }

    /// Both directions at once, then a graceful end.
    pub async fn side(&self, side: usize, node: &Node, flow: Flow) -> Ended {
        let Flow { mut send, mut recv } = flow;
        if self.chunked[side] {
            recv.want_chunks();
        }
        let (incoming, pace, verify, handle) =
            (self.plans[1 - side].clone(), self.paces[side], self.verify, node.clone());
        let reader = node
            .spawn(format!("reader {side}"), async move { incoming.receive(&mut recv, &handle, pace, verify).await });
        let (posted, _) = self.plans[side].send(&mut send).await;
        send.finish();
        let received = reader.await;
        let state = reaches(&mut send, FlowState::CLOSED).await;
        Ended { posted, received, state, stats: send.mailbox().stats() }
    }

    /// Every message exactly once (contents and order are the readers' business), and both sides over, in order.
    ///
    /// # Panics
    /// If that is not so.
    pub fn check(&self, ended: &[Ended; 2]) {
        let everything = FlowState::OPEN.with(FlowState::READ_ENDED).with(FlowState::FIN_ACKED);
        for (side, ended) in ended.iter().enumerate() {
            assert_eq!(ended.posted, self.plans[side].len(), "side {side} posted");
            assert_eq!(ended.received, self.plans[1 - side].len(), "side {side} received: {ended:?}");
            assert_eq!(ended.state.reason(), Some(CloseReason::Finished), "side {side}: {:?}", ended.state);
            assert!(ended.state.has(everything), "side {side}: {:?}", ended.state);
        }
    }
}
