// What a C library's resolver finds: for each argument the addresses of a name, or after "-x" the name of an address, one line each.
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static int by_address(const char *text) {
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    int is_v4 = inet_pton(AF_INET, text, &v4.sin_addr) == 1;
    if (!is_v4 && inet_pton(AF_INET6, text, &v6.sin6_addr) != 1) return EAI_NONAME;
    struct sockaddr *address = is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
    char name[NI_MAXHOST];
    int failed = getnameinfo(address, is_v4 ? sizeof v4 : sizeof v6, name, sizeof name, NULL, 0, NI_NAMEREQD);
    if (!failed) printf("%s", name);
    return failed;
}

static int by_name(const char *name) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int failed = getaddrinfo(name, NULL, &hints, &found);
    if (failed) return failed;
    int many = 0;
    for (struct addrinfo *it = found; it; it = it->ai_next) many++;
    if (many > 4) {
        printf("%d addresses", many);
        return 0;
    }
    for (struct addrinfo *it = found; it; it = it->ai_next) {
        char text[INET6_ADDRSTRLEN];
        const void *octets = it->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)it->ai_addr)->sin_addr
                                                      : (void *)&((struct sockaddr_in6 *)it->ai_addr)->sin6_addr;
        printf("%s%s", it == found ? "" : " ", inet_ntop(it->ai_family, octets, text, sizeof text));
    }
    return 0;
}

int main(int count, char **arguments) {
    for (int at = 1; at < count; at++) {
        int failed = !strcmp(arguments[at], "-x") ? by_address(arguments[++at]) : by_name(arguments[at]);
        printf(failed == EAI_NONAME ? "no such name\n" : failed ? "failed\n" : "\n");
    }
    return 0;
}
