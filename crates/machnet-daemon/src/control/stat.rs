//! What `machnet stat` shows, as JSON. Counters count from the daemon's start, or an application's; a caller who wants
//! rates asks twice: `uptime_ns` says when.

use machnet_core::{FlowReport, Report, TenantReport};
use serde_json::{Map, Value, json};

use super::Control;
use super::callers::Callers;
use super::seats::Seats;

/// Longer messages may not fit a socket's buffer: flows are left out then.
const LONGEST: usize = 150 << 10;

pub(super) fn json(control: &Control, seats: &Seats, callers: &Callers, report: Report) -> Vec<u8> {
    let with_flows = text(control, seats, callers, &report, true);
    if with_flows.len() <= LONGEST { with_flows } else { text(control, seats, callers, &report, false) }
}

fn text(control: &Control, seats: &Seats, callers: &Callers, report: &Report, with_flows: bool) -> Vec<u8> {
    let stats = control.status.stats();
    let drops: Map<String, Value> = stats.drops.iter().map(|(reason, n)| (format!("{reason:?}"), n.into())).collect();
    let counts = |pairs: &mut dyn Iterator<Item = (&'static str, u64)>| -> Map<String, Value> {
        pairs.map(|(name, n)| (name.to_owned(), n.into())).collect()
    };
    let applications: Vec<Value> = report
        .tenants
        .iter()
        .filter(|tenant| !tenant.is_over)
        .map(|tenant| application(seats, tenant, with_flows))
        .collect();
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ns": control.started.elapsed().as_nanos() as u64,
        "driver": control.driver,
        "home": control.home.to_string(),
        "socket": control.settings.socket.display().to_string(),
        "engine": {
            "packets_received": stats.packets_received,
            "packets_sent": stats.packets_sent,
            "packets_lost": stats.packets_lost,
            "retries_sent": stats.retries_sent,
            "flows": stats.flows,
            "buffers_in_use": stats.buffers_in_use,
            "sleeps": control.status.parks(),
            "drops": drops,
        },
        "memory": { "taken": seats.taken(), "most": control.settings.memory },
        "attached": seats.attached,
        "refused": counts(&mut seats.refused.iter().map(|(name, n)| (*name, *n))),
        "silent_callers": callers.silent,
        "ended": counts(&mut report.ended.iter().copied()),
        "applications": applications,
    });
    value.to_string().into_bytes()
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
