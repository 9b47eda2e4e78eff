//! Each transport, each mode, each output. Counts only: how fast it is depends on what else the machine does.

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Ended, Running, machnet, server};

/// Measures `url` and returns what was printed.
fn measure(url: &str, options: &str) -> Ended {
    let (server, url) = server(url);
    let client = machnet(&format!("perf client {url} {options}"));
    assert!(client.status.success(), "{client:?}");
    let server = server.wait();
    assert!(server.status.success(), "{server:?}");
    assert_eq!(server.err, "");
    client
}

/// `measure` with JSON, checked for what is always in it.
fn report(url: &str, options: &str, operations: u64) -> Value {
    let report = measure(url, &format!("{options} --json")).json();
    assert_eq!(report["operations"], operations, "{report}");
    assert_eq!(report["errors"], 0, "{report}");
    assert!(report["rate_per_s"].as_f64().unwrap() > 0.0, "{report}");
    for field in ["gbit_per_s", "p50_us", "p99_us", "p999_us", "cpu_us_per_op", "load_before"] {
        assert!(report.get(field).is_some(), "{field} is missing: {report}");
    }
    assert!(report["cpu_us_per_op"].as_f64().unwrap() > 0.0, "{report}");
    for side in ["client", "server"] {
        assert!(!report[side]["threads"].as_array().unwrap().is_empty(), "{report}");
        assert!(report[side]["rss_bytes"].as_u64().unwrap() > 0, "{report}");
    }
    report
}

/// The acceptance of the issue, count-bounded.
fn round_trips(url: &str) {
    let report = report(url, "--size 1024 --outstanding 32 --count 2000 --warmup 100 --verify", 2000);
    let [min, p50, p99, p999, max] =
        ["min_us", "p50_us", "p99_us", "p999_us", "max_us"].map(|field| report[field].as_f64().unwrap());
    assert!(0.0 < min && min <= p50 && p50 <= p99 && p99 <= p999 && p999 <= max, "{report}");
    assert!(report["gbit_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(report["verified"], true);
}

#[test]
fn udp_round_trips() {
    round_trips("udp://127.0.0.1:0");
}

#[test]
fn udp_round_trips_over_ipv6() {
    round_trips("udp://[::1]:0");
}

/// Flows find pairs of ports whose packets hit the right one of four engines on either side, though the kernel tells nobody
/// which those are. Only packets are counted: what was handed over before, while they were looked for, is not.
#[test]
fn several_engines_hand_next_to_nothing_over() {
    let (server, url) = server("udp://127.0.0.1:0?engines=4");
    let client = machnet(&format!("perf client {url}?engines=4 --flows 8 --count 20000 --warmup 8000 --json"));
    assert!(client.status.success(), "{client:?}");
    let report = client.json();
    assert!(server.wait().status.success());
    let ratio = report["handover_ratio"].as_f64().unwrap();
    assert!(ratio < 0.001, "{report}");
    assert!(report["client"]["counts"]["probes_sent"].as_u64().unwrap() > 0, "{report}");
    let threads = report["client"]["threads"].as_array().unwrap();
    let engines = threads.iter().filter(|thread| thread["name"].as_str().unwrap().starts_with("engine-")).count();
    assert_eq!(engines, 4, "{report}");
}

#[test]
fn shm_round_trips() {
    round_trips(&format!("shm://test-{}", std::process::id()));
}

#[test]
fn tcp_round_trips() {
    round_trips("tcp://127.0.0.1:0");
}

#[test]
fn quic_round_trips() {
    round_trips("quic://127.0.0.1:0");
}

#[test]
fn uds_round_trips() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    round_trips(&format!("uds://{}", path.display()));
    assert!(!path.exists(), "the server takes its file away");
}

/// Two processes that spin fight for the cores of a busy machine: few messages.
#[test]
fn spinning_round_trips() {
    for url in ["tcp+spin://127.0.0.1:0", "udp+spin://127.0.0.1:0"] {
        report(url, "--size 64 --count 20 --warmup 2 --verify", 20);
    }
}

#[test]
fn sizes_from_nothing_to_megabytes() {
    for url in ["udp://127.0.0.1:0", "tcp://127.0.0.1:0", "quic://127.0.0.1:0"] {
        for size in ["0", "1", "1MiB"] {
            report(url, &format!("--size {size} --count 9 --outstanding 2 --warmup 1 --verify"), 9);
        }
    }
}

#[test]
fn one_way() {
    let folder = tempfile::tempdir().unwrap();
    let uds = format!("uds://{}", folder.path().join("socket").display());
    for url in ["udp://127.0.0.1:0", "tcp://127.0.0.1:0", "quic://127.0.0.1:0", &uds] {
        let report = report(url, "--mode stream --flows 2 --size 300 --count 5001 --warmup 10 --verify", 5001);
        assert!(report["p50_us"].is_null(), "one way has no round trip: {report}");
    }
}

#[test]
fn connecting_and_closing() {
    for url in ["udp://127.0.0.1:0", "tcp://127.0.0.1:0", "quic://127.0.0.1:0"] {
        let report = report(url, "--mode connect --outstanding 4 --count 100 --warmup 5", 100);
        assert!(report["p50_us"].as_f64().unwrap() > 0.0, "{report}");
    }
}

/// More streams than a connection of quinn's has.
#[test]
fn many_flows() {
    for url in ["udp://127.0.0.1:0", "tcp://127.0.0.1:0", "quic://127.0.0.1:0"] {
        report(url, "--flows 150 --count 300 --warmup 0 --verify", 300);
    }
}

#[test]
fn idle_flows() {
    let report = report("udp://127.0.0.1:0", "--mode idle --flows 200 --duration 50ms", 200);
    for side in ["client", "server"] {
        assert!(report[side]["memory_per_flow_bytes"].is_number(), "{report}");
    }
}

#[test]
fn an_open_loop_sends_what_is_due() {
    for url in ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"] {
        let report = report(url, "--rate 5k --flows 3 --count 500 --warmup 10", 500);
        assert_eq!(report["offered_rate"], 5000.0);
        let (latency, service) = (report["p50_us"].as_f64().unwrap(), report["service_p50_us"].as_f64().unwrap());
        assert!(latency >= service, "counted from when it was due: {report}");
    }
}

#[test]
fn placements_and_idle_policies() {
    for options in [
        "--placement thread --spin-us 20 --yield-us 50 --park-hook",
        "--placement inline",
        "--placement inline --yield-us 0 --pin 0",
        "--pin 0 --max-payload 1400",
        "--congestion cubic",
        "--congestion swift",
        "--congestion fixed:1",
        "--congestion fixed:16MiB",
    ] {
        let report = report("udp://127.0.0.1:0", &format!("--count 200 --warmup 10 {options}"), 200);
        let placement = if options.contains("inline") { "inline" } else { "thread" };
        assert_eq!(report["client"]["runs"]["placement"], placement, "{report}");
        assert_eq!(report["client"]["runs"]["congestion"].is_null(), !options.contains("congestion"), "{report}");
    }
}

#[test]
fn a_table_and_csv() {
    let table = measure("tcp://127.0.0.1:0", "--count 50 --warmup 5").out;
    for part in ["round trips of 1024 B", "50, errors 0", "p99.9", "CPU"] {
        assert!(table.contains(part), "{part:?} is not in {table}");
    }
    let csv = measure("tcp://127.0.0.1:0", "--count 50 --warmup 5 --csv").out;
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), lines[0].len()), (2, lines[1].len()), "{csv}");
    let column = lines[0].iter().position(|name| *name == "operations").unwrap();
    assert_eq!(lines[1][column], "50");
}

#[test]
fn an_interruption_prints_what_was_measured() {
    let (_server, url) = server("udp://127.0.0.1:0");
    let mut client = Running::start_logged(&format!("perf client {url} --rate 100 --duration 10m --warmup 1 --json"));
    client.wait_for_log("measured so far");
    client.signal(Signal::INT);
    let ended = client.wait();
    let report = ended.json();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    assert_eq!((&report["interrupted"], &report["errors"]), (&Value::Bool(true), &Value::from(0)), "{report}");
    assert!(report["operations"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn a_server_that_is_killed_is_counted_as_errors() {
    for url in ["udp://127.0.0.1:0", "tcp://127.0.0.1:0", "quic://127.0.0.1:0"] {
        let (mut server, url) = server(url);
        let options = "--outstanding 4 --duration 10m --warmup 1 --timeout 1s --json";
        let mut client = Running::start_logged(&format!("perf client {url} {options}"));
        client.wait_for_log("measured so far");
        server.kill();
        let ended = client.wait();
        let report = ended.json();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(report["errors"].as_u64().unwrap() > 0, "{report}");
        assert!(report["operations"].as_u64().unwrap() > 0, "what was measured is reported: {report}");
        assert!(report["server"].is_null(), "{report}");
        assert!(ended.err.contains("errors; the first: "), "{ended:?}");
    }
}

#[test]
fn a_server_that_stands_still_is_not_waited_for() {
    let (server, url) = server("tcp://127.0.0.1:0");
    let options = "--outstanding 4 --duration 10m --warmup 1 --timeout 1s --json";
    let mut client = Running::start_logged(&format!("perf client {url} {options}"));
    client.wait_for_log("measured so far");
    server.signal(Signal::STOP);
    let ended = client.wait();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.err.contains("nothing happened for "), "{ended:?}");
    server.signal(Signal::CONT);
}

/// The client ends while it still opens its flows: the server hears of that, and need not find out by silence.
#[test]
fn a_client_that_gives_up_tells_its_server() {
    let (server, url) = server("udp://127.0.0.1:0 --timeout 60m");
    let mut client = Running::start_logged(&format!("perf client {url} --mode idle --flows 60000"));
    client.wait_for_log("opening flows");
    client.signal(Signal::INT);
    assert_eq!(client.wait().status.code(), Some(130));
    assert_eq!(server.wait().status.code(), Some(0));
}
