//! A network namespace for this process, so that links can be made and taken down: the program once more, as a child of `unshare`.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use machnet_conformance::Subject;

use crate::dpdk::{Ports, ip};

/// Set inside: `root`, or `user` for root of a user namespace.
const INSIDE: &str = "MACHNET_CONFORMANCE_NAMESPACE";

/// Which links can be made.
pub(crate) enum Links {
    /// All, by root of the machine.
    Root,
    /// Those that root of a user namespace may use.
    User,
    /// None, and why.
    None(String),
}

/// Goes into a namespace, in which this program starts anew.
pub(crate) fn enter() -> Links {
    match std::env::var(INSIDE).as_deref() {
        Ok("root") => return up(Links::Root),
        Ok("user") => return up(Links::User),
        _ => {}
    }
    let root = rustix::process::geteuid().is_root();
    let (flags, inside): (&[&str], _) =
        if root { (&["--net"], "root") } else { (&["--net", "--user", "--map-root-user"], "user") };
    // Asked first: `exec` leaves nobody to say what failed.
    if !Command::new("unshare").args(flags).arg("true").status().is_ok_and(|status| status.success()) {
        return Links::None("this user may make no network namespace".to_owned());
    }
    let Ok(program) = std::env::current_exe() else { return Links::None("this program is not to be found".to_owned()) };
    let error =
        Command::new("unshare").args(flags).arg(program).args(std::env::args_os().skip(1)).env(INSIDE, inside).exec();
    Links::None(format!("unshare does not start: {error}"))
}

fn up(links: Links) -> Links {
    match ip(&["link", "set", "lo", "up"]) {
        Ok(_) => links,
        Err(error) => Links::None(error.to_string()),
    }
}

/// `subjects`, and those on links.
#[expect(clippy::print_stdout, reason = "who reads the table is to know what is not in it")]
pub(crate) fn with_links(mut subjects: Vec<Arc<dyn Subject>>, links: &Links) -> Vec<Arc<dyn Subject>> {
    match links {
        Links::Root => {
            subjects.push(Arc::new(Ports::AfPacket));
            subjects.push(Arc::new(Ports::AfXdp));
        }
        Links::User => {
            subjects.push(Arc::new(Ports::AfPacket));
            println!("af_xdp is left out: its BPF program takes root of the machine");
        }
        Links::None(why) => println!("af_packet and af_xdp are left out: {why}"),
    }
    subjects
}
