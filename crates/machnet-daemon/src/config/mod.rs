//! What an operator writes: `machnet.toml`, validated whole. `examples/machnet.toml` shows all of it.
//!
//! ```text
//!   read.rs    TOML, with the line of everything, and every mistake noted
//!   values.rs  sizes, times, ports, users as people write them
//! ```

mod read;
mod values;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use machnet_async::IdlePolicy;
use machnet_channel::shared::Geometry;
use machnet_core::{MAX_ENGINES, MAX_MESSAGE, Ports, Quota};

use crate::url::DriverUrl;
pub use read::Mistake;
use read::{Reader, Section};
pub(crate) use values::show_size;
use values::{DAY, congestion, cores, group, idle, mode, nice, number, ports, size, socket_path, text, time, user};

/// What is wrong with a configuration: every mistake, in the order of lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it; never empty.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.mistakes.iter().enumerate() {
            write!(f, "{}{}: {mistake}", if i > 0 { "\n" } else { "" }, self.path.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Everything that a daemon is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The vNIC.
    pub driver: DriverUrl,
    /// All but the vNIC.
    pub settings: Settings,
}

/// What a daemon is told, whatever it drives.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// Engines, each with a thread and a queue of its own, among which flows are shared out. Default 1.
    pub engines: usize,
    /// Limits and times of each engine.
    pub engine: machnet_core::Config,
    /// What engines do when nothing is to be done.
    pub idle: IdlePolicy,
    /// The only core that each engine may run on; none: any.
    pub cores: Vec<usize>,
    /// How nice each engine's thread is, from −20 to 19, as far as the system lets it; as the process, if it is none.
    pub nice: Option<i32>,
    /// Where applications find it.
    pub socket: PathBuf,
    /// Who may connect there, as `chmod`. Default 0o660.
    pub mode: u32,
    /// The group of the socket's file; of the process, if it is none.
    pub group: Option<u32>,
    /// Applications at a time. Default 64.
    pub applications: u32,
    /// Bytes of all applications' shared memory and quotas. Default 4 GiB.
    pub memory: u64,
    /// How often applications of one user may attach: per second, twice as many at once. Default 100.
    pub attach_rate: u32,
    /// How long a process waits that attaches again after it wrote what cannot be, the first time; then twice as long each time, up to
    /// 30 s. Default 100 ms.
    pub penance: Duration,
    /// How long a daemon that ends waits for its flows. Default 15 s, which is more than the engine's linger.
    pub drain: Duration,
    /// Who may attach: the first that fits counts.
    pub allow: Vec<Allowance>,
}

/// Applications that may attach, and what each may use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Allowance {
    /// For operators.
    pub name: String,
    /// The user they run as; any, if it is none.
    pub user: Option<u32>,
    /// The group they run as (their primary one); any, if it is none.
    pub group: Option<u32>,
    /// How many may be attached at a time. Default 16.
    pub applications: u32,
    /// The sizes of what is shared with each.
    pub geometry: Geometry,
    /// What each may use.
    pub quota: Quota,
}

impl Settings {
    /// A daemon at `socket`, that lets in what `allow` says.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, allow: Vec<Allowance>) -> Self {
        Self {
            engines: 1,
            engine: machnet_core::Config::default(),
            idle: IdlePolicy::default(),
            cores: Vec::new(),
            nice: None,
            socket: socket.into(),
            mode: 0o660,
            group: None,
            applications: 64,
            memory: 4 << 30,
            attach_rate: 100,
            penance: Duration::from_millis(100),
            drain: Duration::from_secs(15),
            allow,
        }
    }
}

impl Allowance {
    /// Everybody who can open the socket, and any port.
    #[must_use]
    pub fn everybody() -> Self {
        Self {
            name: "everybody".to_owned(),
            user: None,
            group: None,
            applications: 16,
            geometry: Geometry { flows: 128, listeners: 64, descriptors: 1024, data: 1 << 20, max_piece: 16_640 },
            quota: Quota { flows: 128, listeners: 64, memory: 256 << 20, ports: Ports::new(vec![0..=u16::MAX]) },
        }
    }

    /// What one of them does not read is bounded: by the windows of its flows, together no more than its memory.
    ///
    /// # Errors
    /// They are more. The text says what would be right.
    pub fn check(&self, receive_window: u32) -> Result<(), String> {
        let Quota { flows, memory, .. } = self.quota;
        let windows = u64::from(flows) * u64::from(receive_window);
        if windows <= memory {
            return Ok(());
        }
        let (most, window) = (memory / u64::from(receive_window), memory / u64::from(flows));
        let [each, all, has, window] =
            [u64::from(receive_window), windows, memory, window / 1024 * 1024].map(show_size);
        Err(format!(
            "{}: {flows} flows, each with engine.receive_window = {each}, take up to {all}, and memory is {has}; wanted is flows = \
             {most} at most, memory = \"{all}\" at least, or engine.receive_window = \"{window}\" at most",
            self.name
        ))
    }

    /// Bytes that one of them may take in all, of a daemon with so many engines.
    #[must_use]
    pub fn bytes(&self, engines: usize) -> u64 {
        (engines * self.geometry.bytes()) as u64 + self.quota.memory
    }
}

impl Config {
    /// A daemon on `driver`.
    #[must_use]
    pub const fn new(driver: DriverUrl, settings: Settings) -> Self {
        Self { driver, settings }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) => {
                let mistakes = vec![Mistake { line: 0, reason: format!("cannot read it: {error}") }];
                Err(ConfigError { path: path.to_owned(), mistakes })
            }
        }
    }

    /// Reads the text of the file `path`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(text);
        let config = reader.parse().and_then(|root| Self::read(&mut reader, root));
        let mistakes = reader.finish();
        match config {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(ConfigError { path: path.to_owned(), mistakes }),
        }
    }

    fn read(reader: &mut Reader<'_>, mut root: Section<'_>) -> Option<Self> {
        let mut driver = root.section(reader, "driver");
        let url = driver.take(reader, "url", |value| text(value)?.parse::<DriverUrl>());
        let has_url = url.is_some() || !driver.is_whole();
        if !has_url {
            reader.note(driver.span(), "driver.url is missing; wanted is for example \"udp://0.0.0.0\"".to_owned());
        }
        driver.finish(reader, &["url"]);

        let mut settings = Settings::new("", Vec::new());
        let mut engine = root.section(reader, "engine");
        settings.read_engine(reader, &mut engine, url.as_ref());
        engine.finish(reader, ENGINE_KEYS);

        let mut socket = root.section(reader, "socket");
        match socket.take(reader, "path", socket_path) {
            Some(path) => settings.socket = path,
            None if socket.is_whole() => {
                let reason = "socket.path is missing; wanted is for example \"/run/machnet.sock\"";
                reader.note(socket.span(), reason.to_owned());
            }
            None => {}
        }
        set(&mut settings.mode, socket.take(reader, "mode", mode));
        settings.group = socket.take(reader, "group", group);
        socket.finish(reader, &["path", "mode", "group"]);

        let mut limits = root.section(reader, "limits");
        set_u32(&mut settings.applications, limits.take(reader, "applications", number(1..=1024)));
        set(&mut settings.memory, limits.take(reader, "memory", size(1 << 20..=1 << 50)));
        set_u32(&mut settings.attach_rate, limits.take(reader, "attach_rate", number(1..=100_000)));
        set(&mut settings.penance, limits.take(reader, "penance", time(Duration::ZERO..=DAY)));
        set(&mut settings.drain, limits.take(reader, "drain", time(Duration::ZERO..=DAY)));
        limits.finish(reader, &["applications", "memory", "attach_rate", "penance", "drain"]);

        for mut allow in root.sections(reader, "allow") {
            let allowance = Allowance::read(reader, &mut allow, &settings);
            settings.allow.push(allowance);
            allow.finish(reader, ALLOW_KEYS);
        }
        if settings.allow.is_empty() && root.is_whole() {
            reader.note(0..0, "nobody may attach: wanted is at least one [[allow]]".to_owned());
        }
        root.finish(reader, &["driver", "engine", "socket", "limits", "allow"]);
        Some(Self { driver: url?, settings })
    }
}

const ENGINE_KEYS: &[&str] = &[
    "engines",
    "core",
    "cores",
    "nice",
    "idle",
    "max_message",
    "receive_window",
    "send_buffer",
    "max_flows",
    "max_half_open",
    "connect_timeout",
    "dead_peer_timeout",
    "linger",
    "max_ack_delay",
    "congestion",
    "max_payload",
    "reassembly",
    "peer_reassembly",
];

const ALLOW_KEYS: &[&str] =
    &["name", "user", "group", "ports", "applications", "flows", "listeners", "memory", "pipe", "pieces", "piece"];

/// A value, if one was given.
fn set<T>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}

/// [`set`], of what was checked to fit.
fn set_u32(place: &mut u32, given: Option<u64>) {
    if let Some(given) = given {
        *place = given as u32;
    }
}

impl Settings {
    fn read_engine(&mut self, reader: &mut Reader<'_>, section: &mut Section<'_>, url: Option<&DriverUrl>) {
        let must = url.and_then(DriverUrl::engines);
        let engines = section.take(reader, "engines", |value| {
            let engines = number(1..=MAX_ENGINES as u64)(value)? as usize;
            match (url, must) {
                (Some(DriverUrl::Shm(_)), _) if engines > 1 => Err(
                    "shm:// serves one engine: wanted is 1, or a driver of several queues, such as \"udp://0.0.0.0\""
                        .to_owned(),
                ),
                (Some(_), Some(must)) if engines != must => Err(format!(
                    "driver.url opens the port for {must}: wanted is the same number there, as engines={engines}"
                )),
                _ => Ok(engines),
            }
        });
        self.engines = engines.or(must).unwrap_or(self.engines);
        let (many, most) = (self.engines, rustix::thread::CpuSet::MAX_CPU - 1);
        let core = section.take(reader, "core", |value| match number(0..=most as u64)(value)? {
            core if many == 1 => Ok(core as usize),
            _ => Err(format!("there are {many} engines: wanted is engine.cores, a list of so many")),
        });
        let cores = section.take(reader, "cores", cores(many, most));
        self.cores = cores.unwrap_or_else(|| core.into_iter().collect());
        let engine = &mut self.engine;
        self.nice = section.take(reader, "nice", nice);
        set(&mut self.idle, section.take(reader, "idle", idle));
        set_u32(&mut engine.max_message, section.take(reader, "max_message", size(1..=MAX_MESSAGE.into())));
        set_u32(&mut engine.receive_window, section.take(reader, "receive_window", size(2048..=1 << 30)));
        set_u32(&mut engine.send_buffer, section.take(reader, "send_buffer", size(2048..=1 << 30)));
        set_u32(&mut engine.max_flows, section.take(reader, "max_flows", number(1..=1 << 24)));
        set_u32(&mut engine.max_half_open, section.take(reader, "max_half_open", number(1..=1 << 24)));
        set(&mut engine.connect_timeout, section.take(reader, "connect_timeout", time(Duration::from_millis(1)..=DAY)));
        set(
            &mut engine.dead_peer_timeout,
            section.take(reader, "dead_peer_timeout", time(Duration::from_millis(10)..=DAY)),
        );
        set(&mut engine.linger, section.take(reader, "linger", time(Duration::ZERO..=DAY)));
        set(
            &mut engine.max_ack_delay,
            section.take(reader, "max_ack_delay", time(Duration::ZERO..=Duration::from_secs(1))),
        );
        engine.congestion = section.take(reader, "congestion", congestion);
        set_u32(&mut engine.max_payload, section.take(reader, "max_payload", size(1232..=65_507)));
        set(&mut engine.reassembly_bytes, section.take(reader, "reassembly", size(1 << 20..=1 << 46)));
        set(&mut engine.peer_reassembly_bytes, section.take(reader, "peer_reassembly", size(1 << 16..=1 << 46)));
    }
}

impl Allowance {
    fn read(reader: &mut Reader<'_>, section: &mut Section<'_>, settings: &Settings) -> Self {
        let mut allowance = Self::everybody();
        set(&mut allowance.name, section.take(reader, "name", text));
        allowance.user = section.take(reader, "user", user);
        allowance.group = section.take(reader, "group", group);
        set_u32(&mut allowance.applications, section.take(reader, "applications", number(1..=1024)));
        let Quota { flows, listeners, memory, ports: may } = &mut allowance.quota;
        *may = section.take(reader, "ports", ports).unwrap_or_default();
        set_u32(flows, section.take(reader, "flows", number(1..=16_384)));
        set_u32(listeners, section.take(reader, "listeners", number(0..=64)));
        set(memory, section.take(reader, "memory", size(1 << 20..=1 << 46)));
        let geometry = &mut allowance.geometry;
        // Each side may open as many as there may be.
        geometry.flows = flows.next_multiple_of(64);
        geometry.listeners = (*listeners).max(1);
        set_u32(&mut geometry.data, section.take(reader, "pipe", size(8192..=4 << 20)));
        set_u32(&mut geometry.descriptors, section.take(reader, "pieces", number(64..=32_768)));
        set_u32(&mut geometry.max_piece, section.take(reader, "piece", size(1252..=65_507)));
        if let Err(reason) = geometry.check() {
            reader.note(section.span(), format!("{}: {reason}", allowance.name));
        } else if allowance.bytes(settings.engines) > settings.memory {
            let (one, all) = (show_size(allowance.bytes(settings.engines)), show_size(settings.memory));
            let reason = format!("{}: one application takes up to {one}, and limits.memory is {all}", allowance.name);
            reader.note(section.span(), reason);
        } else if let Err(reason) = allowance.check(settings.engine.receive_window) {
            reader.note(section.span(), reason);
        }
        allowance
    }
}

#[cfg(test)]
mod tests;
