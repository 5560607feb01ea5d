/* SPDX-License-Identifier: Apache-2.0 */
/*
 * podrun: the lab's container runtime, one process a container.
 *
 *   podrun sandbox [-H HOSTNAME] [-N NET] [-I IPC] [-U UTS] [-S KEY=VALUE]
 *     makes a pod's namespaces and pins each at the given path; loopback is up.
 *   podrun run -d SCRATCH -s STATUS -l LOG -C PODCGROUP -c CGROUP [-N NET] [-I IPC] [-U UTS] [-r LOWER] [-R]
 *              [-b ro|rw:TARGET:SOURCE] [-m MASKED] [-k CAPABILITIES] [-u UID:GID] [-n] [-w DIR] [-i]
 *              [-y FIFO [-z]] [-x] -- COMMAND…
 *     starts a container and returns; a monitor stays behind, outside the container's PID namespace: it writes the log
 *     and, to STATUS, one line an event:
 *       monitor PID · started PID TIME · failed TEXT · exited CODE SIGNAL TIME          (TIME in ns since 1970)
 *     Standard input comes from FIFO, whoever writes to it (-z: and ends with the first writer); -x gives a terminal,
 *     whose master is the monitor's descriptor 9.
 *     The monitor closes descriptor 3 once the command runs or has failed. Nothing but the monitor's own death ends it
 *     before the container, and that ends the container: whoever started it may go away and come back.
 *   podrun exec [-p PIDFD] [-c CGROUP] [-t SOCKET] [-k …] [-u …] [-n] [-w DIR] -- COMMAND…
 *     joins a container (without -p: stays where it is); -t makes a terminal and sends its master over SOCKET.
 */
#define _GNU_SOURCE
#include "podrun.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct options {
	const char *hostname, *net, *ipc, *uts, *log, *status, *pod_cgroup, *cgroup, *directory;
	const char *sysctls[MAX_SYSCTLS];
	size_t n_sysctls;
	struct root root;
	struct credential credential;
	struct input input;
	bool use_init;
	int pidfd, terminal;
	char **command;
};

int fail_fd = -1; /* where a failure is told: the status file, or standard error */
static int failure_pipe = -1;

void fail_text(const char *text)
{
	dprintf(fail_fd >= 0 ? fail_fd : STDERR_FILENO, "%s%s\n", fail_fd >= 0 ? "failed " : "podrun: ", text);
	if (failure_pipe >= 0 && write(failure_pipe, "!", 1) < 0)
		_exit(EXIT_SETUP);
	_exit(EXIT_SETUP);
}

void fail(const char *what)
{
	char text[PATH_MAX + 128];
	snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
	fail_text(text);
}

static int must_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0640);
	if (fd < 0)
		fail(path);
	return fd;
}

static long long now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void reset_signals(void)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int signal_number = 1; signal_number < NSIG; signal_number++)
		signal(signal_number, SIG_DFL);
}

/* As a shell counts: 128 + signal for the killed. */
static int exit_code(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int wait_for(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			fail("waitpid");
	return status;
}

static pid_t clone_into(int cgroup, uint64_t flags)
{
	struct clone_args args = {.flags = flags | (cgroup >= 0 ? CLONE_INTO_CGROUP : 0),
				  .exit_signal = SIGCHLD,
				  .cgroup = cgroup >= 0 ? (uint64_t)cgroup : 0};
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (pid < 0)
		fail("clone3");
	return pid;
}

static void enter_directory(const char *path)
{
	char step[PATH_MAX];
	if (!chdir(path))
		return;
	snprintf(step, sizeof step, "%s/", path);
	for (char *slash = strchr(step + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(step, 0755);
		*slash = '/';
	}
	if (chdir(path))
		fail(path);
}

static _Noreturn void execute(char **command)
{
	char text[PATH_MAX + 128];
	execvp(command[0], command);
	int error = errno;
	snprintf(text, sizeof text, "exec: \"%s\": %s", command[0],
		 error == ENOENT && !strchr(command[0], '/') ? "executable file not found in $PATH" : strerror(error));
	if (fail_fd >= 0)
		fail_text(text);
	dprintf(STDERR_FILENO, "%s\n", text);
	_exit(error == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
}

/* --- sandbox ---------------------------------------------------------------------------------------------------- */

static void set_loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING};
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || ioctl(sock, SIOCSIFFLAGS, &request))
		fail("loopback");
	close(sock);
}

static void write_sysctl(const char *setting)
{
	char path[PATH_MAX];
	const char *value = strchr(setting, '=');
	if (!value)
		fail_text("-S wants KEY=VALUE");
	int n = snprintf(path, sizeof path, "/proc/sys/%.*s", (int)(value - setting), setting);
	for (char *dot = path + strlen("/proc/sys/"); dot < path + n; dot++)
		if (*dot == '.')
			*dot = '/';
	int fd = must_open(path, O_WRONLY);
	if (write(fd, value + 1, strlen(value + 1)) < 0)
		fail(path);
	close(fd);
}

static void pin(const char *kind, const char *path)
{
	char source[32];
	snprintf(source, sizeof source, "/proc/self/ns/%s", kind);
	close(must_open(path, O_WRONLY | O_CREAT | O_EXCL));
	if (mount(source, path, NULL, MS_BIND, NULL))
		fail(path);
}

static int make_sandbox(const struct options *options)
{
	int flags = (options->net ? CLONE_NEWNET : 0) | (options->ipc ? CLONE_NEWIPC : 0) |
		    (options->uts ? CLONE_NEWUTS : 0);
	if (unshare(flags))
		fail("unshare");
	if (options->uts && options->hostname && sethostname(options->hostname, strlen(options->hostname)))
		fail("sethostname");
	if (options->net)
		set_loopback_up();
	for (size_t i = 0; i < options->n_sysctls; i++)
		write_sysctl(options->sysctls[i]);
	if (options->net)
		pin("net", options->net);
	if (options->ipc)
		pin("ipc", options->ipc);
	if (options->uts)
		pin("uts", options->uts);
	return 0;
}

/* --- run -------------------------------------------------------------------------------------------------------- */

struct pipes {
	int in[2], out[2], err[2], go[2];
	int terminal[2]; /* a socket pair over which the container sends its terminal's master */
};

enum { TERMINAL_FD = 9 };

static void join(int fd, int kind)
{
	if (fd >= 0 && setns(fd, kind))
		fail("setns");
}

static pid_t init_child;

static void forward_signal(int signal_number)
{
	kill(init_child, signal_number);
}

/* PID 1 for a command that handles no signals or leaves orphans: forwards, reaps, ends as the command ends. */
static _Noreturn void run_as_init(char **command)
{
	static const int forwarded[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT};
	init_child = fork();
	if (init_child < 0)
		fail("fork");
	if (init_child == 0)
		execute(command);
	close_range(3, ~0U, 0); /* the failure pipe above all: its end tells that the command runs */
	for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++)
		signal(forwarded[i], forward_signal);
	for (;;) {
		int status;
		pid_t pid = wait(&status);
		if (pid == init_child || (pid < 0 && errno == ECHILD))
			_exit(exit_code(status));
	}
}

static int open_terminal(int sock);

static void take_streams(const struct options *options, const struct pipes *pipes)
{
	if (options->input.is_terminal) {
		int slave = open_terminal(pipes->terminal[1]);
		if (ioctl(slave, TIOCSCTTY, 0))
			fail("controlling terminal");
		for (int fd = 0; fd < 3; fd++)
			dup2(slave, fd);
		return;
	}
	dup2(options->input.path ? pipes->in[0] : must_open("/dev/null", O_RDONLY), 0);
	dup2(pipes->out[1], 1);
	dup2(pipes->err[1], 2);
}

/* Returns only with an entry: then the caller's own code is the container's command. */
static void become_container(struct options *options, struct pipes *pipes, const int namespaces[3])
{
	failure_pipe = pipes->go[1];
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* the container ends with its monitor */
	join(namespaces[0], CLONE_NEWNET);
	join(namespaces[1], CLONE_NEWIPC);
	join(namespaces[2], CLONE_NEWUTS);
	if (unshare(CLONE_NEWCGROUP))
		fail("cgroup namespace");
	open_binds(&options->root);
	enter_root(&options->root);
	enter_directory(options->directory);
	setsid();
	reset_signals();
	take_streams(options, pipes);
	close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
	apply_credential(&options->credential);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user clears it */
}

static int receive_descriptor(int sock)
{
	char byte;
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} control = {0};
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof control.bytes};
	int fd = -1;
	if (recvmsg(sock, &message, MSG_CMSG_CLOEXEC) > 0 && message.msg_controllen)
		memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
	return fd;
}

/* The container's terminal moves to its well-known number; without one the container has failed and said so. */
static void adopt_terminal(struct input *input, struct pipes *pipes)
{
	close(pipes->terminal[1]);
	int master = receive_descriptor(pipes->terminal[0]);
	close(pipes->terminal[0]);
	if (master < 0)
		return;
	dup3(master, TERMINAL_FD, O_CLOEXEC);
	if (master != TERMINAL_FD)
		close(master);
	input->sink = TERMINAL_FD;
}

static void watch_container(struct options *options, struct pipes *pipes, pid_t child)
{
	char byte;
	struct input *input = &options->input;
	close(pipes->go[1]);
	close(pipes->out[1]);
	close(pipes->err[1]);
	close(pipes->in[0]);
	if (input->is_terminal)
		adopt_terminal(input, pipes);
	else
		input->sink = pipes->in[1];
	if (input->sink >= 0)
		fcntl(input->sink, F_SETFL, O_NONBLOCK);
	if (read(pipes->go[0], &byte, 1) == 0) /* closed by exec; a byte means that there was none */
		dprintf(fail_fd, "started %d %lld\n", child, now_ns());
	close(3);
	if (input->is_terminal)
		relay_streams(options->log, input->sink, -1, input);
	else
		relay_streams(options->log, pipes->out[0], pipes->err[0], input);
	int status = wait_for(child);
	dprintf(fail_fd, "exited %d %d %lld\n", exit_code(status), WIFSIGNALED(status) ? WTERMSIG(status) : 0, now_ns());
}

static int open_or_none(const char *path)
{
	return path ? must_open(path, O_RDONLY) : -1;
}

static int run(struct options *options, void (*entry)(void))
{
	struct pipes pipes;
	fail_fd = must_open(options->status, O_WRONLY | O_CREAT | O_APPEND);
	int pod_cgroup = open_or_none(options->pod_cgroup), cgroup = open_or_none(options->cgroup);
	int namespaces[3] = {open_or_none(options->net), open_or_none(options->ipc), open_or_none(options->uts)};
	if (clone_into(pod_cgroup, 0) > 0)
		return 0;
	/* From here the monitor, in the pod's cgroup: it outlives whoever started it. */
	setsid();
	reset_signals();
	for (int signal_number = SIGHUP; signal_number <= SIGTERM; signal_number++)
		if (signal_number != SIGKILL && signal_number != SIGSEGV && signal_number != SIGBUS)
			signal(signal_number, SIG_IGN);
	dprintf(fail_fd, "monitor %d\n", getpid());
	fcntl(open("/dev/null", O_RDONLY | O_CLOEXEC), F_DUPFD_CLOEXEC, TERMINAL_FD); /* keeps the number free of pipes */
	if (pipe2(pipes.in, O_CLOEXEC) || pipe2(pipes.out, O_CLOEXEC) || pipe2(pipes.err, O_CLOEXEC) ||
	    pipe2(pipes.go, O_CLOEXEC) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pipes.terminal))
		fail("pipe");
	pid_t child = clone_into(cgroup, CLONE_NEWPID | CLONE_NEWNS);
	if (child > 0) {
		watch_container(options, &pipes, child);
		_exit(0);
	}
	become_container(options, &pipes, namespaces);
	if (entry) {
		close_range(3, ~0U, 0);
		entry();
		_exit(0);
	}
	if (options->use_init)
		run_as_init(options->command);
	execute(options->command);
}

/* --- exec ------------------------------------------------------------------------------------------------------- */

static void send_descriptor(int sock, int fd)
{
	char byte = 't';
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} control = {0};
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof control.bytes};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	if (sendmsg(sock, &message, 0) < 0)
		fail("send terminal");
}

/* In the container's own devpts, so that `tty` and job control are right inside. */
static int open_terminal(int sock)
{
	int unlocked = 0, master = must_open("/dev/ptmx", O_RDWR | O_NOCTTY);
	if (ioctl(master, TIOCSPTLCK, &unlocked))
		fail("unlock terminal");
	int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	if (slave < 0)
		fail("open terminal");
	send_descriptor(sock, master);
	close(master);
	close(sock);
	return slave;
}

static int open_root_of(int pidfd)
{
	char path[64], line[128];
	int pid = 0;
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
	FILE *info = fopen(path, "re");
	while (info && fgets(line, sizeof line, info))
		if (sscanf(line, "Pid: %d", &pid) == 1)
			break;
	if (info)
		fclose(info);
	snprintf(path, sizeof path, "/proc/%d/root", pid);
	return must_open(path, O_PATH);
}

/* setns leads to the root of the mount namespace, which is not the container's where the machine itself is a chroot. */
static void enter_container(int pidfd)
{
	int root = open_root_of(pidfd);
	join(pidfd, CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP);
	if (fchdir(root) || chroot("."))
		fail("enter root");
	close(root);
	close(pidfd);
}

static int run_inside(struct options *options)
{
	int slave = -1, cgroup = open_or_none(options->cgroup);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (options->pidfd >= 0)
		enter_container(options->pidfd);
	if (options->terminal >= 0)
		slave = open_terminal(options->terminal);
	pid_t child = clone_into(cgroup, 0); /* enters the PID namespace */
	if (child > 0) {
		if (slave >= 0)
			close_range(0, ~0U, 0);
		return exit_code(wait_for(child));
	}
	setsid();
	if (slave >= 0) {
		if (ioctl(slave, TIOCSCTTY, 0))
			fail("controlling terminal");
		for (int fd = 0; fd < 3; fd++)
			dup2(slave, fd);
	}
	reset_signals();
	close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
	if (options->directory)
		enter_directory(options->directory);
	if (options->pidfd >= 0)
		apply_credential(&options->credential);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execute(options->command);
}

/* --- options ---------------------------------------------------------------------------------------------------- */

static void add_bind(struct root *root, char *text)
{
	char *target = strchr(text, ':'), *source = target ? strchr(target + 1, ':') : NULL;
	if (!source || root->n_binds == MAX_BINDS)
		fail_text("-b wants ro|rw:TARGET:SOURCE, at most 64 times");
	*target++ = 0;
	*source++ = 0;
	root->binds[root->n_binds++] =
		(struct bind){.source = source, .target = target, .read_only = strcmp(text, "ro") == 0};
}

static void append(const char **list, size_t *n, size_t limit, const char *value)
{
	if (*n == limit)
		fail_text("an option is repeated too often");
	list[(*n)++] = value;
}

static void parse(struct options *options, int argc, char **argv)
{
	for (int c; (c = getopt(argc, argv, "+H:N:I:U:S:d:s:l:C:c:r:Rb:m:k:u:nw:ip:t:xy:z")) >= 0;) {
		switch (c) {
		case 'H': options->hostname = optarg; break;
		case 'N': options->net = optarg; break;
		case 'I': options->ipc = optarg; break;
		case 'U': options->uts = optarg; break;
		case 'S': append(options->sysctls, &options->n_sysctls, MAX_SYSCTLS, optarg); break;
		case 'd': options->root.scratch = optarg; break;
		case 's': options->status = optarg; break;
		case 'l': options->log = optarg; break;
		case 'C': options->pod_cgroup = optarg; break;
		case 'c': options->cgroup = optarg; break;
		case 'r': options->root.lower = optarg; break;
		case 'R': options->root.read_only = true; break;
		case 'b': add_bind(&options->root, optarg); break;
		case 'm': append(options->root.masks, &options->root.n_masks, MAX_MASKS, optarg); break;
		case 'k': options->credential.capabilities = strtoull(optarg, NULL, 16); break;
		case 'u': parse_user(&options->credential, optarg); break;
		case 'n': options->credential.no_new_privileges = true; break;
		case 'w': options->directory = optarg; break;
		case 'i': options->use_init = true; break;
		case 'x': options->input.is_terminal = true; break;
		case 'y': options->input.path = optarg; break;
		case 'z': options->input.once = true; break;
		case 'p': options->pidfd = atoi(optarg); break;
		case 't': options->terminal = atoi(optarg); break;
		default: fail_text("unknown option");
		}
	}
	options->root.is_host = strcmp(options->root.lower, "/") == 0;
	options->command = argv + optind;
}

/* `entry` replaces the command of `run`: a process that has what it needs in memory becomes the container by itself. */
int podrun(int argc, char **argv, void (*entry)(void))
{
	static struct options options = {
		.root = {.lower = "/"}, .input = {.fifo = -1, .sink = -1}, .pidfd = -1, .terminal = -1};
	if (argc < 2)
		fail_text("sandbox, run or exec?");
	parse(&options, argc - 1, argv + 1);
	if (strcmp(argv[1], "sandbox") == 0)
		return make_sandbox(&options);
	if (!entry && !options.command[0])
		fail_text("no command");
	if (strcmp(argv[1], "exec") == 0)
		return run_inside(&options);
	if (strcmp(argv[1], "run") || !options.root.scratch || !options.status || !options.log)
		fail_text("run wants -d, -s and -l");
	if (!options.directory)
		options.directory = "/";
	return run(&options, entry);
}

#ifndef PODRUN_LIBRARY
int main(int argc, char **argv)
{
	return podrun(argc, argv, NULL);
}
#endif
