/* What Machnet uses of DPDK: the headers, and as functions what DPDK has as static inlines and macros. */
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

/* Macros that bindgen cannot evaluate. */
static const uint64_t DPDK_RX_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t DPDK_RX_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t DPDK_RX_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t DPDK_TX_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t DPDK_TX_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t DPDK_TX_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

/* This thread's rte_errno. */
int dpdk_errno(void);

/* Where DPDK's log goes from now on, a line or part of one at a time. 0, or -1 with errno. */
int dpdk_log_to(void (*sink)(const char *text, size_t length));

/* The most that one call of dpdk_rx_burst receives. */
#define DPDK_BURST 64

/* A received frame. */
struct dpdk_received {
    struct rte_mbuf *mbuf;
    /* RTE_MBUF_F_RX_*: as DPDK_RX_FLAG_* below. */
    uint64_t flags;
    /* What dpdk_set_index said of it. */
    uint32_t index;
    /* All segments together. */
    uint32_t length;
    /* Where in its buffer the first segment begins. */
    uint16_t offset;
    uint16_t segments;
};

static const uint64_t DPDK_RX_FLAG_IP_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t DPDK_RX_FLAG_IP_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t DPDK_RX_FLAG_L4_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t DPDK_RX_FLAG_L4_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;

/* Receives up to `count` frames. */
uint16_t dpdk_rx_burst(uint16_t port, uint16_t queue, struct dpdk_received *frames, uint16_t count);
uint16_t dpdk_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* All of them, or none and a negative number. */
int dpdk_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);

/* The first byte of the buffer behind `mbuf`, headroom included, whatever data_off says. */
void *dpdk_buffer(const struct rte_mbuf *mbuf);

/* A number for each mbuf of a pool, kept in its private area, which must have room for a uint32_t. */
void dpdk_set_index(struct rte_mbuf *mbuf, uint32_t index);
uint32_t dpdk_index(const struct rte_mbuf *mbuf);

/* Makes `mbuf`, which the caller owns alone, a frame of one segment. It gets a second owner, so that a device that is
 * done with it does not return it to its pool. */
void dpdk_prepare(struct rte_mbuf *mbuf, uint16_t offset, uint16_t length);

/* How many of the first `count` the device is done with. */
size_t dpdk_done(struct rte_mbuf *const *mbufs, size_t count);

/* Takes a prepared mbuf back that no device took. */
void dpdk_unprepare(struct rte_mbuf *mbuf);

#endif
