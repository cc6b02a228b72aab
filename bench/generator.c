/* Guests on one core: DPDK's virtio-user ports send frames into one vNIC and receive them from another, check each and
 * count. Driven by bench/run.py, one command a line on stdin, one JSON object a line on stdout:
 *
 *   run SECONDS SIZE WHO HEADERS_ONLY RATE       sends frames of SIZE octets;
 *                                                WHO one: port 0 to 1, two: both ways, all: every port to random others,
 *                                                flood: port 0 to all, which counts each copy, attacked: as one, while
 *                                                port 2 sends to all as much as goes;
 *                                                HEADERS_ONLY: octets behind the headers are written once only;
 *                                                RATE: frames a second and way, 0: as many as go
 *   distance CPU                                 nanoseconds a cache line takes from here to CPU
 *
 * Arguments behind those of DPDK's EAL: for each port the guest's MAC, its IPv4 address, which follows on the one
 * before, and the MAC that frames to it are sent to.
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

enum { BURST = 32, LARGEST = 1518, HEADERS = 42, DESCRIPTORS = 256, PORTS = 16 };

/* Whom a port sends to, beside the numbers of ports. */
enum { ALL = PORTS, RANDOM, NOBODY };

/* What follows the headers of every frame. */
struct stamp {
    uint32_t number;
    uint64_t sent;
} __attribute__((packed));

struct way {
    struct rte_ether_addr mac, by; /* its own, and that of whoever leads to it */
    uint32_t ip;
    uint8_t headers[PORTS + 1][HEADERS]; /* to each port, and to all */
    unsigned to;
    struct rte_mbuf *ready[BURST]; /* written and not taken by the ring yet */
    unsigned readied;
    uint32_t next;
    uint64_t sent, received, bad, stray, tries, full; /* stray: see is_stray */
};

static struct way ways[PORTS];
static int ports;
static uint8_t payload[LARGEST];
static struct rte_mempool *pool;

/* Latencies in 10 ns, the last bin: longer. */
static uint32_t latencies[100001];

static void fail(const char *what) {
    fprintf(stderr, "generator: %s\n", what);
    exit(1);
}

static void write_headers(struct way *way, int to, int size) {
    struct rte_ether_hdr *ethernet = (void *)way->headers[to];
    struct rte_ipv4_hdr *ip = (void *)(ethernet + 1);
    struct rte_udp_hdr *udp = (void *)(ip + 1);
    struct rte_ether_addr all = {{255, 255, 255, 255, 255, 255}};
    *ethernet = (struct rte_ether_hdr){to == ALL ? all : ways[to].by, way->mac, htons(RTE_ETHER_TYPE_IPV4)};
    *ip = (struct rte_ipv4_hdr){.version_ihl = 0x45, .total_length = htons(size - 14), .time_to_live = 64,
                                .next_proto_id = IPPROTO_UDP, .src_addr = way->ip,
                                .dst_addr = to == ALL ? 0xffffffff : ways[to].ip};
    ip->hdr_checksum = rte_ipv4_cksum(ip);
    *udp = (struct rte_udp_hdr){htons(4000), htons(4001), htons(size - 34), 0};
}

/* Returns whom the next frame of a port goes to. */
static unsigned receiver(int port) {
    static uint32_t random = 1;
    if (ways[port].to != RANDOM) return ways[port].to;
    /* Xorshift (Marsaglia 2003). */
    random ^= random << 13, random ^= random >> 17, random ^= random << 5;
    unsigned other = ((uint64_t)random * (ports - 1)) >> 32;
    return other + (other >= (unsigned)port);
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
            memcpy(data, way->headers[receiver(port)], HEADERS);
            if (!headers_only) memcpy(data + HEADERS, payload + HEADERS, size - HEADERS);
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

/* Returns whether a frame is no frame between these two guests: a switch floods those for a MAC until it knows that, and
 * asks who listens to groups. */
static int is_stray(const struct way *here, const struct rte_ether_hdr *ethernet) {
    if (!rte_is_multicast_ether_addr(&ethernet->dst_addr)) return !rte_is_same_ether_addr(&ethernet->dst_addr, &here->mac);
    for (int port = 0; port < ports; port++)
        if (rte_is_same_ether_addr(&ethernet->src_addr, &ways[port].mac)) return 0;
    return 1;
}

/* Receives at `port` what others sent, checks it, and counts it there. */
static unsigned receive_some(int port, int size, double ticks_per_10ns) {
    struct way *here = &ways[port];
    struct rte_mbuf *got[BURST];
    unsigned count = rte_eth_rx_burst(port, 0, got, BURST);
    uint64_t now = ticks_per_10ns ? rte_rdtsc() : 0;
    for (unsigned at = 0; at < count; at++) {
        const uint8_t *data = rte_pktmbuf_mtod(got[at], uint8_t *);
        const struct rte_ether_hdr *ethernet = (const void *)data;
        const struct rte_ipv4_hdr *ip = (const void *)(ethernet + 1);
        if (is_stray(here, ethernet)) {
            here->stray++;
            continue;
        }
        uint32_t from = ntohl(ip->src_addr) - ntohl(ways[0].ip);
        uint32_t to = from < (uint32_t)ports && ways[from].to == ALL ? 0xffffffff : here->ip;
        if (from >= (uint32_t)ports || got[at]->pkt_len != (unsigned)size || ip->dst_addr != to) {
            here->bad++;
            continue;
        }
        ways[from].received++;
        if (now && from == 0) {
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

/* Has the ports send to whom `who` says. Returns whether it is a word for that. */
static int choose(const char *who) {
    for (int port = 0; port < PORTS; port++) ways[port].to = NOBODY;
    ways[0].to = 1;
    if (!strcmp(who, "one")) return 1;
    if (!strcmp(who, "two")) return ways[1].to = 0, 1;
    if (!strcmp(who, "flood")) return ways[0].to = ALL, 1;
    if (!strcmp(who, "attacked") && ports > 2) return ways[2].to = ALL, 1;
    for (int port = 0; port < ports; port++) ways[port].to = RANDOM;
    return !strcmp(who, "all");
}

/* Receives what is under way, until all is quiet: it still arrives, or is lost. */
static void drain(int size) {
    for (uint64_t quiet = rte_rdtsc(); rte_rdtsc() - quiet < rte_get_tsc_hz() / 100;)
        for (int port = 0; port < ports; port++)
            if (receive_some(port, size, 0)) quiet = rte_rdtsc();
}

static void run(double seconds, int size, int headers_only, double rate) {
    uint64_t hz = rte_get_tsc_hz(), interval = rate ? hz / rate : 0;
    double ticks = rate ? hz / 1e8 : 0;
    /* Who attacks sends as much as goes, whatever the others do. */
    int attacker = ports > 2 && ways[0].to == 1 && ways[2].to == ALL ? 2 : -1;
    int receives = ways[0].to == 1 && attacker < 0 ? 2 : ports;
    for (int port = 0; port < ports; port++) {
        struct way *way = &ways[port];
        rte_pktmbuf_free_bulk(way->ready, way->readied);
        way->readied = way->next = way->sent = way->tries = way->full = 0;
        for (int to = 0; to < ports; to++) write_headers(way, to, size);
        write_headers(way, ALL, size);
    }
    /* Whatever came before is of no interest. */
    drain(size);
    for (int port = 0; port < ports; port++) ways[port].received = ways[port].bad = ways[port].stray = 0;
    memset(latencies, 0, sizeof latencies);
    uint64_t start = rte_rdtsc(), end = start + seconds * hz, due = start, now;
    while ((now = rte_rdtsc()) < end) {
        for (int port = 0; port < ports; port++)
            if (ways[port].to != NOBODY && port != attacker && now >= due) send_some(port, size, headers_only, rate ? 1 : BURST);
        if (now >= due) due += interval;
        if (attacker >= 0) send_some(attacker, size, headers_only, BURST);
        /* All that is there: a ring that stays full would hold up the switch. */
        for (int port = 0; port < receives; port++)
            for (int more = DESCRIPTORS / BURST; more && receive_some(port, size, ticks) == BURST; more--);
    }
    double took = (double)(now - start) / hz;
    uint64_t sent = 0, received = 0, within = 0, bad = 0, stray = 0, tries = 0, full = 0;
    for (int port = 0; port < ports; port++)
        if (port != attacker) within += ways[port].received;
    drain(size);
    for (int port = 0; port < ports; port++) {
        bad += ways[port].bad, stray += ways[port].stray;
        if (port == attacker) continue;
        sent += ways[port].sent, received += ways[port].received, tries += ways[port].tries, full += ways[port].full;
    }
    printf("{\"seconds\": %.6f, \"sent\": %lu, \"received\": %lu, \"bad\": %lu, \"stray\": %lu, \"mpps\": %.4f, \"loss\": %.6f, "
           "\"ring_full\": %.4f",
           took, sent, received, bad, stray, within / took / 1e6, sent ? 1 - (double)received / sent : 0, tries ? (double)full / tries : 0);
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
    ports = rte_eth_dev_count_avail();
    if (used < 0 || ports < 2 || ports > PORTS || argc - used != 1 + 3 * ports) fail("wrong arguments, or a vNIC cannot be reached");
    argv += used + 1;
    /* Each port has two rings full, and some are under way. */
    pool = rte_pktmbuf_pool_create("frames", ports > 2 ? 16383 : 8191, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    if (!pool) fail("no memory for frames");
    for (int at = 0; at < LARGEST; at++) payload[at] = (uint8_t)(at * 31);
    for (int port = 0; port < ports; port++, argv += 3) {
        struct way *way = &ways[port];
        struct rte_eth_conf conf = {0};
        if (rte_ether_unformat_addr(argv[0], &way->mac) || !inet_pton(AF_INET, argv[1], &way->ip) ||
            rte_ether_unformat_addr(argv[2], &way->by))
            fail("wrong address");
        if (rte_eth_dev_configure(port, 1, 1, &conf) || rte_eth_rx_queue_setup(port, 0, DESCRIPTORS, 0, NULL, pool) ||
            rte_eth_tx_queue_setup(port, 0, DESCRIPTORS, 0, NULL) || rte_eth_dev_start(port))
            fail("cannot start a port");
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("{\"ready\": true}\n");
    char line[128], who[16];
    while (fgets(line, sizeof line, stdin)) {
        double seconds, rate;
        int size, headers_only;
        size_t cpu;
        if (sscanf(line, "run %lf %d %15s %d %lf", &seconds, &size, who, &headers_only, &rate) == 5 &&
            size >= HEADERS + (int)sizeof(struct stamp) && size <= LARGEST && choose(who))
            run(seconds, size, headers_only, rate);
        else if (sscanf(line, "distance %zu", &cpu) == 1)
            distance(cpu);
        else
            fail("wrong command");
    }
    for (int port = 0; port < ports; port++) rte_eth_dev_stop(port);
    return 0;
}
