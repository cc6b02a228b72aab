/* Preloaded into the daemon under test: makes one call, or all calls from one on, fail that change files below $FAULTS_BELOW, or kills
 * the process there. $FAULTS names a file of four ints that the test shares: calls to go (0: none fails), errno (0: kill), whether
 * all after it fail too, and the calls seen; then a letter for each of the calls (o w f d r u: open, write, fsync of a file and of a
 * directory, rename, unlink). Opening for reading is no change. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct faults {
    volatile int to_go, error, lasting, seen;
    volatile char trail[112];
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

static int counts(char call) {
    struct faults *f = faults();
    size_t done = strlen((const char *)f->trail);
    if (done + 1 < sizeof f->trail)
        f->trail[done] = call;
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

static int fails(const char *path, char call) {
    /* The files of one commit are written by several threads. */
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const char *below = getenv("FAULTS_BELOW");
    if (!path || strncmp(path, below, strlen(below)))
        return 0;
    pthread_mutex_lock(&lock);
    int fails = counts(call);
    pthread_mutex_unlock(&lock);
    return fails;
}

static int fails_at(int fd, char call) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0)
        return 0;
    path[len] = 0;
    return fails(path, call);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    int changes = (flags & O_ACCMODE) != O_RDONLY;
    return changes && fails(path, 'o') ? -1 : NEXT(open64)(path, flags, mode);
}

ssize_t write(int fd, const void *octets, size_t count) {
    return fails_at(fd, 'w') ? -1 : NEXT(write)(fd, octets, count);
}

int fsync(int fd) {
    struct stat found;
    int is_directory = !fstat(fd, &found) && S_ISDIR(found.st_mode);
    return fails_at(fd, is_directory ? 'd' : 'f') ? -1 : NEXT(fsync)(fd);
}

int rename(const char *from, const char *to) { return fails(from, 'r') ? -1 : NEXT(rename)(from, to); }

int unlink(const char *path) { return fails(path, 'u') ? -1 : NEXT(unlink)(path); }
