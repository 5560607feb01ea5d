/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both output streams of a container into one file in the CRI log format: "TIME STREAM F|P text".
 *
 * P marks a part of a line longer than LOG_CHUNK. A full disk loses lines, never blocks the container.
 */
#define _GNU_SOURCE
#include "podrun.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct stream {
	const char *name;
	int fd;
	size_t held;
	char buffer[LOG_CHUNK];
};

struct log {
	const char *path;
	int fd;
	off_t size;
};

static void open_log(struct log *log)
{
	struct stat st;
	log->fd = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	log->size = log->fd >= 0 && !fstat(log->fd, &st) ? st.st_size : 0;
}

static void write_log(struct log *log, const char *data, size_t size)
{
	if (log->size + (off_t)size > LOG_ROTATE_BYTES && log->size > 0) {
		char old[PATH_MAX];
		snprintf(old, sizeof old, "%s.1", log->path);
		rename(log->path, old);
		close(log->fd);
		open_log(log);
	}
	/* One write a batch: O_APPEND keeps lines whole. */
	if (write(log->fd, data, size) > 0)
		log->size += (off_t)size;
}

static size_t stamp(char *buffer, size_t size, const char *stream)
{
	struct timespec now;
	struct tm utc;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	size_t n = strftime(buffer, size, "%Y-%m-%dT%H:%M:%S", &utc);
	return n + (size_t)snprintf(buffer + n, size - n, ".%09ldZ %s ", now.tv_nsec, stream);
}

/* Writes the complete lines held; what is left waits for its newline unless the buffer is full or the stream ended. */
static void write_lines(struct log *log, struct stream *stream, bool ended)
{
	static char batch[8 * LOG_CHUNK];
	char prefix[64];
	size_t n_prefix = stamp(prefix, sizeof prefix, stream->name), filled = 0;
	char *at = stream->buffer, *end = at + stream->held;
	while (at < end) {
		char *newline = memchr(at, '\n', (size_t)(end - at));
		size_t length = (size_t)((newline ? newline : end) - at);
		if (!newline && !ended && length < LOG_CHUNK)
			break;
		if (filled + n_prefix + length + 3 > sizeof batch) {
			write_log(log, batch, filled);
			filled = 0;
		}
		memcpy(batch + filled, prefix, n_prefix);
		memcpy(batch + filled + n_prefix, newline ? "F " : "P ", 2);
		memcpy(batch + filled + n_prefix + 2, at, length);
		filled += n_prefix + 2 + length;
		batch[filled++] = '\n';
		at += length + (newline ? 1 : 0);
	}
	if (filled)
		write_log(log, batch, filled);
	stream->held = (size_t)(end - at);
	memmove(stream->buffer, at, stream->held);
}

/* Returns when both streams have ended. */
void relay_output(const char *path, int out, int err)
{
	static struct stream streams[2] = {{.name = "stdout"}, {.name = "stderr"}};
	struct log log = {.path = path};
	struct pollfd polled[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
	open_log(&log);
	for (int open_streams = 2; open_streams;) {
		if (poll(polled, 2, -1) < 0 && errno != EINTR)
			return;
		for (int i = 0; i < 2; i++) {
			struct stream *stream = &streams[i];
			if (polled[i].fd < 0 || !polled[i].revents)
				continue;
			ssize_t n = read(polled[i].fd, stream->buffer + stream->held, LOG_CHUNK - stream->held);
			if (n < 0 && errno == EINTR)
				continue;
			if (n > 0)
				stream->held += (size_t)n;
			write_lines(&log, stream, n <= 0);
			if (n <= 0) {
				close(polled[i].fd);
				polled[i].fd = -1;
				open_streams--;
			}
		}
	}
}
