#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rte_alarm.h>
#include <rte_atomic.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_memory.h>
#include <rte_memzone.h>

_Static_assert(sizeof(struct rte_mbuf) == 2 * RTE_CACHE_LINE_MIN_SIZE, "an mbuf is two cache lines");
_Static_assert(DPDK_PORTS <= UINT16_MAX, "a port's number is a uint16_t");

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

int dpdk_log_debug(const char *pattern) {
    return rte_log_set_level_pattern(pattern, RTE_LOG_DEBUG);
}

int dpdk_logs_debug(void) {
    return rte_log_cur_msg_loglevel() > (int)RTE_LOG_NOTICE;
}

int dpdk_after_interrupts(void (*function)(void *)) {
    return rte_eal_alarm_set(1, function, NULL);
}

uint16_t dpdk_next_port(uint16_t from) {
    /* Not those that belong to another: Azure's virtual functions are netvsc's. */
    return (uint16_t)rte_eth_find_next_owned_by(from, RTE_ETH_DEV_NO_OWNER);
}

int dpdk_facts(uint16_t port, struct dpdk_facts *facts) {
    struct rte_eth_dev_info info;
    struct rte_ether_addr mac;
    memset(facts, 0, sizeof(*facts));
    int error = rte_eth_dev_info_get(port, &info);
    if (error == 0)
        error = rte_eth_macaddr_get(port, &mac);
    if (error == 0)
        error = rte_eth_dev_get_name_by_port(port, facts->name);
    if (error != 0)
        return error;
    /* Some drivers do not know. */
    if (rte_eth_dev_get_mtu(port, &facts->mtu) != 0)
        facts->mtu = 0;
    if (info.driver_name != NULL)
        strncpy(facts->driver, info.driver_name, sizeof(facts->driver) - 1);
    memcpy(facts->mac, mac.addr_bytes, sizeof(facts->mac));
    facts->rx_offloads = info.rx_offload_capa;
    facts->tx_offloads = info.tx_offload_capa;
    facts->rss_fields = info.flow_type_rss_offloads;
    facts->min_rx_buffer = info.min_rx_bufsize;
    facts->max_frame = info.max_rx_pktlen;
    facts->interface = info.if_index;
    facts->min_mtu = info.min_mtu;
    facts->max_mtu = info.max_mtu;
    facts->max_rx_queues = info.max_rx_queues;
    facts->max_tx_queues = info.max_tx_queues;
    facts->reta_size = info.reta_size;
    facts->link_events = info.dev_flags != NULL && (*info.dev_flags & RTE_ETH_DEV_INTR_LSC) != 0;
    facts->node = rte_eth_dev_socket_id(port);
    return 0;
}

int dpdk_configure(uint16_t port, uint16_t queues, uint64_t rx_offloads, uint64_t tx_offloads, uint64_t spread_by,
                   uint16_t mtu, int link_interrupts) {
    struct rte_eth_conf conf;
    memset(&conf, 0, sizeof(conf));
    conf.rxmode.offloads = rx_offloads;
    conf.rxmode.mtu = mtu;
    if (spread_by != 0) {
        conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = spread_by;
    }
    conf.txmode.offloads = tx_offloads;
    conf.intr_conf.lsc = link_interrupts != 0;
    return rte_eth_dev_configure(port, queues, queues, &conf);
}

int dpdk_rx_queue(uint16_t port, uint16_t queue, uint16_t descriptors, struct rte_mempool *pool) {
    return rte_eth_rx_queue_setup(port, queue, descriptors, (unsigned int)rte_eth_dev_socket_id(port), NULL, pool);
}

int dpdk_tx_queue(uint16_t port, uint16_t queue, uint16_t descriptors) {
    return rte_eth_tx_queue_setup(port, queue, descriptors, (unsigned int)rte_eth_dev_socket_id(port), NULL);
}

int dpdk_counters(uint16_t port, struct dpdk_counters *counters) {
    struct rte_eth_stats stats;
    int error = rte_eth_stats_get(port, &stats);
    if (error != 0)
        return error;
    *counters = (struct dpdk_counters){
        .received = stats.ipackets,
        .sent = stats.opackets,
        .received_bytes = stats.ibytes,
        .sent_bytes = stats.obytes,
        .missed = stats.imissed,
        .no_mbuf = stats.rx_nombuf,
        .receive_errors = stats.ierrors,
        .send_errors = stats.oerrors,
    };
    return 0;
}

static void passed(void *flag) {
    __atomic_store_n((int *)flag, 1, __ATOMIC_RELEASE);
}

/* Waits until EAL's interrupt thread has done what it was about to do: it runs alarms too, one after the other. At most
 * a second, for that thread may hang. */
static void interrupts_are_done(void) {
    int flag = 0;
    if (rte_eal_alarm_set(1, passed, &flag) != 0)
        return;
    for (int i = 0; i < 10000 && __atomic_load_n(&flag, __ATOMIC_ACQUIRE) == 0; i++)
        usleep(100);
    rte_eal_alarm_cancel(passed, &flag);
}

static int remove_now(uint16_t port) {
    struct rte_eth_dev_info info;
    /* A device whose peer is gone cannot tell it that it stops. */
    (void)rte_eth_dev_stop(port);
    int error = rte_eth_dev_info_get(port, &info);
    if (error == 0)
        error = rte_eth_dev_close(port);
    if (error == 0 && info.device != NULL)
        error = rte_dev_remove(info.device);
    return error;
}

struct call {
    int (*function)(uint16_t port);
    uint16_t port;
    int result;
    int done;
};

static void call_there(void *opaque) {
    struct call *call = opaque;
    call->result = call->function(call->port);
    __atomic_store_n(&call->done, 1, __ATOMIC_RELEASE);
}

static int call(int (*function)(uint16_t port), uint16_t port, int by_interrupts) {
    struct call call = {.function = function, .port = port};
    if (!by_interrupts || rte_eal_alarm_set(1, call_there, &call) != 0)
        return function(port);
    while (__atomic_load_n(&call.done, __ATOMIC_ACQUIRE) == 0)
        usleep(100);
    return call.result;
}

int dpdk_start(uint16_t port, int by_interrupts) {
    return call(rte_eth_dev_start, port, by_interrupts);
}

int dpdk_stop(uint16_t port, int by_interrupts) {
    return call(rte_eth_dev_stop, port, by_interrupts);
}

int dpdk_remove(uint16_t port, int by_interrupts) {
    /* What the interrupt thread was about to do may need what closing, or the end of the pool, frees. */
    interrupts_are_done();
    int error = call(remove_now, port, by_interrupts);
    interrupts_are_done();
    return error;
}

int dpdk_link_is_up(uint16_t port) {
    struct rte_eth_link link;
    memset(&link, 0, sizeof(link));
    int error = rte_eth_link_get_nowait(port, &link);
    return error != 0 ? error : link.link_status == RTE_ETH_LINK_UP;
}

struct rte_mempool *dpdk_pool(const char *name, uint32_t count, uint32_t cache, uint16_t room, int node) {
    uint16_t private = RTE_ALIGN(sizeof(uint32_t), RTE_MBUF_PRIV_ALIGN);
    if (rte_eal_iova_mode() != RTE_IOVA_VA)
        return rte_pktmbuf_pool_create(name, count, cache, private, room, node);
    /* The same without gaps before page boundaries, which nobody needs where devices see virtual addresses. AF_XDP's
     * driver reckons without them: what lies behind the end that it computes is neither sent nor received into. */
    struct rte_pktmbuf_pool_private data;
    memset(&data, 0, sizeof(data));
    data.mbuf_data_room_size = room;
    data.mbuf_priv_size = private;
    struct rte_mempool *pool = rte_mempool_create_empty(name, count, sizeof(struct rte_mbuf) + private + room, cache,
                                                        sizeof(data), node, RTE_MEMPOOL_F_NO_IOVA_CONTIG);
    if (pool == NULL)
        return NULL;
    int error = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
    if (error == 0) {
        rte_pktmbuf_pool_init(pool, &data);
        error = rte_mempool_populate_default(pool);
    }
    if (error < 0) {
        rte_mempool_free(pool);
        rte_errno = -error;
        return NULL;
    }
    rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
    return pool;
}

struct listing {
    struct rte_mbuf **mbufs;
    size_t max;
};

static void list(struct rte_mempool *pool, void *opaque, void *object, unsigned int index) {
    struct listing *listing = opaque;
    struct rte_mbuf *mbuf = object;
    (void)pool;
    *(uint32_t *)rte_mbuf_to_priv(mbuf) = index;
    if (index < listing->max)
        listing->mbufs[index] = mbuf;
}

size_t dpdk_pool_mbufs(struct rte_mempool *pool, struct rte_mbuf **mbufs, size_t max) {
    struct listing listing = {.mbufs = mbufs, .max = max};
    return rte_mempool_obj_iter(pool, list, &listing);
}

void *dpdk_buffer(const struct rte_mbuf *mbuf) {
    return mbuf->buf_addr;
}

uint32_t dpdk_index(const struct rte_mbuf *mbuf) {
    return *(const uint32_t *)rte_mbuf_to_priv((struct rte_mbuf *)(uintptr_t)mbuf);
}

uint16_t dpdk_rx_burst(uint16_t port, uint16_t queue, struct dpdk_received *frames, uint16_t count) {
    struct rte_mbuf *mbufs[DPDK_BURST];
    if (count > DPDK_BURST)
        count = DPDK_BURST;
    uint16_t received = rte_eth_rx_burst(port, queue, mbufs, count);
    uint16_t kept = 0;
    for (uint16_t i = 0; i < received; i++) {
        struct rte_mbuf *mbuf = mbufs[i];
        if (unlikely(!RTE_MBUF_DIRECT(mbuf))) {
            /* In memory that is not the pool's: netvsc may lend the host's. */
            mbuf = rte_pktmbuf_copy(mbufs[i], mbuf->pool, 0, UINT32_MAX);
            rte_pktmbuf_free(mbufs[i]);
            if (mbuf == NULL)
                continue;
        }
        frames[kept++] = (struct dpdk_received){
            .mbuf = mbuf,
            .flags = mbuf->ol_flags,
            .index = dpdk_index(mbuf),
            .length = mbuf->pkt_len,
            .offset = mbuf->data_off,
            .segments = mbuf->nb_segs,
        };
    }
    return kept;
}

uint16_t dpdk_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_tx_burst(port, queue, mbufs, count);
}

void dpdk_cut(struct rte_mbuf *mbuf) {
    rte_pktmbuf_free(mbuf->next);
    mbuf->next = NULL;
    mbuf->nb_segs = 1;
}

int dpdk_alloc(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count) {
    return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void dpdk_prepare(struct rte_mbuf *mbuf, uint16_t offset, uint16_t length, int ip_version) {
    rte_mbuf_refcnt_set(mbuf, 2);
    mbuf->data_off = offset;
    mbuf->data_len = length;
    mbuf->pkt_len = length;
    mbuf->nb_segs = 1;
    mbuf->next = NULL;
    mbuf->ol_flags = 0;
    mbuf->tx_offload = 0;
    mbuf->vlan_tci = 0;
    if (ip_version != 0) {
        mbuf->ol_flags = RTE_MBUF_F_TX_UDP_CKSUM | (ip_version == 4 ? RTE_MBUF_F_TX_IPV4 : RTE_MBUF_F_TX_IPV6);
        mbuf->l2_len = RTE_ETHER_HDR_LEN;
        mbuf->l3_len = ip_version == 4 ? 20 : 40;
    }
}

void dpdk_unprepare(struct rte_mbuf *mbuf) {
    rte_mbuf_refcnt_set(mbuf, 1);
}

void *dpdk_reserve(const char *name, size_t size, size_t alignment, int node) {
    const struct rte_memzone *zone = rte_memzone_reserve_aligned(name, size, node, 0, (unsigned int)alignment);
    return zone == NULL ? NULL : zone->addr;
}

int dpdk_release(const char *name) {
    return rte_memzone_free(rte_memzone_lookup(name));
}

uint64_t dpdk_device_address(const void *start, size_t length) {
    if (rte_eal_iova_mode() == RTE_IOVA_VA)
        return (uintptr_t)start;
    /* Where devices see physical addresses, pages follow each other by chance. */
    const struct rte_memseg *segment = rte_mem_virt2memseg(start, NULL);
    if (segment == NULL || segment->iova == RTE_BAD_IOVA)
        return UINT64_MAX;
    size_t offset = RTE_PTR_DIFF(start, segment->addr);
    return offset + length <= segment->len ? segment->iova + offset : UINT64_MAX;
}

uint64_t dpdk_buffer_address(const struct rte_mbuf *mbuf) {
    return rte_mbuf_iova_get(mbuf);
}

struct rte_mempool *dpdk_tails(const char *name, uint32_t count, int node) {
    return rte_pktmbuf_pool_create(name, count, 0, 0, 0, node);
}

static void keep(void *start, void *opaque) {
    (void)start;
    (void)opaque;
}

/* Of all that is put behind frames: who owns it is noted elsewhere. */
static struct rte_mbuf_ext_shared_info shared = {.free_cb = keep, .refcnt = 1};

void dpdk_attach(struct rte_mbuf *mbuf, struct rte_mbuf *tail, void *start, uint64_t address, uint16_t length) {
    rte_mbuf_refcnt_set(tail, 2);
    tail->ol_flags = 0;
    rte_pktmbuf_attach_extbuf(tail, start, address, length, &shared);
    tail->data_len = length;
    tail->pkt_len = length;
    tail->nb_segs = 1;
    tail->next = NULL;
    tail->tx_offload = 0;
    mbuf->next = tail;
    mbuf->nb_segs = 2;
    mbuf->pkt_len += length;
}

int dpdk_detach(struct rte_mbuf *mbuf, const struct rte_mempool *tails) {
    mbuf->next = NULL;
    mbuf->nb_segs = 1;
    return mbuf->pool == tails;
}

size_t dpdk_done(struct rte_mbuf *const *mbufs, size_t count) {
    size_t done = 0;
    while (done < count && rte_mbuf_refcnt_read(mbufs[done]) == 1)
        done++;
    if (done > 0)
        rte_smp_rmb();
    return done;
}
