//! A daemon of two engines, of which one stands still.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use futures::executor::block_on;
use machnet_async::{AttachBuilder, CloseReason, Endpoint, Flow, FlowError, Listener, Reconnect};
use machnet_channel::{Doorbell, Frame, FrameRef};
use machnet_core::{Capabilities, Driver, Drops, Hairpin, Instant, RxPacket, TxPacket, Unreachable};
use machnet_daemon::Daemon;
use machnet_udp::Udp;

use crate::stage::{Stage, until};

/// Which engine stands still.
#[derive(Debug, Default)]
struct Brake {
    halted: Mutex<Option<usize>>,
    released: Condvar,
}

/// Until it is dropped, the engine stands still.
struct Halted(Arc<Brake>);

impl Brake {
    fn halt(self: &Arc<Self>, engine: usize) -> Halted {
        *self.halted.lock().unwrap() = Some(engine);
        Halted(Arc::clone(self))
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        *self.0.halted.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.released.notify_all();
    }
}

/// Sockets whose engine is held up at the beginning of a round.
struct Braked {
    udp: Udp,
    engine: usize,
    brake: Arc<Brake>,
}

impl Driver for Braked {
    fn begin(&mut self, _: Instant) {
        let halted = self.brake.halted.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.brake.released.wait_while(halted, |halted| *halted == Some(self.engine)));
    }
    fn split(self, drivers: usize) -> io::Result<Vec<Self>> {
        let Self { udp, brake, .. } = self;
        let braked = |(engine, udp)| Self { udp, engine, brake: Arc::clone(&brake) };
        Ok(udp.split(drivers)?.into_iter().enumerate().map(braked).collect())
    }
    fn capabilities(&self) -> &Capabilities {
        self.udp.capabilities()
    }
    fn home(&self) -> SocketAddr {
        self.udp.home()
    }
    fn ports(&self) -> (u16, u16) {
        self.udp.ports()
    }
    fn turns(&self, remote: SocketAddr) -> bool {
        self.udp.turns(remote)
    }
    fn open(&mut self, port: u16) -> io::Result<SocketAddr> {
        self.udp.open(port)
    }
    fn close(&mut self, port: u16) {
        self.udp.close(port);
    }
    fn frame(&mut self) -> Option<Frame> {
        self.udp.frame()
    }
    fn recycle(&mut self, payload: FrameRef) {
        self.udp.recycle(payload);
    }
    fn is_short_of_frames(&self) -> bool {
        self.udp.is_short_of_frames()
    }
    fn rx_burst(&mut self, out: &mut Vec<RxPacket>, max: usize) -> usize {
        self.udp.rx_burst(out, max)
    }
    fn tx_burst(&mut self, batch: &mut VecDeque<TxPacket>) -> usize {
        self.udp.tx_burst(batch)
    }
    fn reap(&mut self) {
        self.udp.reap();
    }
    fn unreachable(&mut self) -> Option<Unreachable> {
        self.udp.unreachable()
    }
    fn doubt(&mut self, remote: IpAddr) {
        self.udp.doubt(remote);
    }
    fn wait(&self) -> Option<BorrowedFd<'_>> {
        self.udp.wait()
    }
    fn set_bell(&mut self, bell: Arc<Doorbell>) {
        self.udp.set_bell(bell);
    }
    fn starve(&mut self) -> bool {
        self.udp.starve()
    }
    fn drops(&self) -> Drops {
        self.udp.drops()
    }
}

fn stage() -> (Stage, Arc<Brake>) {
    let brake = Arc::<Brake>::default();
    let driver = Braked { udp: Udp::bind("127.0.0.1:0").unwrap(), engine: 0, brake: Arc::clone(&brake) };
    // As `Daemon::open` has it: flows between its applications do not leave it.
    let driver = Hairpin::shared(driver, vec![[127, 0, 0, 1].into()]);
    let start = |settings| Daemon::start(driver, settings).unwrap();
    (Stage::driven(|settings| settings.engines = 2, start), brake)
}

/// `machnet stat` is answered, and says which engine it is; when that goes on, it says so.
#[test]
fn stat_names_an_engine_that_stands_still() {
    let (stage, brake) = stage();
    let _application =
        crate::client::attach_all(&stage.socket(), machnet_channel::shared::Attach::new("here".to_owned(), 0));
    let silent = |stat: &serde_json::Value| [0, 1].map(|engine| stat["engines"][engine]["silent"].as_bool().unwrap());
    assert_eq!(silent(&stage.stat()), [false, false]);
    for engine in [0, 1] {
        let halted = brake.halt(engine);
        // It may be in the middle of a round, and answer once more; and on a busy machine the other one may be late.
        let mut stat = stage.stat_now();
        until(|| {
            stat = stage.stat_now();
            silent(&stat)[engine] && !silent(&stat)[1 - engine]
        });
        // Of the application it says what the other engine knows.
        assert_eq!(stat["applications"].as_array().unwrap().len(), 1, "{stat}");
        drop(halted);
        until(|| silent(&stage.stat_now()) == [false, false]);
    }
}

/// A server's listener; each flow is echoed by a thread.
fn serve(mut listener: Listener) {
    std::thread::spawn(move || {
        while let Ok((flow, _)) = block_on(listener.accept()) {
            std::thread::spawn(move || block_on(echo(flow)));
        }
    });
}

async fn echo(mut flow: Flow) {
    while let Ok(Some(message)) = flow.recv().await {
        if flow.send(message).await.is_err() {
            return;
        }
    }
}

/// There and back, until the flow is lost, or it is `over`; why it was lost.
async fn talk(mut flow: Flow, over: &AtomicBool, echoes: &AtomicU64) -> Option<CloseReason> {
    while !over.load(SeqCst) {
        let there = flow.send("there").await.map_err(io::Error::from);
        let back = match there {
            Ok(()) => flow.recv().await,
            Err(error) => Err(error),
        };
        match back {
            Ok(message) => assert_eq!(message.unwrap(), "there"),
            Err(error) => {
                return Some(error.get_ref().and_then(|inner| inner.downcast_ref::<FlowError>()).unwrap().reason());
            }
        }
        echoes.fetch_add(1, SeqCst);
    }
    None
}

/// The flows at the engine that stands still are lost. Those at the other one go on; the endpoint connects and accepts there.
fn only_its_own_flows_are_lost(reconnect: Reconnect) {
    let (stage, brake) = stage();
    let attach = || {
        let builder = AttachBuilder::new(stage.socket()).daemon_timeout(Duration::from_secs(2));
        builder.reconnect(reconnect).attach().unwrap()
    };
    let (server, client): (Endpoint, Endpoint) = (attach(), attach());
    let listener = block_on(server.listen(0)).unwrap();
    let to = listener.local_addr();
    serve(listener);
    // By load: two at each engine, with both of their ends.
    let flows: Vec<Flow> = (0..4).map(|_| block_on(client.connect(to)).unwrap()).collect();
    let (over, lost) = (AtomicBool::new(false), AtomicUsize::new(0));
    let echoes = [const { AtomicU64::new(0) }; 4];
    let halted = brake.halt(1);
    std::thread::scope(|scope| {
        for (flow, echoes) in flows.into_iter().zip(&echoes) {
            scope.spawn(|| {
                if let Some(why) = block_on(talk(flow, &over, echoes)) {
                    assert_eq!(why, CloseReason::DaemonSilent);
                    lost.fetch_add(1, SeqCst);
                }
            });
        }
        until(|| lost.load(SeqCst) == 2);
        // The others go on, and new ones begin.
        let sum = || echoes.iter().map(|echoes| echoes.load(SeqCst)).sum::<u64>();
        let before = sum();
        until(|| sum() > before + 200);
        for _ in 0..4 {
            let mut flow = block_on(client.connect(to)).unwrap();
            block_on(flow.send("new")).unwrap();
            assert_eq!(block_on(flow.recv()).unwrap().unwrap(), "new");
        }
        over.store(true, SeqCst);
    });
    assert_eq!(lost.load(SeqCst), 2);
    drop(halted);
    block_on(client.shutdown()).unwrap();
    // Its accepted flows have ended with it: the engine that stood still has forgotten all of them.
    block_on(server.shutdown()).unwrap();
    stage.until(|stat| stat["applications"].as_array().unwrap().is_empty());
}

#[test]
fn an_engine_that_stands_still_takes_its_own_flows_only() {
    only_its_own_flows_are_lost(Reconnect::Never);
}

#[test]
fn an_engine_that_stands_still_takes_its_own_flows_only_where_one_attaches_again() {
    only_its_own_flows_are_lost(Reconnect::new());
}
