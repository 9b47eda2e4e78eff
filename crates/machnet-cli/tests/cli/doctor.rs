//! `machnet doctor`, with and without DPDK.

use crate::process::machnet;

#[test]
fn what_works_is_listed_and_what_does_not_has_a_mend() {
    let report = machnet("doctor --json").json();
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["works"] == check["mend"].is_null()), "{report}");
    let udp = checks.iter().find(|check| check["name"] == "UDP sockets").unwrap();
    assert_eq!(udp["works"], true);
    let lo = report["interfaces"].as_array().unwrap().iter().find(|one| one["name"] == "lo").unwrap();
    assert_eq!(lo["mtu"], 65536);
    let text = machnet("doctor");
    assert!(text.status.success() && text.out.starts_with("yes UDP sockets"), "{text:?}");
}
