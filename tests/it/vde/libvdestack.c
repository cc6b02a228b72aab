/* Two stacks of libvdestack on one VDE network, of which one echoes what the other sends. */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vdestack.h>

static int stack_socket(struct vdestack *stack, char *address) {
    char command[100];
    if (!stack)
        return -1;
    snprintf(command, sizeof command, "/bin/ip address add %s/24 dev vde0", address);
    if (vde_stackcmd(stack, command) || vde_stackcmd(stack, "/bin/ip link set vde0 up"))
        return -1;
    return vde_msocket(stack, AF_INET, SOCK_DGRAM, 0);
}

static int echo(struct vdestack *one, struct vdestack *other) {
    int client = stack_socket(one, "10.61.0.1"), server = stack_socket(other, "10.61.0.2");
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(7)}, from;
    struct pollfd fds[] = {{server, POLLIN, 0}, {client, POLLIN, 0}};
    char text[100];
    inet_pton(AF_INET, "10.61.0.2", &at.sin_addr);
    if (client < 0 || server < 0 || bind(server, (struct sockaddr *)&at, sizeof at))
        return 1;
    for (int tries = 0; tries < 100; tries++) {
        socklen_t len = sizeof from;
        sendto(client, "echo", 4, 0, (struct sockaddr *)&at, sizeof at);
        while (poll(fds, 2, 200) > 0) {
            if (fds[1].revents)
                return recv(client, text, sizeof text, 0) != 4 || memcmp(text, "echo", 4);
            ssize_t got = recvfrom(server, text, sizeof text, 0, (struct sockaddr *)&from, &len);
            sendto(server, text, got, 0, (struct sockaddr *)&from, len);
        }
    }
    return 2;
}

int main(int argc, char **argv) {
    struct vdestack *one = vde_addstack(argv[1], "vde0"), *other = vde_addstack(argv[1], "vde0");
    int failed = echo(one, other);
    /* Each has a process of its own. */
    if (one)
        vde_delstack(one);
    if (other)
        vde_delstack(other);
    return failed;
}
