// SPDX-License-Identifier: Apache-2.0
/* Connects to one "IP PORT" after the other, as read from standard input, and prints the median time of connect() in
 * microseconds. IPv4. Connections end by a reset: left in TIME_WAIT, their ports would soon be dear to find. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 100000

static double took[MOST];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int measure(const struct sockaddr_in *to, double *us)
{
	struct linger reset = { .l_onoff = 1 };
	int s = socket(AF_INET, SOCK_STREAM, 0);
	double began = now();

	if (connect(s, (const struct sockaddr *)to, sizeof(*to)))
		return perror("connect"), 1;
	*us = now() - began;
	setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	return close(s);
}

int main(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	unsigned int port, count = 0;
	char ip[16];

	for (; count < MOST && scanf("%15s %u", ip, &port) == 2; count++) {
		to.sin_port = htons(port);
		if (inet_pton(AF_INET, ip, &to.sin_addr) != 1)
			return fprintf(stderr, "not an address: %s\n", ip), 1;
		if (measure(&to, &took[count]))
			return 1;
	}
	if (!count)
		return fprintf(stderr, "no addresses\n"), 1;
	qsort(took, count, sizeof(took[0]), compare);
	printf("%.3f\n", (took[(count - 1) / 2] + took[count / 2]) / 2);
	return 0;
}
