/* Preloaded into the daemon under test: once the file $HANG is there, threads of tokio that wait for I/O never come back, and take
 * no signal; while $HANG.disk is there, so does fsync(2), until it is gone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_there(const char *suffix) {
    char path[4096];
    snprintf(path, sizeof path, "%s%s", getenv("HANG"), suffix);
    return access(path, F_OK) == 0;
}

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout) {
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    int result = NEXT(epoll_wait)(fd, events, count, timeout);
    if (!strcmp(name, "tokio-rt-worker") && is_there("")) {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, NULL);
        for (;;)
            pause();
    }
    return result;
}

int fsync(int fd) {
    while (is_there(".disk"))
        usleep(1000);
    return NEXT(fsync)(fd);
}
