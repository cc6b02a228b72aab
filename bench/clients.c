/* Two clients of a switch on one thread: one sends frames to the other, which checks each and counts. Driven by
 * bench/ports.py, one command a line on stdin, one JSON object a line on stdout:
 *
 *   blast SECONDS SIZE      as many frames of SIZE octets as go, from the first client to the second
 *   ask SECONDS SIZE        the second client answers each frame, and the first waits for that before the next one
 *
 * Arguments, and what the clients are connected by:
 *
 *   vde CTL                 two clients of a VDE switch: datagrams of UNIX, 64 with one call
 *   datagrams               nothing but a pair of such sockets
 *   stream ADDRESS PORT     two connections of QEMU's netdev stream (socket): as QEMU, a call for each frame written,
 *                           and reads of as much as there is
 *   direct                  one such connection from the one to the other
 *
 * Build: cc -O3 bench/clients.c */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* QEMU's NET_BUFSIZE, and room for the length before a frame. */
enum { BURST = 64, SMALLEST = 60, LARGEST = 1514, BUFFER = 4096 + 65536, PREFIX = 4 };
enum { TRIPS = 1 << 20 };

struct frame {
    uint8_t to[6], from[6];
    uint16_t type;
    uint32_t run, number;
    uint8_t filler[LARGEST - 22];
} __attribute__((packed));

struct client {
    int fd, is_stream;
    uint8_t mac[6];
    uint8_t in[BUFFER]; /* of a stream: what was read and is no whole frame yet */
    size_t filled;
    uint8_t out[PREFIX + LARGEST]; /* of a stream: the end of a frame that was cut */
    size_t unwritten;
};

static struct client clients[2] = {{.mac = {2, 0, 0, 0, 0, 1}}, {.mac = {2, 0, 0, 0, 0, 2}}};
static struct frame frames[BURST], heard[BURST];
static uint64_t sent, received, bad;
static uint32_t run, last;
static uint64_t trips[TRIPS];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static int unix_socket(int type, const char *path, struct sockaddr_un *address) {
    int fd = socket(AF_UNIX, type, 0);
    if (fd < 0) fail("socket");
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address->sun_path, sizeof address->sun_path, "%s", path);
    return fd;
}

/* The request of a VDE client (vde2, datasock.c): its own socket's address for that of the switch. */
static int vde(const char *ctl, int number) {
    struct { uint32_t magic, version, type; struct sockaddr_un socket; } __attribute__((packed)) request = {0xfeedface, 3, 0, {0}};
    struct sockaddr_un own, address;
    char path[sizeof address.sun_path];
    /* In a working directory of its own. */
    snprintf(path, sizeof path, "%s/client-%d", getcwd((char[64]){0}, 64), number);
    int data = unix_socket(SOCK_DGRAM, path, &own);
    if (bind(data, (void *)&own, sizeof own)) fail(path);
    request.socket = own;
    int control = unix_socket(SOCK_STREAM, ctl, &address);
    if (connect(control, (void *)&address, sizeof address)) fail(ctl);
    if (send(control, &request, sizeof request, 0) != sizeof request) fail("request");
    if (recv(control, &address, sizeof address, MSG_WAITALL) != sizeof address) fail("reply");
    if (connect(data, (void *)&address, sizeof address)) fail(address.sun_path);
    unlink(path);
    /* `control` stays open: its end is the unplug. */
    return data;
}

static int dial(const struct sockaddr_in *address) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (void *)address, sizeof *address)) fail("connect");
    return fd;
}

static void connect_directly(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, len) || listen(listener, 1)) fail("listen");
    if (getsockname(listener, (void *)&address, &len)) fail("getsockname");
    clients[0].fd = dial(&address);
    clients[1].fd = accept(listener, NULL, NULL);
    if (clients[1].fd < 0) fail("accept");
}

/* Begins a run, from one client to the other. */
static void begin(const struct client *from, const struct client *to, int size) {
    sent = received = bad = last = 0;
    run++;
    for (int at = 0; at < BURST; at++) {
        memcpy(frames[at].to, to->mac, 6);
        memcpy(frames[at].from, from->mac, 6);
        frames[at].type = htons(0x88b5); /* for local experiments (IEEE 802) */
        frames[at].run = run;
        for (int octet = 0; octet < size - 22; octet++) frames[at].filler[octet] = octet * 31;
    }
}

static void count(const struct client *here, const struct frame *frame, size_t len, size_t size) {
    /* One of before, which has waited in the switch for long. */
    if (len >= 22 && frame->run != run) return;
    /* In order; some may be lost. */
    if (len != size || memcmp(frame->to, here->mac, 6) || frame->number <= last) {
        bad++;
    } else {
        last = frame->number;
        received++;
    }
}

/* Sends up to a burst of the frames, numbered. Returns how many. */
static int send_datagrams(struct client *from, int size) {
    static struct iovec pieces[BURST];
    static struct mmsghdr messages[BURST];
    for (int at = 0; at < BURST; at++) {
        frames[at].number = sent + at + 1;
        pieces[at] = (struct iovec){&frames[at], size};
        messages[at].msg_hdr = (struct msghdr){.msg_iov = &pieces[at], .msg_iovlen = 1};
    }
    int count = sendmmsg(from->fd, messages, BURST, MSG_DONTWAIT);
    if (count < 0 && errno != EAGAIN && errno != ENOBUFS) fail("sendmmsg");
    return count < 0 ? 0 : count;
}

/* Receives a burst. Returns whether there may be more. */
static int receive_datagrams(struct client *here, int size) {
    static struct iovec pieces[BURST];
    static struct mmsghdr messages[BURST];
    for (int at = 0; at < BURST; at++) {
        pieces[at] = (struct iovec){&heard[at], sizeof heard[at]};
        messages[at].msg_hdr = (struct msghdr){.msg_iov = &pieces[at], .msg_iovlen = 1};
    }
    int frames = recvmmsg(here->fd, messages, BURST, MSG_DONTWAIT | MSG_TRUNC, NULL);
    if (frames < 0 && errno != EAGAIN) fail("recvmmsg");
    for (int at = 0; at < frames; at++) count(here, &heard[at], messages[at].msg_len, size);
    return frames == BURST;
}

static int send_stream(struct client *from, int size) {
    int taken = 0;
    if (from->unwritten) {
        ssize_t wrote = send(from->fd, from->out, from->unwritten, MSG_DONTWAIT);
        if (wrote < 0 && errno != EAGAIN) fail("send");
        if (wrote <= 0) return 0;
        memmove(from->out, from->out + wrote, from->unwritten -= wrote);
        if (from->unwritten) return 0;
    }
    for (; taken < BURST && !from->unwritten; taken++) {
        struct frame *frame = &frames[taken];
        uint32_t prefix = htonl(size);
        frame->number = sent + taken + 1;
        struct iovec pieces[] = {{&prefix, PREFIX}, {frame, size}};
        ssize_t wrote = sendmsg(from->fd, &(struct msghdr){.msg_iov = pieces, .msg_iovlen = 2}, MSG_DONTWAIT);
        if (wrote < 0 && errno != EAGAIN) fail("sendmsg");
        if (wrote < 0) break;
        if (wrote < PREFIX + size) {
            uint8_t whole[PREFIX + LARGEST];
            memcpy(whole, &prefix, PREFIX);
            memcpy(whole + PREFIX, frame, size);
            from->unwritten = PREFIX + size - wrote;
            memcpy(from->out, whole + wrote, from->unwritten);
        }
    }
    return taken;
}

static int receive_stream(struct client *here, int size) {
    ssize_t asked = BUFFER - here->filled, came = recv(here->fd, here->in + here->filled, asked, MSG_DONTWAIT);
    if (!came || (came < 0 && errno != EAGAIN)) fail("recv");
    if (came < 0) return 0;
    here->filled += came;
    uint8_t *next = here->in, *end = here->in + here->filled;
    for (uint32_t len; end - next >= PREFIX; next += PREFIX + len) {
        memcpy(&len, next, PREFIX);
        len = ntohl(len);
        if (len > LARGEST) fail("out of step");
        if (end - next < PREFIX + len) break;
        count(here, (struct frame *)(next + PREFIX), len, size);
    }
    memmove(here->in, next, here->filled = end - next);
    return came == asked;
}

static int send_some(struct client *from, int size) {
    int count = from->is_stream ? send_stream(from, size) : send_datagrams(from, size);
    sent += count;
    return count;
}

static int receive_some(struct client *here, int size) {
    return here->is_stream ? receive_stream(here, size) : receive_datagrams(here, size);
}

/* What is still under way, until there was nothing for a while. */
static void drain(int size) {
    uint64_t before = 0, quiet = now();
    while (now() - quiet < 10000000) {
        for (int at = 0; at < 2; at++) receive_some(&clients[at], size);
        if (received != before) before = received, quiet = now();
    }
}

/* Lets each hear of the other, so that the switch knows both. */
static void introduce(void) {
    for (int at = 0; at < 2; at++) {
        struct client *from = &clients[at], *to = &clients[!at];
        uint64_t end = now() + 10000000000ull;
        begin(from, to, SMALLEST);
        while (!received) {
            if (now() > end) errno = ETIMEDOUT, fail("no frame arrives");
            send_some(from, SMALLEST);
            drain(SMALLEST);
        }
    }
}

static void blast(double seconds, int size) {
    struct client *from = &clients[0], *to = &clients[1];
    begin(from, to, size);
    uint64_t start = now(), end = start + seconds * 1e9, time;
    while ((time = now()) < end) {
        send_some(from, size);
        /* A switch that is faster is not heard for ever. */
        for (int more = 8; more && receive_some(to, size); more--);
    }
    uint64_t within = received;
    drain(size);
    double took = (time - start) / 1e9;
    printf("{\"seconds\": %.6f, \"frames\": %lu, \"bad\": %lu, \"kpps\": %.3f, \"loss\": %.6f}\n", took, received, bad,
           within / took / 1e3, sent ? 1 - (double)received / sent : 0);
}

static int compare(const void *a, const void *b) {
    uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;
    return (one > other) - (one < other);
}

/* Waits for a frame, asleep. Returns whether one came. */
static int hear(struct client *here, int size, uint32_t expected) {
    struct frame frame;
    ssize_t len = recv(here->fd, &frame, sizeof frame, 0);
    return len == size && frame.run == expected;
}

static void ask(double seconds, int size) {
    struct client *one = &clients[0], *other = &clients[1];
    struct frame question, answer;
    struct timeval patience = {.tv_usec = 100000};
    begin(one, other, size), question = frames[0];
    begin(other, one, size), answer = frames[0];
    for (int at = 0; at < 2; at++) setsockopt(clients[at].fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    uint64_t count = 0, lost = 0, start = now(), end = start + seconds * 1e9, time;
    while ((time = now()) < end && count < TRIPS) {
        if (send(one->fd, &question, size, 0) == size && hear(other, size, question.run) && send(other->fd, &answer, size, 0) == size &&
            hear(one, size, answer.run))
            trips[count++] = now() - time;
        else
            lost++, drain(size);
    }
    qsort(trips, count, sizeof *trips, compare);
    printf("{\"seconds\": %.6f, \"frames\": %lu, \"bad\": 0, \"lost\": %lu, \"p50_us\": %.2f, \"p99_us\": %.2f}\n", (time - start) / 1e9,
           2 * count, lost, count ? trips[count / 2] / 1e3 : 0, count ? trips[count * 99 / 100] / 1e3 : 0);
}

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "";
    if (!strcmp(kind, "vde") && argc == 3) {
        for (int at = 0; at < 2; at++) clients[at].fd = vde(argv[2], at);
    } else if (!strcmp(kind, "datagrams") && argc == 2) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair)) fail("socketpair");
        clients[0].fd = pair[0], clients[1].fd = pair[1];
    } else if (!strcmp(kind, "stream") && argc == 4) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
        if (!inet_pton(AF_INET, argv[2], &address.sin_addr)) fail(argv[2]);
        for (int at = 0; at < 2; at++) clients[at].fd = dial(&address);
    } else if (!strcmp(kind, "direct") && argc == 2) {
        connect_directly();
    } else {
        fprintf(stderr, "wrong arguments\n");
        return 2;
    }
    for (int at = 0; at < 2; at++) {
        clients[at].is_stream = !strcmp(kind, "stream") || !strcmp(kind, "direct");
        /* As QEMU does: a frame does not wait for more. */
        if (clients[at].is_stream) setsockopt(clients[at].fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    introduce();
    printf("{\"ready\": true}\n");
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        double seconds;
        int size;
        introduce();
        if (sscanf(line, "blast %lf %d", &seconds, &size) == 2 && size >= SMALLEST && size <= LARGEST)
            blast(seconds, size);
        else if (sscanf(line, "ask %lf %d", &seconds, &size) == 2 && size >= SMALLEST && size <= LARGEST && !clients[0].is_stream)
            ask(seconds, size);
        else
            fprintf(stderr, "wrong command\n"), exit(2);
    }
    return 0;
}
