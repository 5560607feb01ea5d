/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stentor-relay PATH: joins standard input and output to a unix socket.
 *
 * The command line reaches an agent through pods/exec of this program: its HTTP API then has the one transport and the
 * one authorization that the Kubernetes API gives, without a port of its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char buffer[65536];

/* Moves what is there from one descriptor to the other. Returns 1 after some, 0 at the end, -1 on an error. */
static int move(int from, int to)
{
	ssize_t got = read(from, buffer, sizeof(buffer));
	ssize_t sent = 0;

	if (got <= 0)
		return got < 0 && errno == EINTR ? 1 : (int)got;
	while (sent < got) {
		ssize_t done = write(to, buffer + sent, (size_t)(got - sent));
		if (done < 0 && errno != EINTR)
			return -1;
		if (done > 0)
			sent += done;
	}
	return 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct pollfd ends[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .events = POLLIN } };
	int state, sock;

	if (argc != 2 || strlen(argv[1]) >= sizeof(address.sun_path)) {
		fprintf(stderr, "usage: stentor-relay SOCKET\n");
		return 2;
	}
	strcpy(address.sun_path, argv[1]);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address))) {
		fprintf(stderr, "stentor-relay: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	ends[1].fd = sock;
	for (;;) {
		if (poll(ends, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return 1;
		}
		if (ends[1].revents) {
			state = move(sock, STDOUT_FILENO);
			if (state <= 0)
				return state < 0;
		}
		if (ends[0].fd >= 0 && ends[0].revents && move(STDIN_FILENO, sock) <= 0) {
			shutdown(sock, SHUT_WR);
			ends[0].fd = -1;
		}
	}
}
