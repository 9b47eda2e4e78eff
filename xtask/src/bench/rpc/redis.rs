//! redis-benchmark against redis-server.
//!
//! ```text
//!   core 0                               core 1
//!   redis-benchmark ─────────tcp───────▶ redis-server                     tcp direct
//!   redis-benchmark ─▶ tcp_proxy ══════▶ tcp_proxy ─▶ redis-server        gateways, over TCP or Machnet
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::stage::{Stage, ours};
use crate::bench::cell::Side;
use crate::bench::contenders::Contender;
use crate::rpc::{free_tcp_port, free_udp_port, wait_for_tcp, wait_for_udp};
use crate::run::{Running, describe};
use crate::tools;

const TESTS: [&str; 2] = ["set", "get"];
const CLIENTS: &str = "50";

pub(super) fn measure(stage: &Stage<'_>, contender: &Contender, pipeline: u32, millis: u64) -> Result<Value> {
    let behind = contender.scheme != "direct";
    // Behind a gateway it is on the gateway's own host.
    let ip = if behind { "127.0.0.1" } else { stage.server_ip() };
    let port = free_tcp_port()?;
    let mut server = stage.command(Side::Server, &tools::path("redis-server"));
    server.args([
        "--port",
        &port.to_string(),
        "--bind",
        ip,
        "--protected-mode",
        "no",
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    server.args(["--loglevel", "warning", "--dir"]).arg(&stage.log);
    let mut server = stage.start(&mut server, "redis-server")?;
    wait_for_tcp(&mut server, port)?;
    let gateways = behind.then(|| gateways(stage, contender, port)).transpose()?;
    let (ip, port) = gateways.as_ref().map_or((ip, port), |(near, _)| ("127.0.0.1", *near));

    // About as long as was asked for, at 20 000 commands per second and client's core; more in pipelines.
    let requests = millis * 20 * if pipeline > 1 { 8 } else { 1 };
    let mut load = stage.command(Side::Client, &tools::path("redis-benchmark"));
    load.args(["-h", ip, "-p", &port.to_string(), "-c", CLIENTS, "-d", "100", "-n", &requests.to_string()]);
    load.args(["-P", &pipeline.to_string(), "-t", &TESTS.join(","), "--csv"]);
    let said = stage.run(&mut load, "redis-benchmark")?;
    let mut report = parse(&said)?;
    report["command"] = describe(&load).into();
    report["operations"] = requests.into();
    Ok(report)
}

/// A pair of gateways before the server: the near one's port, and both.
fn gateways(stage: &Stage<'_>, contender: &Contender, server: u16) -> Result<(u16, [Running; 2])> {
    let proxy: PathBuf = ours("examples").join("tcp_proxy");
    let start = |side, name, listen: &str, connect: &str| {
        let mut command = stage.command(side, &proxy);
        stage.start(command.args(["--listen", listen, "--connect", connect]).args(contender.options), name)
    };
    let scheme = contender.scheme;
    let tcp = scheme == "tcp";
    let far = if tcp { free_tcp_port()? } else { free_udp_port()? };
    let between = format!("{scheme}://{}:{far}", stage.server_ip());
    let mut to_server = start(Side::Server, "far", &between, &format!("tcp://127.0.0.1:{server}"))?;
    if tcp {
        wait_for_tcp(&mut to_server, far)?
    } else {
        wait_for_udp(&mut to_server, far)?
    }
    let near = free_tcp_port()?;
    let mut to_far = start(Side::Client, "near", &format!("tcp://127.0.0.1:{near}"), &between)?;
    wait_for_tcp(&mut to_far, near)?;
    Ok((near, [to_far, to_server]))
}

/// A table whose first line names the columns: `"test","rps",…,"p50_latency_ms",…`.
fn parse(csv: &str) -> Result<Value> {
    let row = |line: &str| line.split(',').map(|cell| cell.trim().trim_matches('"').to_owned()).collect::<Vec<_>>();
    let mut lines = csv.lines().filter(|line| line.starts_with('"'));
    let columns = row(lines.next().context("redis-benchmark printed no table")?);
    let mut report = Map::new();
    for cells in lines.map(row) {
        let number = |column: &str| -> Result<f64> {
            let at = columns.iter().position(|name| name == column);
            let cell = at.and_then(|at| cells.get(at)).with_context(|| format!("redis-benchmark has no {column}"))?;
            cell.parse().with_context(|| format!("redis-benchmark's {column} is {cell}"))
        };
        let numbers = json!({
            "rate_per_s": number("rps")?,
            "p50_us": number("p50_latency_ms")? * 1e3,
            "p99_us": number("p99_latency_ms")? * 1e3,
            "max_us": number("max_latency_ms")? * 1e3,
        });
        report.insert(cells[0].to_lowercase(), numbers);
    }
    for test in TESTS {
        ensure!(report.contains_key(test), "redis-benchmark did not do {test}:\n{csv}");
    }
    Ok(Value::Object(report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_redis_benchmark() {
        let table = "\"test\",\"rps\",\"avg_latency_ms\",\"p50_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
                     \"SET\",\"1000.50\",\"0.2\",\"0.150\",\"0.9\",\"2.0\"\n\"GET\",\"2000\",\"0.2\",\"0.1\",\"0.8\",\"1\"\n";
        let report = parse(table).unwrap();
        assert_eq!(report["set"]["rate_per_s"], 1000.5);
        assert_eq!((&report["set"]["p50_us"], &report["get"]["p99_us"]), (&150.0.into(), &800.0.into()));
        for bad in ["", "\"test\",\"rps\"\n\"SET\",\"1\"\n", "Error: no server", &table.replace("GET", "PING")] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
