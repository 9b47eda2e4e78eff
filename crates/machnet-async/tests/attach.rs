//! Endpoints attached to a daemon: what is theirs alone. That they are like any other is tested by all other tests, over
//! daemons.

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::executor::block_on;
use machnet_async::{AttachBuilder, CloseReason, Config, Endpoint, Flow, FlowError, Listener, Reconnect, Udp};
use machnet_daemon::{Allowance, Daemon, DriverUrl, Settings};
use support::sidecar::{daemon, settings, socket};
use support::{V4, content, echo, open, run, within_a_minute};

#[test]
fn messages_there_and_back_between_two_daemons() {
    run(|| async {
        let (here, there) = (daemon(Config::default()), daemon(Config::default()));
        let (client, server) = (Endpoint::attach(here.socket()).unwrap(), Endpoint::attach(there.socket()).unwrap());
        assert_eq!((client.local_addr(), server.local_addr()), (here.home(), there.home()));
        let mut listener = server.listen(0).await.unwrap();
        let to = listener.local_addr();
        let serving = tokio::spawn(async move {
            let (flow, _) = listener.accept().await.unwrap();
            echo(flow).await;
        });
        let mut flow = client.connect(to).await.unwrap();
        for (number, len) in [0, 1, 64, 1200, 16_640, 16_641, 70_000, 1 << 20].into_iter().enumerate() {
            let message = content(number as u64, len);
            flow.send(message.clone()).await.unwrap();
            assert_eq!(flow.recv().await.unwrap().unwrap(), message, "{len} bytes");
        }
        flow.finish();
        assert!(flow.recv().await.unwrap().is_none());
        flow.close().await.unwrap();
        serving.await.unwrap();
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
    });
}

/// Two applications of one daemon, on executors of three kinds: current-thread, without IO, and none at all.
#[test]
fn every_executor_hears_the_daemon() {
    within_a_minute(|| {
        let driver: DriverUrl = "udp://127.0.0.1:0".parse().unwrap();
        let daemon = Daemon::open(machnet_daemon::Config { driver, settings: settings(Config::default()) }).unwrap();
        let server = Endpoint::attach(daemon.socket()).unwrap();
        let client = Endpoint::attach(daemon.socket()).unwrap();
        let mut listener = block_on(server.listen(0)).unwrap();
        let to = listener.local_addr();
        let serving = std::thread::spawn(move || {
            for _ in 0..3 {
                let (flow, _) = block_on(listener.accept()).unwrap();
                block_on(echo(flow));
            }
        });
        let talk = |client: Endpoint| async move {
            let mut flow = client.connect(to).await.unwrap();
            for number in 0..20 {
                flow.send(content(number, 100)).await.unwrap();
                assert_eq!(flow.recv().await.unwrap().unwrap(), content(number, 100));
            }
            flow.close().await.unwrap();
        };
        block_on(talk(client.clone()));
        let runtime = || tokio::runtime::Builder::new_current_thread();
        runtime().build().unwrap().block_on(talk(client.clone()));
        runtime().enable_all().build().unwrap().block_on(talk(client.clone()));
        serving.join().unwrap();
    });
}

#[test]
fn what_cannot_be_attached_to_is_named() {
    let missing = socket();
    let file = socket();
    std::fs::write(&file, "no socket").unwrap();
    let stream = socket();
    let _stream = std::os::unix::net::UnixListener::bind(&stream).unwrap();
    let long = PathBuf::from(format!("/{}", "x".repeat(120)));
    let mut strangers = Allowance::everybody();
    strangers.user = Some(u32::MAX - 7);
    let closed = Settings::new(socket(), vec![strangers]);
    let closed = Daemon::start(Udp::bind((V4, 0)).unwrap(), closed).unwrap();
    for (path, kind, text) in [
        (&missing, ErrorKind::NotFound, "is the daemon running"),
        (&file, ErrorKind::ConnectionRefused, "nobody listens there"),
        (&stream, ErrorKind::Other, "not the socket of a daemon"),
        (&long, ErrorKind::InvalidInput, "107 bytes"),
        (&closed.socket().to_owned(), ErrorKind::PermissionDenied, "does not admit"),
    ] {
        let error = Endpoint::attach(path).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.to_string().starts_with(&format!("unix://{}", path.display())), "{error}");
        // What the system calls it is no kind of its own.
        assert!(error.kind() == kind || kind == ErrorKind::Other, "{error:?}");
    }
}

#[test]
fn a_full_daemon_says_so() {
    let mut one = Allowance::everybody();
    one.applications = 1;
    let daemon = Daemon::start(Udp::bind((V4, 0)).unwrap(), Settings::new(socket(), vec![one])).unwrap();
    let first = Endpoint::attach(daemon.socket()).unwrap();
    let error = Endpoint::attach(daemon.socket()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
    drop(first);
}

// A daemon that is killed: a process of its own, which is this program again.

const SOCKET: &str = "MACHNET_TEST_DAEMON_SOCKET";
const ENGINES: &str = "MACHNET_TEST_DAEMON_ENGINES";

/// Not a test of its own: the daemon of others.
#[test]
fn daemon_process() {
    let Ok(path) = std::env::var(SOCKET) else { return };
    let mut settings = Settings::new(path, vec![Allowance::everybody()]);
    settings.engines = std::env::var(ENGINES).map_or(2, |engines| engines.parse().unwrap());
    let daemon = Daemon::start(Udp::bind((V4, 0)).unwrap(), settings).unwrap();
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nready {}", daemon.home()).unwrap();
    out.flush().unwrap();
    std::thread::park();
}

struct Process(Child);

impl Process {
    fn start(path: &Path) -> Self {
        Self::of(2, path)
    }

    /// With so many engines.
    fn of(engines: usize, path: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "daemon_process", "--nocapture"]).stdout(Stdio::piped());
        command.env(SOCKET, path).env(ENGINES, engines.to_string());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut lines = out.lines();
        assert!(lines.any(|line| line.unwrap().starts_with("ready ")), "no daemon");
        // It says nothing more that anybody reads.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn server() -> Endpoint {
    Endpoint::builder().driver(Udp::bind((V4, 0)).unwrap()).start().unwrap()
}

fn assert_gone(error: &std::io::Error) {
    assert_eq!(error.kind(), ErrorKind::NetworkDown, "{error}");
    assert!(error.to_string().contains("the daemon is gone"), "{error}");
}

/// As [`open`], from an endpoint that attaches again, to one engine of the daemon after the other: meanwhile connecting may fail.
async fn open_again(client: &Endpoint, listener: &mut Listener) -> (Flow, Flow) {
    let mut near = loop {
        match client.connect(listener.local_addr()).await {
            Ok(flow) => break flow,
            Err(error) => assert_gone(&error),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    near.send("first").await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    assert_eq!(far.recv().await.unwrap().unwrap(), "first");
    (near, far)
}

/// Everybody who waits is told, once each, by one event: the connection is closed.
#[test]
fn a_killed_daemon_ends_every_wait() {
    run(|| async {
        let path = socket();
        let mut process = Process::start(&path);
        let endpoint = Endpoint::attach(&path).unwrap();
        let (server, mut own) = (server(), endpoint.listen(0).await.unwrap());
        let mut listener = server.listen(0).await.unwrap();
        let to = listener.local_addr();
        let (mut receives, _far) = open(&endpoint, &mut listener).await;
        let (mut sends, mut slow) = open(&endpoint, &mut listener).await;
        sends.send("unread").await.unwrap();
        assert_eq!(slow.recv().await.unwrap().unwrap(), "unread");
        let receiving = tokio::spawn(async move { receives.recv().await.unwrap_err() });
        let sending = tokio::spawn(async move {
            loop {
                if let Err(error) = sends.send(content(1, 100_000)).await {
                    return std::io::Error::from(error);
                }
            }
        });
        let accepting = tokio::spawn(async move { own.accept().await.unwrap_err() });
        let silent = std::net::UdpSocket::bind((V4, 0)).unwrap();
        let connecting = tokio::spawn(endpoint.connect(silent.local_addr().unwrap()));
        // All of them wait by now, or will find it so.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        process.kill();
        for waited in [receiving.await.unwrap(), sending.await.unwrap(), connecting.await.unwrap().unwrap_err()] {
            assert_gone(&waited);
            let reason = waited.get_ref().and_then(|inner| inner.downcast_ref::<FlowError>()).map(FlowError::reason);
            assert!(reason.is_none_or(|reason| reason == CloseReason::DaemonGone));
        }
        assert_eq!(accepting.await.unwrap().kind(), ErrorKind::NetworkDown);
        // And who comes later.
        assert_gone(&endpoint.connect(to).await.unwrap_err());
        assert_gone(&endpoint.listen(0).await.unwrap_err());
        endpoint.shutdown().await.unwrap();
    });
}

fn signal(process: &Process, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(&process.0);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A daemon that is stopped, not killed: nothing closes its connections.
#[test]
fn a_daemon_that_does_not_answer_is_given_up() {
    run(|| async {
        let path = socket();
        let process = Process::start(&path);
        let endpoint = AttachBuilder::new(&path).daemon_timeout(Duration::from_secs(2)).attach().unwrap();
        let (server, mut own) = (server(), endpoint.listen(0).await.unwrap());
        let mut listener = server.listen(0).await.unwrap();
        let (mut receives, _far) = open(&endpoint, &mut listener).await;
        let receiving = tokio::spawn(async move { receives.recv().await.unwrap_err() });
        let accepting = tokio::spawn(async move { own.accept().await.unwrap_err() });
        signal(&process, rustix::process::Signal::STOP);
        let error = receiving.await.unwrap();
        assert_eq!(error.kind(), ErrorKind::NetworkDown, "{error}");
        assert!(error.to_string().contains("the daemon does not answer"), "{error}");
        assert_eq!(accepting.await.unwrap().kind(), ErrorKind::NetworkDown);
        assert_gone(&endpoint.connect(listener.local_addr()).await.unwrap_err());
        signal(&process, rustix::process::Signal::CONT);
    });
}

/// When it goes on, who was told to attaches again, and has its listener.
#[test]
fn a_daemon_that_answers_again_is_attached_to_again() {
    run(|| async {
        let path = socket();
        let process = Process::start(&path);
        let quickly = Reconnect::BackingOff { first: Duration::from_millis(1), most: Duration::from_millis(20) };
        let builder = AttachBuilder::new(&path).reconnect(quickly);
        let endpoint = builder.daemon_timeout(Duration::from_secs(2)).attach().unwrap();
        let mut own = endpoint.listen(0).await.unwrap();
        let at = own.local_addr();
        let other = server();
        let mut far = other.connect(at).await.unwrap();
        far.send("before").await.unwrap();
        let (mut near, _) = own.accept().await.unwrap();
        assert_eq!(near.recv().await.unwrap().unwrap(), "before");
        signal(&process, rustix::process::Signal::STOP);
        assert!(near.recv().await.unwrap_err().to_string().contains("the daemon does not answer"));
        signal(&process, rustix::process::Signal::CONT);
        let (mut near, _again) = loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let Ok(mut again) = other.connect(at).await else { continue };
            // Until the daemon has seen that the application left, it accepts for it as it was before; such a flow is reset.
            if again.send("after").await.is_err() {
                continue;
            }
            tokio::select! {
                accepted = own.accept() => break (accepted.unwrap().0, again),
                _ = again.recv() => {}
            }
        };
        assert_eq!(near.recv().await.unwrap().unwrap(), "after");
    });
}

/// The counters are those of the daemon's engines, and the address is the one it has by now.
#[test]
fn an_attached_endpoint_knows_its_daemon() {
    run(|| async {
        let path = socket();
        let mut process = Process::start(&path);
        let quickly = Reconnect::BackingOff { first: Duration::from_millis(1), most: Duration::from_millis(20) };
        let endpoint = AttachBuilder::new(&path).reconnect(quickly).attach().unwrap();
        let server = server();
        let mut listener = server.listen(0).await.unwrap();
        let (mut mine, mut theirs) = open(&endpoint, &mut listener).await;
        mine.send("counted").await.unwrap();
        assert_eq!(theirs.recv().await.unwrap().unwrap(), "counted");
        // Asked for, they come.
        while endpoint.stats().packets_sent < 2 || endpoint.engine_stats().iter().all(|stats| stats.flows == 0) {
            tokio::task::yield_now().await;
        }
        assert_eq!(endpoint.engine_stats().len(), 2);
        let before = endpoint.local_addr();
        process.kill();
        assert_gone(&mine.recv().await.unwrap_err());
        // The next one cannot have the same.
        let _held = std::net::UdpSocket::bind(before).unwrap();
        let _process = Process::start(&path);
        while endpoint.local_addr() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (mut mine, mut theirs) = loop {
            match endpoint.connect(listener.local_addr()).await {
                Ok(flow) => break (flow, listener.accept().await.unwrap().0),
                Err(error) => assert_gone(&error),
            }
        };
        assert_eq!(mine.local_addr().ip(), endpoint.local_addr().ip());
        mine.send("again").await.unwrap();
        assert_eq!(theirs.recv().await.unwrap().unwrap(), "again");
    });
}

/// Attached again, the endpoint connects, and its listener accepts at the address it had.
#[test]
fn an_endpoint_attaches_again_where_asked() {
    run(|| async {
        let path = socket();
        let mut process = Process::start(&path);
        let quickly = Reconnect::BackingOff { first: Duration::from_millis(1), most: Duration::from_millis(20) };
        let endpoint = AttachBuilder::new(&path).reconnect(quickly).attach().unwrap();
        let mut own = endpoint.listen(0).await.unwrap();
        let at: SocketAddr = own.local_addr();
        let other = server();
        let mut far = other.connect(at).await.unwrap();
        far.send("before").await.unwrap();
        let (mut near, _) = own.accept().await.unwrap();
        assert_eq!(near.recv().await.unwrap().unwrap(), "before");
        process.kill();
        assert_gone(&near.recv().await.unwrap_err());
        let accepting = tokio::spawn(async move { own.accept().await.unwrap() });
        let _process = Process::start(&path);
        // Until it has attached, nobody listens there.
        let mut again = loop {
            match other.connect(at).await {
                Ok(flow) => break flow,
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        again.send("after").await.unwrap();
        let (mut near, _) = accepting.await.unwrap();
        assert_eq!(near.recv().await.unwrap().unwrap(), "after");
        let mut listener = other.listen(0).await.unwrap();
        let (mine, _theirs) = open_again(&endpoint, &mut listener).await;
        drop(mine);
        endpoint.shutdown().await.unwrap();
    });
}

/// A daemon that comes back with fewer engines, or with more: the endpoint has as many channels as it began with, or fewer, connects by
/// those, and its listener accepts by them.
#[test]
fn a_daemon_comes_back_with_another_number_of_engines() {
    for course in [[2, 1, 2], [1, 2, 1], [2, 1, 3]] {
        run(move || async move {
            let path = socket();
            let mut process = Process::of(course[0], &path);
            let quickly = Reconnect::BackingOff { first: Duration::from_millis(1), most: Duration::from_millis(20) };
            let endpoint = AttachBuilder::new(&path).reconnect(quickly).attach().unwrap();
            let mut own = endpoint.listen(0).await.unwrap();
            let at = own.local_addr();
            let other = server();
            let mut listener = other.listen(0).await.unwrap();
            for (turn, engines) in course.into_iter().enumerate() {
                if turn > 0 {
                    process.kill();
                    process = Process::of(engines, &path);
                }
                // Accepted flows, more than engines.
                let mut held = Vec::new();
                for _ in 0..4 {
                    let far = loop {
                        match other.connect(at).await {
                            Ok(flow) => break flow,
                            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}"),
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    };
                    held.push((far, own.accept().await.unwrap().0));
                }
                // And connected ones.
                for _ in 0..4 {
                    held.push(open_again(&endpoint, &mut listener).await);
                }
                for (number, (a, b)) in held.iter_mut().enumerate() {
                    let message = content(number as u64, 5000);
                    a.send(message.clone()).await.unwrap();
                    assert_eq!(b.recv().await.unwrap().unwrap(), message);
                    b.send(message.clone()).await.unwrap();
                    assert_eq!(a.recv().await.unwrap().unwrap(), message);
                }
                // Listening anew works by the channels that there are, too.
                let mut second = loop {
                    match endpoint.listen(0).await {
                        Ok(listener) => break listener,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NetworkDown, "{error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                };
                let mut far = other.connect(second.local_addr()).await.unwrap();
                far.send("second").await.unwrap();
                let (mut near, _) = second.accept().await.unwrap();
                assert_eq!(near.recv().await.unwrap().unwrap(), "second");
            }
            endpoint.shutdown().await.unwrap();
        });
    }
}

/// An endpoint that ends while its daemon is away does not wait for it.
#[test]
fn an_endpoint_ends_while_its_daemon_is_away() {
    run(|| async {
        let path = socket();
        let mut process = Process::start(&path);
        let endpoint = AttachBuilder::new(&path).reconnect(Reconnect::new()).attach().unwrap();
        let mut listener = endpoint.listen(0).await.unwrap();
        process.kill();
        let accepting = tokio::spawn(async move { listener.accept().await.unwrap_err() });
        // It was away before, or went meanwhile.
        let ended = endpoint.shutdown().await;
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::NetworkDown));
        assert_eq!(accepting.await.unwrap().kind(), ErrorKind::NotConnected);
    });
}
