//! What `machnet stat` shows, as JSON. Counters count from the daemon's start, or an application's; a caller who wants
//! rates asks twice: `uptime_ns` says when.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use machnet_core::{DropReason, EngineStats, FlowReport, Report, TenantReport};
use serde_json::{Map, Value, json};

use super::Control;
use super::callers::Callers;
use super::seats::Seats;

/// Longer messages may not fit a socket's buffer: flows are left out then, and if need be applications.
const LONGEST: usize = 150 << 10;

pub(super) fn json(control: &Control, seats: &Seats, callers: &Callers, reports: Vec<Option<Report>>) -> Vec<u8> {
    let silent: Vec<bool> = reports.iter().map(Option::is_none).collect();
    let report = merged(reports.into_iter().flatten());
    let all = report.tenants.iter().filter(|tenant| !tenant.is_over).count();
    fitting(all, |with_flows, most| text(control, seats, callers, &report, &silent, (with_flows, most)))
}

/// What fits a message: with some flows of each of `all` applications, without, or of so many applications as do.
fn fitting(all: usize, text: impl Fn(bool, usize) -> Vec<u8>) -> Vec<u8> {
    let with_flows = text(true, all);
    if with_flows.len() <= LONGEST {
        return with_flows;
    }
    let mut most = all;
    loop {
        let text = text(false, most);
        if text.len() <= LONGEST || most == 0 {
            return text;
        }
        most /= 2;
    }
}

fn text(
    control: &Control,
    seats: &Seats,
    callers: &Callers,
    report: &Report,
    silent: &[bool],
    (with_flows, most): (bool, usize),
) -> Vec<u8> {
    let engines: Vec<(EngineStats, u64)> =
        control.statuses.iter().map(|status| (status.stats(), status.parks())).collect();
    let (mut sum, mut sleeps) = (EngineStats::default(), 0);
    for (stats, parks) in &engines {
        sum.add(stats);
        sleeps += parks;
    }
    let counts = |pairs: &mut dyn Iterator<Item = (&'static str, u64)>| -> Map<String, Value> {
        pairs.map(|(name, n)| (name.to_owned(), n.into())).collect()
    };
    let served = || report.tenants.iter().filter(|tenant| !tenant.is_over);
    let applications: Vec<Value> = served().take(most).map(|tenant| application(seats, tenant, with_flows)).collect();
    let of = |((stats, sleeps), silent): (&(EngineStats, u64), &bool)| {
        let mut value = engine(stats, *sleeps);
        value["silent"] = (*silent).into();
        value
    };
    let each: Vec<Value> = engines.iter().zip(silent).map(of).collect();
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ns": control.started.elapsed().as_nanos() as u64,
        "driver": control.driver,
        "home": control.home.to_string(),
        "socket": control.settings.socket.display().to_string(),
        "engine": engine(&sum, sleeps),
        "engines": each,
        "memory": { "taken": seats.taken(), "most": control.settings.memory },
        "attached": seats.attached,
        "refused": counts(&mut seats.refused.iter().map(|(name, n)| (*name, *n))),
        "silent_callers": callers.silent,
        "ended": counts(&mut seats.ended.iter().map(|(name, n)| (*name, *n))),
        "left_out": served().count() - applications.len(),
        "applications": applications,
    });
    value.to_string().into_bytes()
}

/// The reports of all engines as one: each application is there once.
fn merged(reports: impl Iterator<Item = Report>) -> Report {
    let mut tenants: BTreeMap<u64, TenantReport> = BTreeMap::new();
    for report in reports {
        for tenant in report.tenants {
            match tenants.entry(tenant.id) {
                Entry::Vacant(free) => drop(free.insert(tenant)),
                Entry::Occupied(mut known) => known.get_mut().add(tenant),
            }
        }
    }
    Report { tenants: tenants.into_values().collect(), ..Report::default() }
}

fn engine(stats: &EngineStats, sleeps: u64) -> Value {
    let drops: Map<String, Value> = stats.drops.iter().map(|(reason, n)| (format!("{reason:?}"), n.into())).collect();
    json!({
        "packets_received": stats.packets_received,
        "packets_sent": stats.packets_sent,
        "packets_lost": stats.packets_lost,
        "retries_sent": stats.retries_sent,
        "flows": stats.flows,
        "buffers_in_use": stats.buffers_in_use,
        "rounds": stats.rounds,
        "busy_ns": stats.busy_ns,
        "handed_over": stats.handed_over,
        "taken_over": stats.taken_over,
        "handover_ratio": stats.handover_ratio(),
        "handover_drops": stats.drops.get(DropReason::HandoverFull),
        "probes_sent": stats.probes_sent,
        "sleeps": sleeps,
        "drops": drops,
    })
}

fn application(seats: &Seats, tenant: &TenantReport, with_flows: bool) -> Value {
    let TenantReport { id, counters, held, waiting, ports, flows, some_flows, .. } = tenant;
    let mut value = json!({
        "id": id,
        "flows": flows,
        "ports": ports,
        "held_bytes": held,
        "waiting_bytes": waiting,
        "messages_sent": counters.messages_taken,
        "bytes_sent": counters.bytes_taken,
        "messages_received": counters.messages_put,
        "bytes_received": counters.bytes_put,
        "flows_opened": counters.flows_opened,
        "refused": counters.refused,
        "rings": counters.rings,
    });
    if let Some((_, seat)) = seats.iter().find(|(seat, _)| *seat == id) {
        value["name"] = seat.name.clone().into();
        value["pid"] = seat.process.into();
        value["uid"] = seat.user.into();
        value["allowed_as"] = seats.allowance(seat).name.clone().into();
        value["attached_for_ns"] = (seat.since.elapsed().as_nanos() as u64).into();
    }
    if with_flows {
        value["some_flows"] = some_flows.iter().map(flow).collect();
    }
    value
}

fn flow(flow: &FlowReport) -> Value {
    let FlowReport { local, peer, state, stats } = flow;
    json!({
        "local": local.map(|local| local.to_string()),
        "peer": peer.to_string(),
        "state": format!("{state:?}"),
        "rtt_ns": stats.smoothed_rtt_ns,
        "congestion_window": stats.congestion_window,
        "messages_sent": stats.messages_sent,
        "messages_received": stats.messages_received,
        "bytes_sent": stats.bytes_sent,
        "bytes_received": stats.bytes_received,
        "packets_sent": stats.packets_sent,
        "packets_received": stats.packets_received,
        "packets_lost": stats.packets_lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many bytes for each application, and as many again for its flows.
    fn shown(each: usize, all: usize) -> (bool, usize) {
        let text = fitting(all, |with_flows, most| {
            let len = if with_flows { 2 * most * each } else { most * each };
            [&[u8::from(with_flows)][..], &vec![0; len]].concat()
        });
        assert!(text.len() <= LONGEST);
        let with_flows = text[0] == 1;
        (with_flows, (text.len() - 1) / if with_flows { 2 * each } else { each })
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        assert_eq!(shown(500, 64), (true, 64));
        assert_eq!(shown(500, 250), (false, 250));
        assert_eq!(shown(500, 1024), (false, 256));
        assert_eq!(shown(500, 0), (true, 0));
        assert_eq!(shown(LONGEST, 1), (false, 0));
    }
}
