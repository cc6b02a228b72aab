/* Preloaded into the daemon under test: makes one call, or all calls from one on, fail that change files below $FAULTS_BELOW, or kills
 * the process there. $FAULTS names a file of four ints that the test shares: calls to go (0: none fails), errno (0: kill), whether
 * all after it fail too, and the calls seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct faults {
    volatile int to_go, error, lasting, seen;
};

static struct faults *faults(void) {
    static struct faults *shared;
    if (!shared) {
        int (*open_file)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
        int fd = open_file(getenv("FAULTS"), O_RDWR);
        shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (shared == MAP_FAILED)
            abort();
        close(fd);
    }
    return shared;
}

static int fails(const char *path) {
    const char *below = getenv("FAULTS_BELOW");
    if (!path || strncmp(path, below, strlen(below)))
        return 0;
    struct faults *f = faults();
    f->seen++;
    if (f->to_go == 0 || (f->to_go > 1 && f->to_go--))
        return 0;
    if (f->error == 0)
        kill(getpid(), SIGKILL);
    if (!f->lasting)
        f->to_go = 0;
    errno = f->error;
    return 1;
}

static int fails_at(int fd) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0)
        return 0;
    path[len] = 0;
    return fails(path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return fails(path) ? -1 : NEXT(open64)(path, flags, mode);
}

ssize_t write(int fd, const void *octets, size_t count) {
    return fails_at(fd) ? -1 : NEXT(write)(fd, octets, count);
}

int fsync(int fd) { return fails_at(fd) ? -1 : NEXT(fsync)(fd); }

int rename(const char *from, const char *to) { return fails(from) ? -1 : NEXT(rename)(from, to); }

int unlink(const char *path) { return fails(path) ? -1 : NEXT(unlink)(path); }
