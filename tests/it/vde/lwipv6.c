/* Two stacks of LWIPv6 on one VDE network, of which one echoes what the other sends. */
#include <arpa/inet.h>
#include <lwipv6.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>

static int stack_socket(char *net, int number) {
    struct stack *stack = lwip_stack_new();
    struct netif *interface = lwip_vdeif_add(stack, net);
    struct ip_addr address, mask;
    if (!interface)
        return -1;
    IP64_ADDR(&address, 10, 61, 0, number);
    IP64_MASKADDR(&mask, 255, 255, 255, 0);
    lwip_add_addr(interface, &address, &mask);
    lwip_ifup(interface);
    return lwip_msocket(stack, PF_INET, SOCK_DGRAM, 0);
}

int main(int argc, char **argv) {
    int client = stack_socket(argv[1], 1), server = stack_socket(argv[1], 2);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(7)}, from;
    struct pollfd fds[] = {{server, POLLIN, 0}, {client, POLLIN, 0}};
    char text[100];
    inet_pton(AF_INET, "10.61.0.2", &at.sin_addr);
    if (client < 0 || server < 0 || lwip_bind(server, (struct sockaddr *)&at, sizeof at))
        return 1;
    for (int tries = 0; tries < 100; tries++) {
        socklen_t len = sizeof from;
        lwip_sendto(client, "echo", 4, 0, (struct sockaddr *)&at, sizeof at);
        while (lwip_poll(fds, 2, 200) > 0) {
            if (fds[1].revents)
                return lwip_recv(client, text, sizeof text, 0) != 4 || memcmp(text, "echo", 4);
            int got = lwip_recvfrom(server, text, sizeof text, 0, (struct sockaddr *)&from, &len);
            lwip_sendto(server, text, got, 0, (struct sockaddr *)&from, len);
        }
    }
    return 2;
}
