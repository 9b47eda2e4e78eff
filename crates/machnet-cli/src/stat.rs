//! `machnet stat`: how a daemon and its applications do. Rates come from asking twice.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use machnet_channel::shared::Call;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send, socket_with,
};
use serde_json::{Value, json};

use crate::args::positive_duration;

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than a daemon sends.
const LONGEST: usize = 1 << 20;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The daemon's socket; by default that of MACHNET_ENDPOINT=unix://…, else /run/machnet/machnet.sock
    #[arg(long)]
    socket: Option<PathBuf>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
    /// Ask twice, so long apart, for rates
    #[arg(long, default_value = "200ms", value_parser = positive_duration)]
    interval: Duration,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let path = options.socket.clone().unwrap_or_else(default_socket);
    let before = ask(&path)?;
    std::thread::sleep(options.interval);
    let mut after = ask(&path)?;
    add_rates(&before, &mut after);
    if options.json {
        println!("{after}")
    } else {
        show(&after)
    }
    Ok(ExitCode::SUCCESS)
}

fn default_socket() -> PathBuf {
    let endpoint = std::env::var("MACHNET_ENDPOINT").ok();
    let path = endpoint.as_deref().and_then(|url| url.strip_prefix("unix://"));
    path.unwrap_or("/run/machnet/machnet.sock").into()
}

fn ask(path: &Path) -> anyhow::Result<Value> {
    let at = || format!("no daemon at {}", path.display());
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path).with_context(at)?).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("{}: there is no such socket", at()),
        ErrorKind::ConnectionRefused => anyhow::anyhow!("{}: nobody listens there any more", at()),
        ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{}: no permission: who may connect to the socket may ask", path.display())
        }
        _ => anyhow::Error::from(error).context(at()),
    })?;
    send(&socket, &Call::Stat.emit(), SendFlags::NOSIGNAL).with_context(at)?;
    let patience = Timespec::try_from(PATIENCE)?;
    loop {
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&patience)) {
            Ok(0) => bail!("the daemon at {} does not answer", path.display()),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut bytes = vec![0; LONGEST];
    let (len, _) = recv(&socket, &mut bytes[..], RecvFlags::empty()).with_context(at)?;
    if len == 0 {
        bail!("the daemon at {} closed the connection", path.display());
    }
    serde_json::from_slice(&bytes[..len]).context("the daemon's answer is no JSON")
}

/// Counters of engines that have a rate.
const ENGINE_RATES: [&str; 5] = ["packets_received", "packets_sent", "handed_over", "taken_over", "rounds"];

/// Counters of applications that have a rate, and its name.
const RATES: [(&str, &str); 4] = [
    ("messages_sent", "messages_sent_per_s"),
    ("messages_received", "messages_received_per_s"),
    ("bytes_sent", "bytes_sent_per_s"),
    ("bytes_received", "bytes_received_per_s"),
];

fn add_rates(before: &Value, after: &mut Value) {
    let seconds = (number(after, "uptime_ns") - number(before, "uptime_ns")) / 1e9;
    let add = |before: &Value, after: &mut Value, counter: &str, rate: &str| {
        if seconds > 0.0 {
            after[rate] = json!(((number(after, counter) - number(before, counter)) / seconds).round());
        }
    };
    for counter in ENGINE_RATES {
        add(&before["engine"], &mut after["engine"], counter, &format!("{counter}_per_s"));
    }
    let engines: Vec<Value> = before["engines"].as_array().cloned().unwrap_or_default();
    for (before, engine) in engines.iter().zip(after["engines"].as_array_mut().into_iter().flatten()) {
        for counter in ENGINE_RATES {
            add(before, engine, counter, &format!("{counter}_per_s"));
        }
        if seconds > 0.0 {
            let busy = (number(engine, "busy_ns") - number(before, "busy_ns")) / 1e9 / seconds;
            // The counters of an engine are as old as its last report of them.
            engine["busy_share"] = json!(busy.clamp(0.0, 1.0));
        }
    }
    let earlier: Vec<Value> = before["applications"].as_array().cloned().unwrap_or_default();
    for application in after["applications"].as_array_mut().into_iter().flatten() {
        if let Some(before) = earlier.iter().find(|before| before["id"] == application["id"]) {
            for (counter, rate) in RATES {
                add(before, application, counter, rate);
            }
        }
    }
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_default()
}

/// For a terminal: what applications call themselves must not write on it where they like.
fn text(value: &Value, key: &str) -> String {
    match &value[key] {
        Value::String(text) => text.escape_debug().to_string(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn counts(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten();
    let shown: Vec<String> = pairs.map(|(name, n)| format!("{name} {n}")).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

fn show(value: &Value) {
    let engine = &value["engine"];
    println!(
        "{} at {}, {} s up",
        text(value, "driver"),
        text(value, "home"),
        (number(value, "uptime_ns") / 1e9).round()
    );
    println!(
        "packets: {} received ({}/s), {} sent ({}/s), {} lost; {} flows; slept {} times",
        text(engine, "packets_received"),
        text(engine, "packets_received_per_s"),
        text(engine, "packets_sent"),
        text(engine, "packets_sent_per_s"),
        text(engine, "packets_lost"),
        text(engine, "flows"),
        text(engine, "sleeps"),
    );
    println!("dropped: {}", counts(&engine["drops"]));
    for (n, engine) in value["engines"].as_array().into_iter().flatten().enumerate() {
        println!(
            "engine {n}{}: {:.1} % busy, {} rounds/s; {} flows; {} packets/s in, {} out; handed over {} ({:.4} of what came), took \
             over {}; {} lost to a full ring",
            if engine["silent"] == true { " STANDS STILL (what follows is old)" } else { "" },
            100.0 * number(engine, "busy_share"),
            text(engine, "rounds_per_s"),
            text(engine, "flows"),
            text(engine, "packets_received_per_s"),
            text(engine, "packets_sent_per_s"),
            text(engine, "handed_over"),
            number(engine, "handover_ratio"),
            text(engine, "taken_over"),
            text(engine, "handover_drops"),
        );
    }
    println!(
        "attached {}; refused: {}; ended: {}",
        text(value, "attached"),
        counts(&value["refused"]),
        counts(&value["ended"])
    );
    if number(value, "left_out") > 0.0 {
        println!("{} applications are not shown, for want of room", text(value, "left_out"));
    }
    for application in value["applications"].as_array().into_iter().flatten() {
        println!(
            "\n{} (process {}, user {}, as \"{}\"): {} flows, ports {}",
            text(application, "name"),
            text(application, "pid"),
            text(application, "uid"),
            text(application, "allowed_as"),
            text(application, "flows"),
            text(application, "ports"),
        );
        println!(
            "  sent {} messages ({}/s, {} B/s), received {} ({}/s, {} B/s); {} B held, {} B wait; {} refused",
            text(application, "messages_sent"),
            text(application, "messages_sent_per_s"),
            text(application, "bytes_sent_per_s"),
            text(application, "messages_received"),
            text(application, "messages_received_per_s"),
            text(application, "bytes_received_per_s"),
            text(application, "held_bytes"),
            text(application, "waiting_bytes"),
            text(application, "refused"),
        );
        for flow in application["some_flows"].as_array().into_iter().flatten() {
            println!(
                "  {} → {} {}: rtt {} µs, {} packets lost of {}",
                text(flow, "local"),
                text(flow, "peer"),
                text(flow, "state"),
                number(flow, "rtt_ns") / 1e3,
                text(flow, "packets_lost"),
                text(flow, "packets_sent"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_application_calls_itself_does_not_reach_the_terminal_as_it_is() {
        let value = json!({ "name": "\u{1b}[2Jtop\n\u{202e}x ä", "n": 3, "none": null });
        assert_eq!(text(&value, "name"), "\\u{1b}[2Jtop\\n\\u{202e}x ä");
        assert_eq!([text(&value, "n"), text(&value, "none")], ["3", "-"]);
    }
}
