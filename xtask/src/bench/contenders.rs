//! Who is measured. A contender is a transport with the settings that make it good at what it is measured at, on cores
//! that are the same for all: the client's process on one, the server's on another, engine threads included.

/// A transport and its settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) scheme: &'static str,
    /// Options of both sides.
    pub(crate) options: &'static [&'static str],
    /// Both processes on one core: no wake-up crosses cores.
    pub(crate) one_core: bool,
    /// The kind of a bad neighbour, another application of the server's daemon.
    pub(crate) beside: Option<&'static str>,
    /// Engine threads of each side, if it is to be said: two are on both cores.
    pub(crate) engines: Option<usize>,
}

pub(crate) const fn on_two_cores(
    name: &'static str,
    scheme: &'static str,
    options: &'static [&'static str],
) -> Contender {
    Contender { name, scheme, options, one_core: false, beside: None, engines: None }
}

/// The engine is a task of the runtime, and never sleeps.
pub(crate) const SPIN: Contender = on_two_cores("machnet spin", "udp", &["--placement", "inline", "--spin"]);
/// The same with the default idle policy: it sleeps after 100 µs.
pub(crate) const INLINE: Contender = on_two_cores("machnet", "udp", &["--placement", "inline"]);
/// The library's defaults: an engine thread, on the same core as its application.
pub(crate) const THREAD: Contender = on_two_cores("machnet thread", "udp", &["--placement", "thread", "--park-hook"]);
pub(crate) const SHM_SPIN: Contender = on_two_cores("machnet shm spin", "shm", &["--placement", "inline", "--spin"]);
pub(crate) const SHM: Contender = on_two_cores("machnet shm", "shm", &["--placement", "inline"]);
pub(crate) const TCP: Contender = on_two_cores("tcp", "tcp", &[]);
pub(crate) const TCP_ONE_CORE: Contender = Contender { one_core: true, ..on_two_cores("tcp one core", "tcp", &[]) };
pub(crate) const TCP_SPIN: Contender = on_two_cores("tcp spin", "tcp+spin", &[]);
pub(crate) const UDP_SPIN: Contender = on_two_cores("bare udp spin", "udp+spin", &[]);
pub(crate) const QUIC: Contender = on_two_cores("quic", "quic", &[]);
pub(crate) const UDS: Contender = on_two_cores("uds", "uds", &[]);

pub(crate) const ONE_ENGINE: Contender = Contender { name: "machnet 1 engine", engines: Some(1), ..THREAD };
pub(crate) const TWO_ENGINES: Contender = Contender { name: "machnet 2 engines", engines: Some(2), ..THREAD };

impl Contender {
    /// The cores of client and server.
    pub(crate) const fn cores(&self) -> (usize, usize) {
        if self.one_core { (0, 0) } else { (0, 1) }
    }

    /// What `perf`'s `--pin` is told: the runtime's core, and the first of those of several engines.
    pub(crate) fn pins(&self) -> (String, String) {
        let (client, server) = self.cores();
        let pin = |core| if self.engines > Some(1) { format!("{core},0") } else { format!("{core}") };
        (pin(client), pin(server))
    }
}
