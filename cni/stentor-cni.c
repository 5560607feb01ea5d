/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stentor-cni: the CNI plugin. It relays a call to the agent's unix socket and prints the agent's answer.
 *
 * To the agent: the CNI_* variables ("NAME=value\0" each), an empty string, standard input, end of stream.
 * From the agent: one byte, the exit status, and the JSON to print.
 *
 * While the agent is away the plugin answers by itself: VERSION as always; ADD, CHECK and GC fail with error 11 (try
 * again later); STATUS fails with error 50 (not available); DEL is stored in the state directory and succeeds, so that a
 * runtime is never stuck with a dead container. The agent works the stored deletions off before it serves.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/stentor/cni.sock"
#define DEFAULT_STATE_DIR "/var/lib/stentor"
#define ANSWER_LIMIT_S 90
#define MAX_REQUEST (1 << 20)
#define MAX_ID 256

enum { TRY_AGAIN_LATER = 11, INVALID_ENVIRONMENT = 4, IO_FAILURE = 5, NOT_AVAILABLE = 50 };

extern char **environ;

static char request[MAX_REQUEST];
static size_t request_size;

static const char *setting(const char *name, const char *otherwise)
{
	const char *value = getenv(name);
	return value && *value ? value : otherwise;
}

static int fail(int code, const char *message, const char *details)
{
	printf("{\"cniVersion\":\"1.0.0\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", code, message, details);
	return 1;
}

static int print_version(void)
{
	puts("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}");
	return 0;
}

/* Collects variables and standard input. Returns 0, or -1 when they are too large or unreadable. */
static int read_request(void)
{
	for (char **entry = environ; *entry; entry++) {
		size_t size = strlen(*entry) + 1;
		if (strncmp(*entry, "CNI_", 4))
			continue;
		if (request_size + size + 1 > sizeof(request))
			return -1;
		memcpy(request + request_size, *entry, size);
		request_size += size;
	}
	request[request_size++] = 0;
	while (request_size < sizeof(request)) {
		ssize_t got = read(STDIN_FILENO, request + request_size, sizeof(request) - request_size);
		if (got == 0)
			return 0;
		if (got < 0 && errno != EINTR)
			return -1;
		if (got > 0)
			request_size += (size_t)got;
	}
	return -1;
}

static int write_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t done = write(fd, data, size);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return -1;
		data += done;
		size -= (size_t)done;
	}
	return 0;
}

/* A socket that has taken the whole request, or -1. */
static int send_request(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = ANSWER_LIMIT_S };
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return -1;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) || write_all(fd, request, request_size)) {
		close(fd);
		return -1;
	}
	shutdown(fd, SHUT_WR);
	return fd;
}

/* The agent's exit status, after its JSON has been printed; -1 when the agent gave none. */
static int relay_answer(int fd)
{
	static char buffer[65536];
	unsigned char status;
	ssize_t got = recv(fd, &status, 1, 0);

	if (got != 1)
		return -1;
	while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0)
		fwrite(buffer, 1, (size_t)got, stdout);
	return status;
}

/* Whether a value is a legal container id or interface name, and so safe in a file name. */
static int is_name(const char *text)
{
	size_t size = strlen(text);

	if (!size || size > MAX_ID || text[0] == '.' || text[0] == '-')
		return 0;
	return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == size;
}

/* Stores the request for the agent's next start: written aside and renamed, so that no half of one is ever read. */
static int store_deletion(const char *state_dir)
{
	const char *container = setting("CNI_CONTAINERID", ""), *interface = setting("CNI_IFNAME", "");
	char directory[2048], aside[4096], final[4096];
	int fd, failed;

	if (!is_name(container) || !is_name(interface))
		return fail(INVALID_ENVIRONMENT, "invalid environment", "CNI_CONTAINERID or CNI_IFNAME is missing or malformed");
	snprintf(directory, sizeof(directory), "%.1024s/deletions", state_dir);
	snprintf(final, sizeof(final), "%s/%s@%s", directory, container, interface);
	snprintf(aside, sizeof(aside), "%s/.%s@%s.%d", directory, container, interface, (int)getpid());
	mkdir(state_dir, 0700);
	mkdir(directory, 0700);
	fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail(TRY_AGAIN_LATER, "agent is not running and the deletion cannot be stored", strerror(errno));
	failed = write_all(fd, request, request_size) || fsync(fd);
	failed |= close(fd);
	if (failed || rename(aside, final)) {
		unlink(aside);
		return fail(TRY_AGAIN_LATER, "agent is not running and the deletion cannot be stored", strerror(errno));
	}
	return 0;
}

static int answer_without_agent(const char *command)
{
	if (!strcmp(command, "DEL"))
		return store_deletion(setting("STENTOR_STATE_DIR", DEFAULT_STATE_DIR));
	if (!strcmp(command, "STATUS"))
		return fail(NOT_AVAILABLE, "plugin is not available", "the agent of this node is not running");
	return fail(TRY_AGAIN_LATER, "try again later", "the agent of this node is not running");
}

int main(void)
{
	const char *command = setting("CNI_COMMAND", "");
	int fd, status = -1;

	if (!strcmp(command, "VERSION"))
		return print_version();
	if (!*command)
		return fail(INVALID_ENVIRONMENT, "invalid environment", "CNI_COMMAND is missing");
	if (read_request())
		return fail(IO_FAILURE, "cannot read the network configuration", "standard input is unreadable or over 1 MiB");
	fd = send_request(setting("STENTOR_CNI_SOCKET", DEFAULT_SOCKET));
	if (fd >= 0) {
		status = relay_answer(fd);
		close(fd);
	}
	return status < 0 ? answer_without_agent(command) : status;
}
