//! Running `machnet`, bounded in time, with nothing left behind.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Nothing here takes so long, on any machine.
const LONG: Duration = Duration::from_secs(120);

/// How a run went.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// The one JSON object it printed.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It failed with this exit code, and says so.
    pub(crate) fn refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

/// A `machnet` that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
}

impl Running {
    /// Starts it with arguments as one would type them.
    pub(crate) fn start(arguments: &str) -> Self {
        Self::start_with(arguments, "error")
    }

    /// As `start`; it says on its standard error how far it is.
    pub(crate) fn start_logged(arguments: &str) -> Self {
        Self::start_with(arguments, "machnet::perf=debug")
    }

    fn start_with(arguments: &str, log: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_machnet"))
            .args(arguments.split_whitespace())
            .env("RUST_LOG", log)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = BufReader::new(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    /// The next line it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Reads its log until it says this.
    pub(crate) fn wait_for_log(&mut self, what: &str) {
        let mut lines = self.err.by_ref().lines();
        assert!(lines.any(|line| line.unwrap().contains(what)), "it ended without saying {what:?}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).unwrap()
    }

    /// Ends it as nothing in it can prevent.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, and for all it has to say.
    pub(crate) fn wait(mut self) -> Ended {
        let pid = self.pid();
        let (tell, told) = mpsc::channel::<()>();
        // The child is not reaped before this thread has ended, so the id is the child's.
        let guard = thread::spawn(move || {
            let hung = told.recv_timeout(LONG) == Err(mpsc::RecvTimeoutError::Timeout);
            if hung {
                let _ = kill_process(pid, Signal::KILL);
            }
            hung
        });
        let (mut out, mut err) = (String::new(), String::new());
        thread::scope(|scope| {
            scope.spawn(|| self.err.read_to_string(&mut err).unwrap());
            self.out.read_to_string(&mut out).unwrap();
        });
        drop(tell);
        assert!(!guard.join().unwrap(), "machnet hung; it said: {out}{err}");
        let status = self.child.wait().unwrap();
        Ended { status, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `machnet` to its end.
pub(crate) fn machnet(arguments: &str) -> Ended {
    Running::start(arguments).wait()
}

/// A server that serves one client, and the URL it prints.
pub(crate) fn server(url: &str) -> (Running, String) {
    let mut server = Running::start(&format!("perf server {url} --once"));
    let line = server.line();
    let Some(url) = line.strip_prefix("listening on ") else {
        panic!("the server says {line:?} and {:?}", server.wait());
    };
    let url = url.to_owned();
    (server, url)
}

/// A port of UDP's and one of TCP's on loopback that refuse everybody, and that nobody else can have while this lives.
pub(crate) struct Closed {
    pub(crate) udp: SocketAddr,
    pub(crate) tcp: SocketAddr,
    _sockets: ([UdpSocket; 2], TcpListener, TcpStream),
}

impl Closed {
    pub(crate) fn new() -> Self {
        // One that is connected is there for its peer only, and the end of a connection listens to nobody.
        let pair = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let udp = pair[0].local_addr().unwrap();
        pair[0].connect(pair[1].local_addr().unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tcp = stream.local_addr().unwrap();
        Self { udp, tcp, _sockets: (pair, listener, stream) }
    }
}
