//! What single drivers want done differently. Everything else follows from what a port says of itself.
//!
//! [`table`] has them all, each with its source.

mod table;

use std::io;
use std::net::IpAddr;

use machnet_core::net::MacAddr;

use crate::Device;
use table::{NONE, TABLE};

/// How a port that is driven by a given driver differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quirks {
    /// Its driver, as it calls itself.
    driver: &'static str,
    /// Who has run it.
    pub(crate) run: Run,
    /// What to know of it, and where that is from.
    pub(crate) facts: &'static [Known],
    /// Queue pairs that it has, whatever it says.
    pub(crate) queues: u16,
    /// The argument that says how many queue pairs a virtual device has: one if it does not.
    queues_by: Option<&'static str>,
    /// Each of its queues leads to the peer's of the same number. Else a hash chooses the queue, for all that is known.
    pub(crate) pairs: bool,
    /// The argument with a word that both sides must have, for they must have the same number of queues, and its driver uses queues that
    /// the peer has not (memif_socket.c: a server learns the number from its client, and bursts on the others go to the first ring).
    password: Option<&'static str>,
    /// Frames that its rings take, if those are more than it has descriptors.
    pub(crate) ring_frames: u32,
    /// The device is told which MTU it has. memif refuses all but its default, and takes what its buffers hold.
    pub(crate) takes_mtu: bool,
    /// The device argument that says how long a frame may be, how long it is without, and how many of its bytes are not the
    /// frame's.
    pub(crate) buffer: Option<(&'static str, u32, u32)>,
    /// The argument with the path of a Unix socket that the device listens on, if its arguments are all such. A socket that a killed
    /// process left behind is removed.
    pub(crate) listens: Option<(&'static str, &'static [When])>,
    /// The argument that it cannot do without.
    needs: Option<&'static str>,
    /// The arguments that it takes, if it would take none of those it is given as soon as it does not know one (memif, rte_eth_memif.c:
    /// what `rte_kvargs_parse` does not parse is left out).
    takes: &'static [&'static str],
    /// Attaching it waits for the peer, if it is the one that listens.
    pub(crate) waits: bool,
    /// The argument that names an interface of the kernel's, which the device is.
    interface: Option<&'static str>,
    /// The kernel receives what it receives.
    shares: bool,
    /// What brings its link back, if its arguments are such.
    comeback: Option<(When, Revival)>,
    /// It must be told to hear of its link by interrupts. Its driver takes them anyway, and unless it is told, it handles them also after
    /// the device is gone, and in two threads at once what asking for the link finds (virtio_ethdev.c, `virtio_dev_stop`;
    /// virtio_user/vhost_user.c, `vhost_user_update_link_state`; found by crashes in `virtio_interrupt_handler`).
    pub(crate) hears_of_link: bool,
    /// It hears its peer in EAL's interrupt thread, and frees there, without a lock, what a burst, starting, stopping and closing use
    /// (memif_socket.c, `memif_intr_handler`; found by crashes in `eth_memif_rx` and of servers that ended with their clients). So its
    /// bursts pass a [`Gate`](crate::gate::Gate), and the rest is done in that thread, too.
    pub(crate) frees_by_interrupts: bool,
    /// It has a random Ethernet address unless it is told one (`mac=`), so that its peers would look for a process that was
    /// started again where it was before.
    pub(crate) wants_mac: bool,
}

/// Where a driver was seen to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// With this crate: `cargo xtask test --only dpdk`.
    Here,
    /// With DPDK's own program, on a device that QEMU imitates; never with this crate.
    Imitated,
    /// Nowhere: what is known is from documents and sources.
    Nowhere,
}

/// Something that is known of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) what: &'static str,
    /// Files are of DPDK 22.11.11.
    pub(crate) source: &'static str,
}

/// Which of a driver's devices are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Whose arguments have this one.
    With(&'static str),
    /// Whose arguments do not have this one.
    Without(&'static str),
}

impl When {
    fn holds(self, arguments: &str) -> bool {
        let has = |wanted| arguments.split(',').any(|argument| argument == wanted);
        match self {
            Self::With(wanted) => has(wanted),
            Self::Without(unwanted) => !has(unwanted),
        }
    }
}

/// What brings a link back whose peer was gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revival {
    /// Nothing: it comes by itself.
    Alone,
    /// Starting the port again.
    Start,
    /// Attaching the device again.
    Attach,
}

impl Quirks {
    /// Those of a driver, or of a virtual device by its name.
    pub(crate) fn of(driver: &str) -> Self {
        let kind = driver.trim_end_matches(|c: char| c.is_ascii_digit());
        let kind = if kind == "virtio_user" { "net_virtio_user" } else { kind };
        // Some end with a digit themselves.
        TABLE.into_iter().find(|quirks| [driver, kind].contains(&quirks.driver)).unwrap_or(NONE)
    }

    /// What is known, for people.
    pub(crate) fn notes(&self) -> Vec<String> {
        if self.driver.is_empty() {
            return vec!["nothing is known of its driver: it is taken at its word".to_owned()];
        }
        let run = match self.run {
            Run::Here => "tested with Machnet",
            Run::Imitated => "never run with Machnet; DPDK's own program was, on a device that QEMU imitates",
            Run::Nowhere => "never run with Machnet: no such device was at hand",
        };
        let facts = self.facts.iter().map(|fact| format!("{} ({})", fact.what, fact.source));
        std::iter::once(run.to_owned()).chain(facts).collect()
    }

    /// The longest frame that its buffers hold.
    pub(crate) fn longest_frame(&self, arguments: &str) -> Option<u32> {
        let (name, default, overhead) = self.buffer?;
        let size = argument(arguments, name).and_then(|value| value.parse().ok()).unwrap_or(default);
        Some(size.saturating_sub(overhead))
    }

    /// The socket that a virtual device will listen on.
    pub(crate) fn socket<'a>(&self, arguments: &'a str) -> Option<&'a str> {
        let (name, when) = self.listens?;
        argument(arguments, name).filter(|_| when.iter().all(|when| when.holds(arguments)))
    }

    /// Refuses arguments that its driver would refuse without a word, or take otherwise than they are meant.
    pub(crate) fn check(&self, arguments: &str) -> io::Result<()> {
        let bad = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        if let Some(name) = self.needs
            && argument(arguments, name).is_none_or(str::is_empty)
        {
            return bad(format!("{driver} needs {name}=…, as in vdev:{driver}0,{name}=…", driver = self.driver));
        }
        let mut names = arguments.split(',').filter_map(|argument| argument.split('=').next());
        match names.find(|name| !self.takes.is_empty() && !name.is_empty() && !self.takes.contains(name)) {
            Some(name) => bad(format!(
                "{} takes no argument \"{}\": it takes {}",
                self.driver,
                name.escape_debug(),
                self.takes.join(", ")
            )),
            None => Ok(()),
        }
    }

    /// True if the kernel receives what `device` receives.
    pub(crate) fn shares_with_kernel(device: &Device) -> bool {
        matches!(device, Device::Vdev { name, .. } if Self::of(name).shares)
    }

    /// The kernel's interface that a virtual device is.
    pub(crate) fn interface<'a>(&self, arguments: &'a str) -> Option<&'a str> {
        argument(arguments, self.interface?)
    }

    /// What brings the link of a device with these arguments back.
    pub(crate) fn revival(&self, arguments: &str) -> Revival {
        self.comeback.filter(|(when, _)| when.holds(arguments)).map_or(Revival::Alone, |(_, revival)| revival)
    }

    /// The arguments, for a device with so many queue pairs.
    pub(crate) fn with_queues(&self, arguments: &str, queues: u16) -> io::Result<String> {
        let and = |name: &str, value: &str| {
            if arguments.is_empty() { format!("{name}={value}") } else { format!("{arguments},{name}={value}") }
        };
        if queues == 1 {
            return Ok(arguments.to_owned());
        }
        if let Some(name) = self.queues_by {
            let Some(given) = argument(arguments, name) else { return Ok(and(name, &queues.to_string())) };
            if given.parse().is_ok_and(|given: u16| given >= queues) {
                return Ok(arguments.to_owned());
            }
            let text = format!(
                "{name}={given} is what {} was given, and {queues} queue pairs are wanted: say {name}={queues}, or leave it out",
                self.driver
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        match self.password {
            Some(name) if argument(arguments, name).is_none() => Ok(and(name, &format!("queues-{queues}"))),
            _ => Ok(arguments.to_owned()),
        }
    }

    /// It is removed in EAL's interrupt thread.
    pub(crate) const fn ends_by_interrupts(&self) -> bool {
        self.hears_of_link || self.frees_by_interrupts
    }

    /// The arguments, with an Ethernet address for the host at `ip` if one is wanted: locally administered, and always the
    /// same.
    pub(crate) fn with_mac_of(&self, arguments: &str, ip: IpAddr) -> String {
        let [.., a, b, c, d] = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        self.with_mac(arguments, MacAddr([0x02, 0x4d, a, b, c, d]))
    }

    /// The arguments, with an Ethernet address if one is wanted and there is none.
    pub(crate) fn with_mac(&self, arguments: &str, mac: MacAddr) -> String {
        if !self.wants_mac || argument(arguments, "mac").is_some() {
            return arguments.to_owned();
        }
        if arguments.is_empty() { format!("mac={mac}") } else { format!("{arguments},mac={mac}") }
    }
}

/// The value of an argument among `a=1,b=2`.
fn argument<'a>(arguments: &'a str, name: &str) -> Option<&'a str> {
    arguments.split(',').find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_found_by_their_devices_names() {
        for (name, driver) in [
            ("net_memif0", "net_memif"),
            ("virtio_user12", "net_virtio_user"),
            ("net_virtio", "net_virtio"),
            ("net_ena", "net_ena"),
            ("net_gve", "net_gve"),
            ("net_netvsc", "net_netvsc"),
            ("net_mana", "net_mana"),
            ("mlx5_pci", "mlx5_pci"),
            ("net_ixgbe_vf", "net_ixgbe_vf"),
            ("net_vmxnet3", "net_vmxnet3"),
            ("net_vmxnet", ""),
            ("net_ixgbe", ""),
            ("", ""),
        ] {
            assert_eq!(Quirks::of(name).driver, driver, "{name}");
        }
    }

    #[test]
    fn every_driver_is_there_once_and_every_fact_has_a_source() {
        for (i, quirks) in TABLE.iter().enumerate() {
            assert!(TABLE[..i].iter().all(|other| other.driver != quirks.driver), "{}", quirks.driver);
            assert!(
                quirks.facts.iter().all(|fact| !fact.what.is_empty() && !fact.source.is_empty()),
                "{}",
                quirks.driver
            );
            assert!(quirks.run == Run::Here || !quirks.facts.is_empty(), "{}: nothing is known of it", quirks.driver);
        }
        let run: Vec<_> = TABLE.iter().filter(|quirks| quirks.run == Run::Here).map(|quirks| quirks.driver).collect();
        assert_eq!(run, ["net_memif", "net_vhost", "net_virtio_user", "net_af_packet", "net_af_xdp"]);
        assert!(Quirks::of("net_ena").notes()[0].starts_with("never run with Machnet"));
        assert!(Quirks::of("net_ena").notes()[1].ends_with("(doc/guides/nics/ena.rst)"));
        assert_eq!(Quirks::of("net_memif0").notes(), ["tested with Machnet"]);
        assert_eq!((Quirks::of("net_e1000_em").queues, Quirks::of("net_ena").queues), (1, u16::MAX));
    }

    #[test]
    fn arguments_say_how_long_a_frame_is() {
        let memif = Quirks::of("net_memif0");
        assert_eq!(memif.longest_frame("role=client"), Some(2048));
        assert_eq!(memif.longest_frame("role=client,bsize=9216,id=0"), Some(9216));
        assert_eq!(Quirks::of("net_af_packet").longest_frame("iface=eth0"), Some(1982));
        assert_eq!(NONE.longest_frame("bsize=9216"), None);
    }

    #[test]
    fn queues_are_asked_for_where_they_must_be_and_never_more_than_were_given() {
        let with = |name: &str, arguments: &str, queues| {
            Quirks::of(name).with_queues(arguments, queues).map_err(|error| error.to_string())
        };
        assert_eq!(with("net_vhost0", "iface=/s", 2).unwrap(), "iface=/s,queues=2");
        assert_eq!(with("net_virtio_user0", "path=/s,queues=4", 3).unwrap(), "path=/s,queues=4");
        assert_eq!(with("net_virtio_user0", "path=/s", 1).unwrap(), "path=/s");
        assert_eq!(with("net_af_packet0", "iface=eth0", 4).unwrap(), "iface=eth0,qpairs=4");
        assert_eq!(with("net_af_xdp0", "iface=eth0", 4).unwrap(), "iface=eth0,queue_count=4");
        assert_eq!(with("net_memif0", "", 2).unwrap(), "secret=queues-2");
        assert_eq!(with("net_memif0", "id=1,secret=abc", 2).unwrap(), "id=1,secret=abc");
        assert_eq!(with("net_ena", "", 8).unwrap(), "");
        for given in ["1", "x", ""] {
            let error = with("net_virtio_user0", &format!("path=/s,queues={given}"), 2).unwrap_err();
            assert!(error.contains("say queues=2, or leave it out"), "{error}");
        }
    }

    #[test]
    fn who_is_started_again_has_the_address_it_had() {
        let with = |name: &str, arguments: &str, address: &str| {
            Quirks::of(name).with_mac_of(arguments, address.parse().unwrap())
        };
        assert_eq!(with("net_memif0", "id=1", "10.0.0.5"), "id=1,mac=02:4d:0a:00:00:05");
        assert_eq!(with("net_memif0", "", "fd00::1:2"), "mac=02:4d:00:01:00:02");
        assert_eq!(with("net_memif0", "mac=02:00:00:00:00:01", "10.0.0.5"), "mac=02:00:00:00:00:01");
        assert_eq!(with("net_vhost0", "iface=/a", "10.0.0.5"), "iface=/a");
    }

    #[test]
    fn who_connects_once_must_be_brought_back() {
        let revival = |name: &str, arguments: &str| Quirks::of(name).revival(arguments);
        assert_eq!(revival("net_memif0", "role=client,socket=/a"), Revival::Start);
        assert_eq!(revival("net_memif0", "role=server,socket=/a"), Revival::Alone);
        assert_eq!(revival("net_virtio_user0", "path=/a"), Revival::Attach);
        assert_eq!(revival("net_virtio_user0", "path=/a,server=1"), Revival::Alone);
        assert_eq!(revival("net_vhost0", "iface=/a"), Revival::Alone);
        assert_eq!(revival("net_ena", ""), Revival::Alone);
    }

    #[test]
    fn only_who_listens_has_a_socket() {
        let socket = |name: &str, arguments: &'static str| Quirks::of(name).socket(arguments);
        assert_eq!(socket("net_vhost0", "iface=/a,queues=1"), Some("/a"));
        assert_eq!(socket("net_vhost0", "iface=/a,client=1"), None);
        assert_eq!(socket("virtio_user0", "path=/a"), None);
        assert_eq!(socket("virtio_user0", "path=/a,server=1"), Some("/a"));
        assert_eq!(socket("net_memif0", "role=server,socket=/a,socket-abstract=no"), Some("/a"));
        assert_eq!(socket("net_memif0", "role=server,socket=/a"), None, "an abstract one is no file");
        assert_eq!(socket("net_memif0", "role=client,socket=/a,socket-abstract=no"), None);
    }

    #[test]
    fn arguments_that_would_mean_something_else_are_refused() {
        let refused = |name: &str, arguments: &str, part: &str| {
            let error = Quirks::of(name).check(arguments).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused("net_memif0", "roll=server,socket=/a", "takes no argument \"roll\": it takes id, role,");
        refused("net_vhost0", "", "net_vhost needs iface=…");
        refused("net_af_packet0", "iface=,qpairs=2", "net_af_packet needs iface=…");
        refused("net_virtio_user0", "queues=1", "net_virtio_user needs path=…");
        for (name, arguments) in [
            ("net_memif0", ""),
            ("net_memif0", "role=server,id=1,bsize=2048,rsize=10,socket=/a,socket-abstract=no,mac=02:00:00:00:00:01"),
            ("net_memif0", "zero-copy=yes,secret=a=b,owner-uid=1,owner-gid=1"),
            ("net_vhost0", "iface=/a,whatever=1"),
            ("net_null0", "size=64"),
            ("net_ena", ""),
        ] {
            Quirks::of(name).check(arguments).unwrap();
        }
    }
}
