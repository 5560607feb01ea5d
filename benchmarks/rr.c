// SPDX-License-Identifier: Apache-2.0
/* TCP round trips of one byte: `rr server ADDRESS`, `rr client ADDRESS SECONDS` (prints round trips a second). Both families. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const int one = 1;
static char byte = 1;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void serve(int s)
{
	for (;;) {
		int c = accept(s, NULL, NULL);

		setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		while (read(c, &byte, 1) == 1 && write(c, &byte, 1) == 1)
			;
		close(c);
	}
}

static int measure(int s, double seconds)
{
	double start = now(), t = start;
	long count = 0;

	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (; t < start + seconds; t = now())
		for (int i = 0; i < 64; i++, count++)
			if (write(s, &byte, 1) != 1 || read(s, &byte, 1) != 1)
				return perror("io"), 1;
	printf("%.0f\n", count / (t - start));
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(5002) };
	struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons(5002) };
	int v6 = argc > 2 && strchr(argv[2], ':'), s = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
	struct sockaddr *a = v6 ? (void *)&a6 : (void *)&a4;
	socklen_t n = v6 ? sizeof(a6) : sizeof(a4);

	if (argc < 3)
		return fprintf(stderr, "rr server ADDRESS | rr client ADDRESS SECONDS\n"), 2;
	inet_pton(a->sa_family, argv[2], v6 ? (void *)&a6.sin6_addr : (void *)&a4.sin_addr);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (argv[1][0] == 's')
		return bind(s, a, n) || listen(s, 8) ? (perror("bind"), 1) : (serve(s), 0);
	return connect(s, a, n) ? (perror("connect"), 1) : measure(s, atof(argv[3]));
}
