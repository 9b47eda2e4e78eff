/* What Machnet uses of DPDK, as functions over structures of its own.
 *
 * What DPDK has as static inlines and macros becomes callable here, and what differs between its releases (fields of
 * rte_eth_conf, rte_eth_dev_info, rte_eth_link) is the compiler's business, not that of Rust. mbufs and mempools are
 * opaque to Rust. */
#ifndef MACHNET_DPDK_SHIM_H
#define MACHNET_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* ---- the environment ---- */

/* This thread's rte_errno. */
int dpdk_errno(void);

/* Where DPDK's log goes from now on, a line or part of one at a time. 0, or -1 with errno. */
int dpdk_log_to(void (*sink)(const char *text, size_t length));

/* All that the drivers with a name like this have to say is logged from now on. 0 or a negative number. */
int dpdk_log_debug(const char *pattern);

/* 1 while a line is being logged that is of no interest by default. */
int dpdk_logs_debug(void);

/* Calls `function` with NULL in EAL's interrupt thread, when it is done with what it is doing. 0 or a negative errno. */
int dpdk_after_interrupts(void (*function)(void *));

/* ---- ports ---- */

/* Offloads, as DPDK numbers them. */
static const uint64_t DPDK_RX_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t DPDK_RX_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t DPDK_RX_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t DPDK_TX_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t DPDK_TX_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t DPDK_TX_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

/* Of rss_fields: addresses, and UDP ports. */
static const uint64_t DPDK_RSS_UDP = RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP;

#define DPDK_NAME RTE_ETH_NAME_MAX_LEN
#define DPDK_PORTS RTE_MAX_ETHPORTS

/* What a port says of itself. */
struct dpdk_facts {
    char name[DPDK_NAME];
    char driver[DPDK_NAME];
    uint64_t rx_offloads;
    uint64_t tx_offloads;
    uint64_t rss_fields;
    uint32_t min_rx_buffer;
    /* The longest frame, Ethernet header included. */
    uint32_t max_frame;
    /* The kernel's interface of the same hardware, or 0. */
    uint32_t interface;
    uint16_t min_mtu;
    uint16_t max_mtu;
    uint16_t mtu;
    uint16_t max_rx_queues;
    uint16_t max_tx_queues;
    uint16_t reta_size;
    uint8_t mac[6];
    /* Its driver has interrupts for a link that comes and goes. */
    uint8_t link_events;
    /* The NUMA node, or -1. */
    int32_t node;
};

struct dpdk_counters {
    uint64_t received, sent, received_bytes, sent_bytes;
    /* Lost for want of descriptors, for want of mbufs, for errors. */
    uint64_t missed, no_mbuf, receive_errors, send_errors;
};

/* The first port from `from` on, or DPDK_PORTS. */
uint16_t dpdk_next_port(uint16_t from);

/* All of these: 0, or a negative errno. */
int dpdk_facts(uint16_t port, struct dpdk_facts *facts);
/* `spread_by`: what is hashed to choose the queue that a frame comes to, as dpdk_facts.rss_fields; 0 leaves it to the device. */
int dpdk_configure(uint16_t port, uint16_t queues, uint64_t rx_offloads, uint64_t tx_offloads, uint64_t spread_by,
                   uint16_t mtu, int link_interrupts);
int dpdk_rx_queue(uint16_t port, uint16_t queue, uint16_t descriptors, struct rte_mempool *pool);
int dpdk_tx_queue(uint16_t port, uint16_t queue, uint16_t descriptors);
int dpdk_counters(uint16_t port, struct dpdk_counters *counters);
/* `by_interrupts`: in EAL's interrupt thread, so that no interrupt of the device is being handled meanwhile. */
int dpdk_start(uint16_t port, int by_interrupts);
int dpdk_stop(uint16_t port, int by_interrupts);
/* Stops and closes a port; a virtual or hot-plugged device goes altogether. */
int dpdk_remove(uint16_t port, int by_interrupts);
/* 1 if the link is up, 0 if not, or a negative errno. */
int dpdk_link_is_up(uint16_t port);

/* ---- frames ---- */

/* A pool of `count` mbufs with `room` bytes of buffer each, or NULL with rte_errno. */
struct rte_mempool *dpdk_pool(const char *name, uint32_t count, uint32_t cache, uint16_t room, int node);

/* Numbers the mbufs of a pool and lists up to `max` of them; returns how many there are. */
size_t dpdk_pool_mbufs(struct rte_mempool *pool, struct rte_mbuf **mbufs, size_t max);

/* The first byte of the buffer behind `mbuf`, headroom included. */
void *dpdk_buffer(const struct rte_mbuf *mbuf);

/* The most that one call of dpdk_rx_burst receives. */
#define DPDK_BURST 64

static const uint64_t DPDK_RX_FLAG_IP_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t DPDK_RX_FLAG_IP_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t DPDK_RX_FLAG_L4_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t DPDK_RX_FLAG_L4_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;

/* A received frame. */
struct dpdk_received {
    struct rte_mbuf *mbuf;
    /* DPDK_RX_FLAG_*. */
    uint64_t flags;
    /* Its mbuf's number. */
    uint32_t index;
    /* All segments together. */
    uint32_t length;
    /* Where in its buffer the first segment begins. */
    uint16_t offset;
    uint16_t segments;
};

/* Receives up to `count` frames. */
uint16_t dpdk_rx_burst(uint16_t port, uint16_t queue, struct dpdk_received *frames, uint16_t count);
uint16_t dpdk_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* Frees all segments of a frame but the first. */
void dpdk_cut(struct rte_mbuf *mbuf);

/* All of them, or none and a negative number. */
int dpdk_alloc(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count);

/* The number of an mbuf of a pool. */
uint32_t dpdk_index(const struct rte_mbuf *mbuf);

/* Makes `mbuf`, which the caller owns alone, a frame of one segment. It gets a second owner, so that a device that is
 * done with it does not return it to its pool. `ip_version` is 4 or 6 if the device is to compute the UDP checksum behind
 * an IP header without options, and else 0. */
void dpdk_prepare(struct rte_mbuf *mbuf, uint16_t offset, uint16_t length, int ip_version);

/* How many of the first `count` the device is done with. */
size_t dpdk_done(struct rte_mbuf *const *mbufs, size_t count);

/* Takes a prepared mbuf back that no device took. */
void dpdk_unprepare(struct rte_mbuf *mbuf);

/* ---- frames of two pieces ---- */

/* Memory that devices can read, `alignment` a power of two; NULL with rte_errno. It stays until it is released by its name. */
void *dpdk_reserve(const char *name, size_t size, size_t alignment, int node);
int dpdk_release(const char *name);

/* The address at which devices see such memory, of which `length` bytes are one piece for them, or UINT64_MAX. */
uint64_t dpdk_device_address(const void *start, size_t length);

/* Likewise, of the buffer behind an mbuf. */
uint64_t dpdk_buffer_address(const struct rte_mbuf *mbuf);

/* A pool of `count` mbufs without buffers, or NULL with rte_errno. */
struct rte_mempool *dpdk_tails(const char *name, uint32_t count, int node);

/* Puts `length` bytes from `start` on, which devices see at `address`, behind the frame of a prepared mbuf. `tail`, of a pool of dpdk_tails, is
 * the caller's alone; it gets a second owner, too, and so does not let go of the bytes. */
void dpdk_attach(struct rte_mbuf *mbuf, struct rte_mbuf *tail, void *start, uint64_t address, uint16_t length);

/* Separates an mbuf from what was put behind it, when the device is done with it. 1 if it is one of `tails`. */
int dpdk_detach(struct rte_mbuf *mbuf, const struct rte_mempool *tails);

#endif
