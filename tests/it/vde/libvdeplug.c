/* Any program on libvdeplug: opens what it is told, sends back each frame with both addresses swapped, and ends once it has had three
 * and its input ends. */
#include <libvdeplug.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	unsigned char frame[VDE_ETHBUFSIZE], mac[6] = {2, 0, 0, 0, 0, 7};
	VDECONN *conn = vde_open(argv[1], "a program", NULL);
	if (argc < 2 || conn == NULL || vde_datafd(conn) < 0 || vde_ctlfd(conn) < 0)
		return 1;
	for (int left = 3; left > 0; left--) {
		struct pollfd fds[] = {{vde_datafd(conn), POLLIN, 0}, {vde_ctlfd(conn), POLLIN, 0}};
		if (poll(fds, 2, 20000) <= 0 || fds[1].revents)
			return 2;
		ssize_t len = vde_recv(conn, frame, sizeof frame, 0);
		if (len < 14)
			return 3;
		memcpy(frame, frame + 6, 6);
		memcpy(frame + 6, mac, 6);
		if (vde_send(conn, frame, len, 0) != len)
			return 4;
	}
	getchar();
	vde_close(conn);
	return 0;
}
