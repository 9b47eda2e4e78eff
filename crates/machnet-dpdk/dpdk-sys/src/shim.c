#define _GNU_SOURCE
#include "shim.h"

#include <stdio.h>

int dpdk_errno(void) {
    return rte_errno;
}

static ssize_t forward(void *sink, const char *text, size_t length) {
    void (*function)(const char *, size_t) = (void (*)(const char *, size_t))(uintptr_t)sink;
    function(text, length);
    return (ssize_t)length;
}

int dpdk_log_to(void (*sink)(const char *text, size_t length)) {
    cookie_io_functions_t functions = {.write = forward};
    FILE *stream = fopencookie((void *)(uintptr_t)sink, "w", functions);
    if (stream == NULL)
        return -1;
    setvbuf(stream, NULL, _IOLBF, 512);
    return rte_openlog_stream(stream);
}

uint16_t dpdk_rx_burst(uint16_t port, uint16_t queue, struct dpdk_received *frames, uint16_t count) {
    struct rte_mbuf *mbufs[DPDK_BURST];
    if (count > DPDK_BURST)
        count = DPDK_BURST;
    uint16_t received = rte_eth_rx_burst(port, queue, mbufs, count);
    for (uint16_t i = 0; i < received; i++) {
        struct rte_mbuf *mbuf = mbufs[i];
        frames[i] = (struct dpdk_received){
            .mbuf = mbuf,
            .flags = mbuf->ol_flags,
            .index = dpdk_index(mbuf),
            .length = mbuf->pkt_len,
            .offset = mbuf->data_off,
            .segments = mbuf->nb_segs,
        };
    }
    return received;
}

uint16_t dpdk_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_tx_burst(port, queue, mbufs, count);
}

int dpdk_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count) {
    return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void *dpdk_buffer(const struct rte_mbuf *mbuf) {
    return mbuf->buf_addr;
}

void dpdk_set_index(struct rte_mbuf *mbuf, uint32_t index) {
    *(uint32_t *)rte_mbuf_to_priv(mbuf) = index;
}

uint32_t dpdk_index(const struct rte_mbuf *mbuf) {
    return *(const uint32_t *)rte_mbuf_to_priv((struct rte_mbuf *)(uintptr_t)mbuf);
}

void dpdk_prepare(struct rte_mbuf *mbuf, uint16_t offset, uint16_t length) {
    rte_mbuf_refcnt_set(mbuf, 2);
    mbuf->data_off = offset;
    mbuf->data_len = length;
    mbuf->pkt_len = length;
    mbuf->nb_segs = 1;
    mbuf->next = NULL;
    mbuf->ol_flags &= RTE_MBUF_F_EXTERNAL;
    mbuf->tx_offload = 0;
}

void dpdk_unprepare(struct rte_mbuf *mbuf) {
    rte_mbuf_refcnt_set(mbuf, 1);
}

size_t dpdk_done(struct rte_mbuf *const *mbufs, size_t count) {
    size_t done = 0;
    while (done < count && rte_mbuf_refcnt_read(mbufs[done]) == 1)
        done++;
    if (done > 0)
        rte_atomic_thread_fence(__ATOMIC_ACQUIRE);
    return done;
}
