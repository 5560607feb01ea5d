/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A container's root: an overlay with its upper layer on a tmpfs, fresh /proc, /sys and /dev, then volumes.
 *
 * Sources of volumes are opened as detached mounts before the root changes, and attached after it: their targets
 * resolve inside the new root, so that no symbolic link of an image (/var/run -> /run) leads out of it.
 */
#define _GNU_SOURCE
#include "podrun.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Every file system a container can write to carries nodev: a device node made there opens nothing. */
static const unsigned long PLAIN = MS_NOSUID | MS_NODEV | MS_NOEXEC;

static void must_mount(const char *type, const char *target, unsigned long flags, const char *data)
{
	if (mkdir(target, 0755) && errno != EEXIST)
		fail(target);
	if (mount(type, target, type, flags, data))
		fail(target);
}

void open_binds(struct root *root)
{
	for (size_t i = 0; i < root->n_binds; i++) {
		struct bind *bind = &root->binds[i];
		bind->tree = (int)syscall(SYS_open_tree, AT_FDCWD, bind->source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
		if (bind->tree < 0)
			fail(bind->source);
		struct mount_attr attr = {.attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID |
						      (bind->read_only ? MOUNT_ATTR_RDONLY : 0)};
		if (syscall(SYS_mount_setattr, bind->tree, "", AT_EMPTY_PATH, &attr, sizeof attr))
			fail(bind->source);
	}
}

/* Parents of `path`, then the mount point itself: a directory, or an empty file. */
static void make_mount_point(const char *path, bool is_directory)
{
	char step[PATH_MAX];
	if (snprintf(step, sizeof step, "%s", path) >= (int)sizeof step)
		fail_text("mount path is too long");
	for (char *slash = strchr(step + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		if (mkdir(step, 0755) && errno != EEXIST)
			fail(step);
		*slash = '/';
	}
	if (is_directory) {
		if (mkdir(path, 0755) && errno != EEXIST)
			fail(path);
		return;
	}
	int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (file < 0 && errno != EROFS && errno != EISDIR)
		fail(path);
	if (file >= 0)
		close(file);
}

static void attach_binds(struct root *root)
{
	for (size_t i = 0; i < root->n_binds; i++) {
		struct bind *bind = &root->binds[i];
		struct stat st;
		if (fstat(bind->tree, &st))
			fail(bind->source);
		make_mount_point(bind->target, S_ISDIR(st.st_mode));
		if (syscall(SYS_move_mount, bind->tree, "", AT_FDCWD, bind->target, MOVE_MOUNT_F_EMPTY_PATH))
			fail(bind->target);
		close(bind->tree);
	}
}

static void fill_dev(void)
{
	static const struct {
		const char *path;
		unsigned major, minor;
	} nodes[] = {{"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
		     {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
	static const char *links[][2] = {{"pts/ptmx", "/dev/ptmx"},
					 {"/proc/self/fd", "/dev/fd"},
					 {"/proc/self/fd/0", "/dev/stdin"},
					 {"/proc/self/fd/1", "/dev/stdout"},
					 {"/proc/self/fd/2", "/dev/stderr"}};
	must_mount("tmpfs", "/dev", MS_NOSUID, "mode=755,size=64k");
	must_mount("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620");
	must_mount("tmpfs", "/dev/shm", PLAIN, "mode=1777,size=64m");
	mode_t old = umask(0);
	for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
		if (mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)))
			fail(nodes[i].path);
	umask(old);
	for (size_t i = 0; i < sizeof links / sizeof *links; i++)
		if (symlink(links[i][0], links[i][1]))
			fail(links[i][1]);
}

static void mask(const char *path)
{
	struct stat st;
	if (stat(path, &st))
		return; /* nothing there to hide */
	int rc = S_ISDIR(st.st_mode) ? mount("tmpfs", path, "tmpfs", PLAIN | MS_RDONLY, "mode=755,size=0")
				     : mount("/dev/null", path, NULL, MS_BIND, NULL);
	if (rc)
		fail(path);
}

static void make_read_only(const char *path)
{
	if (mount(path, path, NULL, MS_BIND | MS_REC, NULL)) {
		if (errno == ENOENT)
			return;
		fail(path);
	}
	if (mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | PLAIN, NULL))
		fail(path);
}

/* What container runtimes hide and protect (OCI defaults of containerd: maskedPaths, readonlyPaths). */
static void guard_kernel_files(void)
{
	static const char *masked[] = {"/proc/acpi",	    "/proc/asound",	"/proc/kcore",	    "/proc/keys",
				       "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
				       "/proc/scsi",	    "/sys/firmware",	"/sys/devices/virtual/powercap"};
	static const char *read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
	for (size_t i = 0; i < sizeof masked / sizeof *masked; i++)
		mask(masked[i]);
	for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++)
		make_read_only(read_only[i]);
}

static void change_root(const struct root *root)
{
	char upper[PATH_MAX], work[PATH_MAX], merged[PATH_MAX], options[3 * PATH_MAX + 64];
	snprintf(upper, sizeof upper, "%s/upper", root->scratch);
	snprintf(work, sizeof work, "%s/work", root->scratch);
	snprintf(merged, sizeof merged, "%s/root", root->scratch);
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", root->lower, upper, work);
	if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		fail("/");
	must_mount("tmpfs", root->scratch, MS_NODEV, "mode=755");
	if (mkdir(upper, 0755) || mkdir(work, 0755))
		fail(root->scratch);
	must_mount("overlay", merged, MS_NODEV, options);
	if (chdir(merged) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		fail("pivot_root");
}

void enter_root(struct root *root)
{
	change_root(root);
	must_mount("proc", "/proc", PLAIN, NULL);
	must_mount("sysfs", "/sys", PLAIN | MS_RDONLY, NULL);
	must_mount("cgroup2", "/sys/fs/cgroup", PLAIN | MS_RDONLY, NULL);
	fill_dev();
	if (root->is_host) { /* an image of its own keeps its /tmp and /run */
		must_mount("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
		must_mount("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
	}
	guard_kernel_files();
	for (size_t i = 0; i < root->n_masks; i++)
		mask(root->masks[i]);
	attach_binds(root);
	if (root->read_only && mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV, NULL))
		fail("/ read-only");
}
