/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The streams of a container: output into one file in the CRI log format ("TIME STREAM F|P text"), input from a FIFO.
 *
 * P marks a part of a line: longer than LOG_CHUNK, or of a terminal, whose prompts must not wait for a newline. A full
 * disk loses lines, never blocks the container; a container that does not read its input delays no output.
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

static void open_fifo(struct input *input)
{
	if (input->fifo >= 0)
		close(input->fifo);
	input->fifo = input->path ? open(input->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
}

static void close_input(struct input *input)
{
	close(input->fifo);
	input->fifo = -1;
	if (!input->is_terminal)
		close(input->sink);
	input->sink = -1;
}

/* Moves what is there: from the FIFO when nothing is held, else to the container. */
static void move_input(struct input *input)
{
	ssize_t n;
	if (input->held) {
		n = write(input->sink, input->buffer, input->held);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			close_input(input); /* the container reads no more */
			return;
		}
		input->held -= n > 0 ? (size_t)n : 0;
		memmove(input->buffer, input->buffer + (n > 0 ? n : 0), input->held);
		return;
	}
	n = read(input->fifo, input->buffer, sizeof input->buffer);
	if (n > 0)
		input->held = (size_t)n;
	else if (n == 0 && input->once)
		close_input(input); /* the first writer has gone, and with it the input */
	else if (n == 0)
		open_fifo(input);
}

static void take_output(struct log *log, struct stream *stream, struct pollfd *polled, bool is_terminal)
{
	ssize_t n = read(polled->fd, stream->buffer + stream->held, LOG_CHUNK - stream->held);
	if (n < 0 && errno == EINTR)
		return;
	if (n > 0)
		stream->held += (size_t)n;
	write_lines(log, stream, n <= 0 || is_terminal);
	if (n <= 0) { /* of a terminal: EIO, its last user has gone */
		if (!is_terminal)
			close(polled->fd);
		polled->fd = -1;
	}
}

/* Returns when all output has ended; `err` is -1 for a terminal. */
void relay_streams(const char *path, int out, int err, struct input *input)
{
	static struct stream streams[2] = {{.name = "stdout"}, {.name = "stderr"}};
	struct log log = {.path = path};
	struct pollfd polled[3] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
	open_log(&log);
	open_fifo(input);
	while (polled[0].fd >= 0 || polled[1].fd >= 0) {
		polled[2].fd = input->held ? input->sink : input->fifo;
		polled[2].events = input->held ? POLLOUT : POLLIN;
		if (poll(polled, 3, -1) < 0 && errno != EINTR)
			return;
		for (int i = 0; i < 2; i++)
			if (polled[i].fd >= 0 && polled[i].revents)
				take_output(&log, &streams[i], &polled[i], input->is_terminal);
		if (polled[2].fd >= 0 && polled[2].revents)
			move_input(input);
	}
}
