/* Two guests on one core: DPDK's virtio-user ports send frames into one vNIC and receive them from another, check each
 * and count. Driven by bench/run.py, one command a line on stdin, one JSON object a line on stdout:
 *
 *   run SECONDS SIZE WAYS HEADERS_ONLY RATE      sends frames of SIZE octets; WAYS 1: port 0 to 1, 2: both ways;
 *                                                HEADERS_ONLY: octets behind the headers are written once only;
 *                                                RATE: frames a second and way, 0: as many as go
 *   distance CPU                                 nanoseconds a cache line takes from here to CPU
 *
 * Arguments behind those of DPDK's EAL: for each port the guest's MAC, its IPv4 address and the MAC to send to.
 * Build: cc -O3 -march=native bench/generator.c $(pkg-config --cflags --libs libdpdk) -pthread */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_udp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BURST = 32, LARGEST = 1518, HEADERS = 42, DESCRIPTORS = 256 };

/* What follows the headers of every frame. */
struct stamp {
    uint32_t number;
    uint64_t sent;
} __attribute__((packed));

struct way {
    struct rte_ether_addr mac, to;
    uint32_t ip;
    uint8_t frame[LARGEST];
    struct rte_mbuf *ready[BURST]; /* written and not taken by the ring yet */
    unsigned readied;
    uint32_t next;
    uint64_t sent, received, bad, tries, full;
};

static struct way ways[2];
static struct rte_mempool *pool;

/* Latencies in 10 ns, the last bin: longer. */
static uint32_t latencies[100001];

static void fail(const char *what) {
    fprintf(stderr, "generator: %s\n", what);
    exit(1);
}

static void write_frame(struct way *way, uint32_t to, int size) {
    struct rte_ether_hdr *ethernet = (void *)way->frame;
    struct rte_ipv4_hdr *ip = (void *)(ethernet + 1);
    struct rte_udp_hdr *udp = (void *)(ip + 1);
    for (int at = HEADERS; at < size; at++) way->frame[at] = (uint8_t)(at * 31);
    *ethernet = (struct rte_ether_hdr){way->to, way->mac, htons(RTE_ETHER_TYPE_IPV4)};
    *ip = (struct rte_ipv4_hdr){.version_ihl = 0x45, .total_length = htons(size - 14), .time_to_live = 64,
                                .next_proto_id = IPPROTO_UDP, .src_addr = way->ip, .dst_addr = to};
    ip->hdr_checksum = rte_ipv4_cksum(ip);
    *udp = (struct rte_udp_hdr){htons(4000), htons(4001), htons(size - 34), 0};
}

/* Writes up to `count` frames anew and gives them to the ring. */
static void send_some(int port, int size, int headers_only, unsigned count) {
    struct way *way = &ways[port];
    if (way->readied < count) {
        unsigned missing = count - way->readied;
        struct rte_mbuf **fresh = way->ready + way->readied;
        if (rte_pktmbuf_alloc_bulk(pool, fresh, missing)) return;
        for (unsigned at = 0; at < missing; at++) {
            uint8_t *data = rte_pktmbuf_mtod(fresh[at], uint8_t *);
            struct stamp stamp = {way->next++, rte_rdtsc()};
            memcpy(data, way->frame, headers_only ? HEADERS : size);
            memcpy(data + HEADERS, &stamp, sizeof stamp);
            fresh[at]->data_len = fresh[at]->pkt_len = size;
        }
        way->readied = count;
    }
    unsigned taken = rte_eth_tx_burst(port, 0, way->ready, way->readied);
    way->sent += taken;
    way->tries += way->readied;
    way->full += way->readied - taken;
    way->readied -= taken;
    memmove(way->ready, way->ready + taken, way->readied * sizeof *way->ready);
}

/* Receives at `port` what the other one sent, checks it, and counts it there. */
static unsigned receive_some(int port, int size, double ticks_per_10ns) {
    struct way *from = &ways[!port], *here = &ways[port];
    struct rte_mbuf *got[BURST];
    unsigned count = rte_eth_rx_burst(port, 0, got, BURST);
    uint64_t now = ticks_per_10ns ? rte_rdtsc() : 0;
    for (unsigned at = 0; at < count; at++) {
        const uint8_t *data = rte_pktmbuf_mtod(got[at], uint8_t *);
        const struct rte_ether_hdr *ethernet = (const void *)data;
        const struct rte_ipv4_hdr *ip = (const void *)(ethernet + 1);
        if (got[at]->pkt_len != (unsigned)size || ip->src_addr != from->ip || ip->dst_addr != here->ip) {
            from->bad++;
            continue;
        }
        from->received++;
        if (now) {
            struct stamp stamp;
            memcpy(&stamp, data + HEADERS, sizeof stamp);
            uint64_t bin = (now - stamp.sent) / ticks_per_10ns;
            latencies[bin < 100000 ? bin : 100000]++;
        }
    }
    rte_pktmbuf_free_bulk(got, count);
    return count;
}

/* Nanoseconds within which a share of the frames arrived. */
static uint64_t latency(double share, uint64_t of) {
    uint64_t seen = 0;
    for (unsigned bin = 0; bin <= 100000; bin++)
        if ((seen += latencies[bin]) > share * of) return bin * 10;
    return 0;
}

static void run(double seconds, int size, int both, int headers_only, double rate) {
    uint64_t hz = rte_get_tsc_hz(), interval = rate ? hz / rate : 0;
    int directions = both ? 2 : 1;
    unsigned burst = rate ? 1 : BURST;
    double ticks = rate ? hz / 1e8 : 0;
    for (int port = 0; port < 2; port++) {
        struct way *way = &ways[port];
        rte_pktmbuf_free_bulk(way->ready, way->readied);
        way->readied = way->next = way->sent = way->received = way->bad = way->tries = way->full = 0;
        write_frame(way, ways[!port].ip, size);
    }
    memset(latencies, 0, sizeof latencies);
    uint64_t start = rte_rdtsc(), end = start + seconds * hz, due = start, now;
    while ((now = rte_rdtsc()) < end) {
        if (now >= due) {
            due += interval;
            for (int port = 0; port < directions; port++) send_some(port, size, headers_only, burst);
        }
        /* All that is there: a ring that stays full would hold up the switch. */
        for (int port = 0; port < directions; port++)
            for (int more = DESCRIPTORS / BURST; more && receive_some(!port, size, ticks) == BURST; more--);
    }
    double took = (double)(now - start) / hz;
    uint64_t within = ways[0].received + ways[1].received;
    /* What is under way still arrives, or is lost. */
    for (uint64_t quiet = rte_rdtsc(); rte_rdtsc() - quiet < hz / 100;)
        for (int port = 0; port < directions; port++)
            if (receive_some(!port, size, 0)) quiet = rte_rdtsc();
    uint64_t sent = ways[0].sent + ways[1].sent, received = ways[0].received + ways[1].received;
    uint64_t tries = ways[0].tries + ways[1].tries;
    printf("{\"seconds\": %.6f, \"sent\": %lu, \"received\": %lu, \"bad\": %lu, \"mpps\": %.4f, \"loss\": %.6f, "
           "\"ring_full\": %.4f",
           took, sent, received, ways[0].bad + ways[1].bad, within / took / 1e6,
           sent ? 1 - (double)received / sent : 0, tries ? (double)(ways[0].full + ways[1].full) / tries : 0);
    if (rate) printf(", \"p50_ns\": %lu, \"p99_ns\": %lu", latency(0.5, within), latency(0.99, within));
    printf("}\n");
}

static _Alignas(128) atomic_uint turn;
enum { TRIPS = 20000 };

static void *bounce(void *cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (pthread_setaffinity_np(pthread_self(), sizeof set, &set)) fail("cannot run on that CPU");
    for (unsigned trip = 0; trip < TRIPS; trip++) {
        while (atomic_load_explicit(&turn, memory_order_acquire) != 2 * trip + 1);
        atomic_store_explicit(&turn, 2 * trip + 2, memory_order_release);
    }
    return NULL;
}

static void distance(size_t cpu) {
    pthread_t other;
    atomic_store(&turn, 0);
    if (pthread_create(&other, NULL, bounce, (void *)cpu)) fail("cannot start a thread");
    uint64_t start = 0;
    for (unsigned trip = 0; trip < TRIPS; trip++) {
        if (trip == TRIPS / 10) start = rte_rdtsc();
        atomic_store_explicit(&turn, 2 * trip + 1, memory_order_release);
        while (atomic_load_explicit(&turn, memory_order_acquire) != 2 * trip + 2);
    }
    double took = (double)(rte_rdtsc() - start) / rte_get_tsc_hz() * 1e9;
    pthread_join(other, NULL);
    printf("{\"ns\": %.1f}\n", took / (TRIPS - TRIPS / 10) / 2);
}

int main(int argc, char **argv) {
    int used = rte_eal_init(argc, argv);
    if (used < 0 || argc - used != 7 || rte_eth_dev_count_avail() != 2) fail("wrong arguments, or a vNIC cannot be reached");
    argv += used + 1;
    pool = rte_pktmbuf_pool_create("frames", 8191, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    if (!pool) fail("no memory for frames");
    for (int port = 0; port < 2; port++, argv += 3) {
        struct way *way = &ways[port];
        struct rte_eth_conf conf = {0};
        if (rte_ether_unformat_addr(argv[0], &way->mac) || !inet_pton(AF_INET, argv[1], &way->ip) ||
            rte_ether_unformat_addr(argv[2], &way->to))
            fail("wrong address");
        if (rte_eth_dev_configure(port, 1, 1, &conf) || rte_eth_rx_queue_setup(port, 0, DESCRIPTORS, 0, NULL, pool) ||
            rte_eth_tx_queue_setup(port, 0, DESCRIPTORS, 0, NULL) || rte_eth_dev_start(port))
            fail("cannot start a port");
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("{\"ready\": true}\n");
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        double seconds, rate;
        int size, both, headers_only;
        size_t cpu;
        if (sscanf(line, "run %lf %d %d %d %lf", &seconds, &size, &both, &headers_only, &rate) == 5 &&
            size >= HEADERS + (int)sizeof(struct stamp) && size <= LARGEST && (both == 1 || both == 2))
            run(seconds, size, both == 2, headers_only, rate);
        else if (sscanf(line, "distance %zu", &cpu) == 1)
            distance(cpu);
        else
            fail("wrong command");
    }
    for (int port = 0; port < 2; port++) rte_eth_dev_stop(port);
    return 0;
}
