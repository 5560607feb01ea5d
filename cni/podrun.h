/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PODRUN_H
#define PODRUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum limit {
	MAX_BINDS = 64,
	MAX_MASKS = 32,
	MAX_GROUPS = 32,
	MAX_SYSCTLS = 16,
	LOG_CHUNK = 16384,            /* a longer line is split, as CRI does */
	LOG_ROTATE_BYTES = 10 << 20,  /* kubelet's containerLogMaxSize */
};

/* Exit statuses of podrun itself; a container's own are passed through. */
enum exit_status { EXIT_SETUP = 125, EXIT_NOT_EXECUTABLE = 126, EXIT_NOT_FOUND = 127 };

struct bind {
	const char *source, *target;
	bool read_only;
	int tree; /* the detached mount, opened before the root changes */
};

/* What a container may do; a process that enters later gets the same. */
struct credential {
	uint64_t capabilities;
	uid_t uid;
	gid_t gid;
	gid_t groups[MAX_GROUPS];
	size_t n_groups;
	bool no_new_privileges;
};

struct root {
	const char *lower, *scratch;
	bool read_only, is_host;
	struct bind binds[MAX_BINDS];
	size_t n_binds;
	const char *masks[MAX_MASKS];
	size_t n_masks;
};

/* Ends the process with EXIT_SETUP; where a parent listens (fail_fd ≥ 0) it gets the text. */
extern int fail_fd;
_Noreturn void fail(const char *what);
_Noreturn void fail_text(const char *text);

/* podrun_root.c */
void open_binds(struct root *root);
void enter_root(struct root *root);

/* podrun_credential.c */
void parse_user(struct credential *credential, const char *text);
void apply_credential(const struct credential *credential);

/* podrun_log.c */
struct input {
	const char *path; /* of a FIFO; NULL: no input */
	int fifo, sink;   /* from there, to the container; -1: closed */
	bool once, is_terminal;
	size_t held;
	char buffer[4096];
};

void relay_streams(const char *path, int out, int err, struct input *input);

#endif
