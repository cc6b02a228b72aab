/* A daemon that was killed and cannot die: holds the locks of files and listens on a socket, and its first thread has ended
 * while another one waits, as after SIGKILL beside a thread in state D. With "alive" its first thread waits, too. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void *wait_for_ever(void *unused) {
    for (;;)
        pause();
    return unused;
}

static unsigned long long start(void) {
    char text[4096];
    FILE *stat = fopen("/proc/self/stat", "r");
    text[fread(text, 1, sizeof text - 1, stat)] = 0;
    char *field = strrchr(text, ')');
    for (int number = 2; number < 22; number++)
        field = strchr(field + 1, ' ');
    return strtoull(field, NULL, 10);
}

/* corpse dead|alive SOCKET LOCK... */
int main(int count, char **args) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, args[2], sizeof address.sun_path - 1);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8))
        return 1;
    for (int n = 3; n < count; n++) {
        int fd = open(args[n], O_RDWR | O_CREAT, 0600);
        if (flock(fd, LOCK_EX | LOCK_NB))
            return 2;
        dprintf(fd, "%d %llu\n", getpid(), start());
    }
    pthread_t thread;
    pthread_create(&thread, NULL, wait_for_ever, NULL);
    puts("ready");
    fflush(stdout);
    if (!strcmp(args[1], "dead"))
        pthread_exit(NULL);
    wait_for_ever(NULL);
}
