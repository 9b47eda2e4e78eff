//! The Wireshark dissector `tools/machnet.lua`, run by tshark on two captures:
//!
//! - `tools/sample.pcapng`, which `sample_capture` (an example of machnet-sim) makes of the wire formats' own emitters: every
//!   packet type, every chunk, and every fault; what tshark says of it is committed too;
//! - real traffic of `echo_client` and `echo_server` over a link with too short a queue: every packet is dissected, none is
//!   malformed, and the messages in it are those that the client sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::{self, Exchange, Hosts};
use crate::run::{self, Running, capture};
use crate::test::cargo;
use crate::{root, target, tools};

const SCRIPT: &str = "tools/machnet.lua";
const SAMPLE: &str = "tools/sample.pcapng";
const SAID: &str = "tools/sample.txt";

const LIMIT: Duration = Duration::from_secs(5 * 60);

/// Enough for parts, losses and full bitmaps; little enough for tshark.
const EXCHANGE: Exchange =
    Exchange { client: "10.77.0.1", server: "10.77.0.2", messages: 500, max_size: 200_000, seed: 3 };

/// A rate that the programs exceed, and a queue that overflows.
const QUEUE: [&str; 7] = ["tbf", "rate", "400mbit", "burst", "20kb", "limit", "60kb"];

/// A datagram that ends the capture.
const LAST: &str = "the-last-of-this-capture";

/// Runs both.
pub(crate) fn check(programs: &Path) -> Result<()> {
    // Before it goes anywhere else: this needs no namespace.
    sample()?;
    if !tools::is_root() {
        return netns::in_user_namespace("dissector");
    }
    traffic(programs)
}

/// The committed sample is what the emitters write, and what tshark says of it is what is committed.
fn sample() -> Result<()> {
    let made = target().join("xtask/sample.pcapng");
    let mut example = cargo("run");
    example.args(["--quiet", "--locked", "--package", "machnet-sim", "--example", "sample_capture", "--"]).arg(&made);
    fs::create_dir_all(target().join("xtask"))?;
    run::run(&mut example, LIMIT)?;
    same(&made, SAMPLE)?;

    let fields = ["frame.number", "_ws.col.Protocol", "_ws.col.Info", "machnet.ack.ranges", "_ws.expert.message"];
    let said = target().join("xtask/sample.txt");
    fs::write(&said, fields_of(&root().join(SAMPLE), &[], &fields)?)?;
    same(&said, SAID)?;

    // The three ways to get there: nothing, without the first; by the port; by hand.
    let all = fs::read_to_string(root().join(SAID))?.lines().count();
    for (arguments, expected) in
        [(&[][..], 0), (&["-o", "machnet.ports:9000"], all), (&["-d", "udp.port==9000,machnet"], all)]
    {
        let arguments = [&["--disable-heuristic", "machnet_udp"], arguments].concat();
        let text = fields_of(&root().join(SAMPLE), &arguments, &["_ws.col.Protocol"])?;
        let found = text.lines().filter(|&protocol| protocol == "Machnet").count();
        ensure!(found == expected, "{found} packets dissected with {}, not {expected}", arguments.join(" "));
    }
    Ok(())
}

fn same(made: &Path, committed: &str) -> Result<()> {
    if fs::read(made)? != fs::read(root().join(committed)).with_context(|| format!("cannot read {committed}"))? {
        bail!(
            "{committed} is not {}: look at the difference, and copy it over if it is as it should be",
            made.display()
        );
    }
    Ok(())
}

fn traffic(programs: &Path) -> Result<()> {
    let file = target().join("xtask/traffic.pcapng");
    let hosts = Hosts::new()?;
    // Packets are captured as they are on the wire, not as a device with segmentation offload would get them.
    for host in [&hosts.a, &hosts.b] {
        netns::ip(&["-n", &host.name, "link", "set", "eth0", "gso_max_segs", "1"])?;
    }
    let mut queue = hosts.a.command(Path::new("tc"));
    queue.args(["qdisc", "add", "dev", "eth0", "root"]).args(QUEUE);
    run::run(&mut queue, LIMIT)?;

    let mut dumpcap = hosts.a.command(Path::new("dumpcap"));
    dumpcap.args(["-q", "-i", "eth0", "-B", "64", "-f", "udp", "-w"]).arg(&file);
    println!("$ {} &", run::describe(&dumpcap));
    // What it says at the end names what it missed.
    let log = target().join("xtask/dumpcap.log");
    let out = fs::File::create(&log)?;
    dumpcap.stdout(out.try_clone()?).stderr(out);
    let mut dumpcap = Running::start(&mut dumpcap)?;
    let ready = run::wait_until(Duration::from_secs(20), || {
        if let Some(status) = dumpcap.ended()? {
            bail!("dumpcap ended: {status}; see {}", log.display());
        }
        Ok(fs::read_to_string(&log).unwrap_or_default().contains("File: "))
    })?;
    ensure!(ready, "dumpcap did not begin within 20 s; see {}", log.display());
    EXCHANGE.run(&hosts, programs)?;
    // What was captured reaches the file late. When this has, everything before it has.
    let mut last = hosts.a.command(Path::new("bash"));
    last.args(["-c", &format!("printf %s {LAST} > /dev/udp/{}/{}", EXCHANGE.server, netns::PORT + 1)]);
    run::run(&mut last, LIMIT)?;
    let written = run::wait_until(Duration::from_secs(20), || {
        Ok(fs::read(&file)?.windows(LAST.len()).any(|window| window == LAST.as_bytes()))
    })?;
    ensure!(written, "dumpcap did not write the last packet within 20 s; see {}", log.display());
    interrupt(&dumpcap)?;
    dumpcap.wait(Duration::from_secs(20))?;
    let said = fs::read_to_string(&log)?;
    ensure!(said.contains("/0 ("), "dumpcap missed packets:\n{said}");
    judge(&file)
}

/// Asks for an orderly end.
fn interrupt(running: &Running) -> Result<()> {
    let pid = i32::try_from(running.id()).ok().and_then(Pid::from_raw).context("a process has an id")?;
    kill_process(pid, Signal::INT).context("cannot interrupt dumpcap")
}

/// Counts what tshark finds in the capture.
fn judge(file: &Path) -> Result<()> {
    let fields = [
        "_ws.col.Protocol",
        "machnet.type",
        "machnet.flow",
        "machnet.message.id",
        "machnet.message.total",
        "machnet.fin",
        "machnet.ack.bitmap",
        "_ws.malformed",
        "_ws.expert.message",
    ];
    let text = fields_of(file, &[], &fields)?;
    let mut types: BTreeMap<String, u32> = BTreeMap::new();
    let mut messages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut fins: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut packets, mut parts, mut bitmaps) = (0u32, 0u32, 0u32);
    for (i, line) in text.lines().enumerate() {
        let values: Vec<_> = line.split('\t').collect();
        let [protocol, kind, flow, ids, totals, fin, bitmap, malformed, expert] = values[..] else {
            bail!("tshark says `{line}`, not {} fields", fields.len());
        };
        ensure!(protocol == "Machnet", "packet {} is taken for {protocol}", i + 1);
        ensure!(malformed.is_empty() && expert.is_empty(), "packet {}: {expert} {malformed}", i + 1);
        packets += 1;
        *types.entry(kind.to_owned()).or_default() += 1;
        messages.entry(flow.to_owned()).or_default().extend(list(ids));
        fins.entry(flow.to_owned()).or_default().extend(list(fin));
        parts += u32::from(!totals.is_empty());
        bitmaps += u32::from(!bitmap.is_empty());
    }
    println!("{packets} packets dissected, by type {types:?}; {parts} with parts, {bitmaps} with bitmaps");
    for (name, kind) in [("INIT", "1"), ("ACCEPT", "2"), ("DATA", "4")] {
        ensure!(types.contains_key(kind), "no {name} among {types:?}");
    }
    ensure!(parts > 0, "no part of a message");
    ensure!(bitmaps > 0, "no acknowledgement of more than one run: nothing was lost");
    // By the flow id of the receiver: one for each direction.
    messages.retain(|_, ids| !ids.is_empty());
    ensure!(messages.len() == 2, "messages in {} flows, not in two directions", messages.len());
    let expected = EXCHANGE.messages as usize;
    for (flow, ids) in &messages {
        ensure!(ids.len() == expected, "{} messages to {flow}; the client sent {expected}", ids.len());
        let fin = fins.get(flow).map(|fin| fin.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_or_default();
        ensure!(fin == [expected.to_string()], "FIN of {flow} names {fin:?}, not {expected}");
    }
    println!("{expected} messages each way, as the client said");
    Ok(())
}

/// The values of a field that occurs several times in a packet.
fn list(values: &str) -> impl Iterator<Item = String> {
    values.split(',').filter(|value| !value.is_empty()).map(str::to_owned)
}

/// What tshark says of each packet: a line of fields, parted by tabs.
fn fields_of(file: &Path, arguments: &[&str], fields: &[&str]) -> Result<String> {
    let mut tshark = Command::new("tshark");
    tshark.current_dir(root()).args(["-n", "-r"]).arg(file).arg("-X").arg(format!("lua_script:{SCRIPT}"));
    // Whatever this user's Wireshark is set to does not count.
    tshark.env("WIRESHARK_CONFIG_DIR", config_dir()?).args(["-T", "fields", "-E", "occurrence=a"]);
    tshark.args(arguments).arg("-Y").arg(format!("udp.port == {}", netns::PORT));
    for field in fields {
        tshark.args(["-e", field]);
    }
    let log = target().join("xtask/tshark.log");
    println!("$ {}", run::describe(&tshark));
    let ran = capture(&mut tshark, LIMIT, &log)?;
    ensure!(ran.status.success(), "tshark failed: {}; see {}", ran.status, log.display());
    ensure!(!ran.text.contains("Lua Error"), "the dissector failed; see {}", log.display());
    // Standard error comes along.
    Ok(ran.text.lines().filter(|line| !line.starts_with("Running as user")).map(|line| format!("{line}\n")).collect())
}

fn config_dir() -> Result<PathBuf> {
    let dir = target().join("xtask/wireshark");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}
