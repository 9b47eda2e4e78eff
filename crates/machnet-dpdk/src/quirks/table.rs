//! Every driver of which something is known beyond what its ports say of themselves.
//!
//! The first five were run with this crate. The others were not: no such device was at hand. What is said of them is from the sources
//! named, and from DPDK's own program on devices that QEMU imitates where that is said. A driver that is not here is taken at its
//! word.

use super::{Known, Quirks, Revival, Run, When};

const fn known(what: &'static str, source: &'static str) -> Known {
    Known { what, source }
}

pub(super) const NONE: Quirks = Quirks {
    driver: "",
    run: Run::Nowhere,
    facts: &[],
    queues: u16::MAX,
    queues_by: None,
    pairs: false,
    password: None,
    ring_frames: 0,
    takes_mtu: true,
    buffer: None,
    listens: None,
    needs: None,
    takes: &[],
    waits: false,
    interface: None,
    shares: false,
    comeback: None,
    hears_of_link: false,
    frees_by_interrupts: false,
    wants_mac: false,
};

/// Nothing here asks for a device's own way: what is known is for who chooses it.
const fn taken_at_its_word(driver: &'static str, run: Run, facts: &'static [Known]) -> Quirks {
    Quirks { driver, run, facts, ..NONE }
}

pub(super) const TABLE: [Quirks; 17] = [
    Quirks {
        driver: "net_memif",
        run: Run::Here,
        pairs: true,
        password: Some("secret"),
        takes_mtu: false,
        buffer: Some(("bsize", 2048, 0)),
        listens: Some(("socket", &[When::Without("role=client"), When::With("socket-abstract=no")])),
        takes: &[
            "id",
            "role",
            "bsize",
            "rsize",
            "socket",
            "socket-abstract",
            "owner-uid",
            "owner-gid",
            "mac",
            "zero-copy",
            "secret",
        ],
        comeback: Some((When::With("role=client"), Revival::Start)),
        frees_by_interrupts: true,
        wants_mac: true,
        ..NONE
    },
    Quirks {
        driver: "net_vhost",
        run: Run::Here,
        queues_by: Some("queues"),
        pairs: true,
        takes_mtu: false,
        listens: Some(("iface", &[When::Without("client=1")])),
        needs: Some("iface"),
        ..NONE
    },
    // As a client it connects once, when it is attached (virtio_user/vhost_user.c).
    Quirks {
        driver: "net_virtio_user",
        run: Run::Here,
        queues_by: Some("queues"),
        pairs: true,
        listens: Some(("path", &[When::With("server=1")])),
        needs: Some("path"),
        waits: true,
        comeback: Some((When::Without("server=1"), Revival::Attach)),
        hears_of_link: true,
        wants_mac: true,
        ..NONE
    },
    // Of each slot of its ring, TPACKET2_HDRLEN, rounded up, is the kernel's.
    Quirks {
        driver: "net_af_packet",
        run: Run::Here,
        facts: &[
            known("it does not look at its link: the kernel is asked instead", "af_packet/rte_eth_af_packet.c"),
            known("the first frame after the link came back is sent with the next", "found by the conformance suite"),
        ],
        queues_by: Some("qpairs"),
        takes_mtu: false,
        buffer: Some(("framesz", 2048, 66)),
        interface: Some("iface"),
        needs: Some("iface"),
        shares: true,
        ..NONE
    },
    // The kernel's interface has the MTU, and setting it there is not this driver's business. Its rings for what is to be filled and for
    // what was sent have 2 048 places each, however many descriptors there are (af_xdp/rte_eth_af_xdp.c, ETH_AF_XDP_DFLT_NUM_DESCS).
    Quirks {
        driver: "net_af_xdp",
        run: Run::Here,
        facts: &[known("it does not look at its link: the kernel is asked instead", "af_xdp/rte_eth_af_xdp.c")],
        queues_by: Some("queue_count"),
        ring_frames: 2 * 2048,
        takes_mtu: false,
        interface: Some("iface"),
        needs: Some("iface"),
        ..NONE
    },
    taken_at_its_word(
        "net_ena",
        Run::Nowhere,
        &[
            known(
                "AWS. Without write combining its LLQ is slow: bind it with igb_uio wc_activate=1, or a vfio-pci that has it",
                "doc/guides/nics/ena.rst",
            ),
            known("its hash cannot be read unless it was set, on no hardware be chosen", "amzn-drivers issue 248"),
            known("its receive ring has 128 descriptors or more", "drivers/net/ena/ena_ethdev.h"),
        ],
    ),
    taken_at_its_word(
        "net_gve",
        Run::Nowhere,
        &[
            known(
                "GCP. It copies every frame into and out of pages of the device's (GQI_QPL)",
                "doc/guides/nics/gve.rst",
            ),
            known("its MTU is 1460 at most", "doc/guides/nics/gve.rst"),
            known(
                "it has as many descriptors as the device says, no more and no fewer",
                "drivers/net/gve/gve_ethdev.c",
            ),
            known("it has no receive interrupts", "doc/guides/nics/features/gve.ini"),
        ],
    ),
    taken_at_its_word(
        "net_netvsc",
        Run::Nowhere,
        &[
            known(
                "Azure. The virtual function (mlx5, MANA) is behind it and has the same Ethernet address: name it by that (mac:)",
                "doc/guides/nics/netvsc.rst",
            ),
            known("it uses no interrupts", "doc/guides/nics/netvsc.rst"),
            known(
                "with rx_extmbuf_enable frames come in memory of the host's, and are copied here",
                "drivers/net/netvsc/hn_rxtx.c",
            ),
            known("the host looks for what is to be sent every 50 us (latency=)", "doc/guides/nics/netvsc.rst"),
        ],
    ),
    taken_at_its_word(
        "net_mana",
        Run::Nowhere,
        &[
            known("Azure. Not in Debian's DPDK 22.11", "apt: libdpdk-dev 22.11.11"),
            known(
                "one PCI device is several NICs: allow=ADDRESS,mac=ETHERNET-ADDRESS, and name the port by mac:",
                "doc/guides/nics/mana.rst",
            ),
            known("its rings have 256 descriptors at most", "drivers/net/mana/mana.h"),
        ],
    ),
    taken_at_its_word(
        "mlx5_pci",
        Run::Nowhere,
        &[known("it stays bound to the kernel's driver, whose interface is there, too", "doc/guides/nics/mlx5.rst")],
    ),
    taken_at_its_word(
        "net_virtio",
        Run::Imitated,
        &[
            known(
                "it keeps what it sent until it sends more",
                "drivers/net/virtio/virtio_rxtx.c; seen with virtio-user",
            ),
            known("frames longer than its MTU may arrive", "QEMU 10.0 virtio-net, testpmd"),
            known("behind a host without vnet_hdr it has no checksum offload", "QEMU 10.0, testpmd"),
        ],
    ),
    taken_at_its_word(
        "net_ixgbe_vf",
        Run::Nowhere,
        &[known(
            "AWS, older instances, and others. Only frames to its own Ethernet address arrive",
            "drivers/net/ixgbe/ixgbe_ethdev.c; seen with igb's, which is built alike",
        )],
    ),
    taken_at_its_word(
        "net_iavf",
        Run::Nowhere,
        &[known("the host may reset it; its port then has to be opened again", "drivers/net/iavf/iavf_vchnl.c")],
    ),
    taken_at_its_word(
        "net_vmxnet3",
        Run::Imitated,
        &[
            known("its transmit ring has 512 descriptors or more", "QEMU 10.0, testpmd"),
            known("it says 16 queues and a table of 64; packets came to the first queue only", "QEMU 10.0, testpmd"),
            known("it verifies no checksum, although it says so", "QEMU 10.0, testpmd"),
        ],
    ),
    Quirks {
        queues: 1,
        ..taken_at_its_word(
            "net_e1000_em",
            Run::Imitated,
            &[
                known("it says two queues and has one", "QEMU 10.0 e1000 and e1000e, testpmd"),
                known("link interrupts never come under vfio-pci", "QEMU 10.0 e1000, testpmd"),
                known("short frames arrive unpadded", "QEMU 10.0 e1000, testpmd"),
            ],
        )
    },
    taken_at_its_word("net_e1000_igb", Run::Imitated, &[known("all that it says is true", "QEMU 10.0 igb, testpmd")]),
    taken_at_its_word(
        "net_e1000_igb_vf",
        Run::Imitated,
        &[
            known(
                "only frames to its own Ethernet address arrive, whatever is said of promiscuous mode",
                "QEMU 10.0 igb, testpmd",
            ),
            known("its MTU cannot be raised to 9000", "QEMU 10.0 igb, testpmd"),
        ],
    ),
];
