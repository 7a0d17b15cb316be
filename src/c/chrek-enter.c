/*
 * chrek-enter: runs a program in another container's namespaces and cgroups, for the agent.
 *
 *	chrek-enter [--pidfd FD] [--cgroup FD]... [--last-pid N] [--exec-fd FD] [-- ARGV0 ARGV...]
 *	chrek-enter --seccomp PID
 *
 * Enter: moves itself into each cgroup (FD is its cgroup.procs, open for writing), joins the mount,
 * UTS, IPC, network, PID and cgroup namespaces of the process behind the pidfd, and forks, because
 * only a child is in the joined PID namespace. The child writes N to that namespace's ns_last_pid
 * (the next process there gets N + 1) and executes the program behind --exec-fd, or, without one,
 * exits with 0. The parent ends with the child's exit code, 128+n for signal n.
 *
 * The program is executed from a file descriptor and never looked up: no file of the container is
 * run. The helper's own descriptors are closed in it, every other inherited one is kept, and the
 * environment is passed as it is. Nobody outlives anybody: the kernel kills the child when the
 * parent dies, and the parent when the thread (not only the process) that created it ends.
 *
 * Seccomp: writes the seccomp filters of a process to stdout, oldest first, as CRIU and a
 * comparison of privileges need them: u32 number of filters, then for each u32 number of
 * instructions and those instructions (struct sock_filter, 8 bytes), all in the machine's byte
 * order, little-endian. The process is stopped for some microseconds and goes on as it was.
 *
 * Errors: "chrek-enter: <what>: <why>" on stderr, exit 111.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PTRACE_SECCOMP_GET_FILTER
#define PTRACE_SECCOMP_GET_FILTER 0x420c
#endif

enum {
	EXIT_ERROR = 111,
	MOST_CGROUPS = 32, /* version 1 has about a dozen hierarchies */
	NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID |
		     CLONE_NEWCGROUP,
};

struct options {
	int pidfd;	/* -1: stay in these namespaces */
	int cgroups[MOST_CGROUPS];
	size_t cgroup_count;
	int last_pid;	/* -1: leave it */
	int exec_fd;	/* -1: only do the rest */
	int seccomp;	/* -1: enter */
	char **argv;
};

extern char **environ;

_Noreturn static void fail(const char *what, const char *why)
{
	dprintf(STDERR_FILENO, "chrek-enter: %s: %s\n", what, why);
	_exit(EXIT_ERROR);
}

_Noreturn static void fail_errno(const char *what)
{
	fail(what, strerror(errno));
}

static int parse_number(const char *option, const char *text)
{
	char *end;
	long number;

	if (!text)
		fail(option, "needs a number");
	errno = 0;
	number = strtol(text, &end, 10);
	if (errno || end == text || *end || number < 0 || number > INT32_MAX)
		fail(option, "not a number");
	return (int)number;
}

static void parse(struct options *options, char **argument)
{
	*options = (struct options){.pidfd = -1, .last_pid = -1, .exec_fd = -1, .seccomp = -1};

	for (; *argument; argument += 2) {
		const char *name = *argument;

		if (strcmp(name, "--") == 0) {
			options->argv = argument + 1;
			return;
		}
		if (strcmp(name, "--pidfd") == 0)
			options->pidfd = parse_number(name, argument[1]);
		else if (strcmp(name, "--last-pid") == 0)
			options->last_pid = parse_number(name, argument[1]);
		else if (strcmp(name, "--exec-fd") == 0)
			options->exec_fd = parse_number(name, argument[1]);
		else if (strcmp(name, "--seccomp") == 0)
			options->seccomp = parse_number(name, argument[1]);
		else if (strcmp(name, "--cgroup") != 0)
			fail(name, "no such option");
		else if (options->cgroup_count == MOST_CGROUPS)
			fail(name, "given too often");
		else
			options->cgroups[options->cgroup_count++] =
				parse_number(name, argument[1]);
	}
}

static void write_number(const char *what, int fd, int number)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%d", number);

	if (write(fd, text, (size_t)length) != length)
		fail_errno(what);
}

/* The creator's end is noticed also when it came before this call. */
static void die_with_creator(void)
{
	pid_t creator = getppid();

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		fail_errno("PR_SET_PDEATHSIG");
	if (getppid() != creator)
		_exit(EXIT_ERROR);
}

/* The parent may lie outside of this PID namespace: then getppid is 0 as long as it lives. */
static void die_with_parent(pid_t parent)
{
	pid_t now;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		fail_errno("PR_SET_PDEATHSIG");
	now = getppid();
	if (now != 0 && now != parent)
		_exit(EXIT_ERROR);
}

static void close_on_exec(int fd, const char *what)
{
	if (fd >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		fail_errno(what);
}

_Noreturn static void child(const struct options *options, int last_pid_file, pid_t parent)
{
	die_with_parent(parent);
	/* The kernel takes the number for the PID namespace of the process that writes it. */
	if (options->last_pid >= 0)
		write_number("write ns_last_pid", last_pid_file, options->last_pid);
	if (options->exec_fd < 0)
		_exit(0);
	syscall(SYS_execveat, options->exec_fd, "", options->argv, environ, AT_EMPTY_PATH);
	fail_errno(options->argv[0]);
}

/* Waits for the child, holding nothing open whose end somebody may wait for. */
static int await_child(pid_t pid)
{
	int status;

	syscall(SYS_close_range, 3U, ~0U, 0U);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			fail_errno("waitpid");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int enter(const struct options *options)
{
	int last_pid_file = -1;
	pid_t parent = getpid();
	pid_t pid;

	if (options->exec_fd >= 0 && !(options->argv && options->argv[0]))
		fail("--exec-fd", "needs -- ARGV0 ...");
	if (options->exec_fd < 0 && options->argv)
		fail("--", "needs --exec-fd");
	die_with_creator();
	/* With SIGCHLD ignored the kernel would throw the child's exit code away. */
	signal(SIGCHLD, SIG_DFL);

	close_on_exec(options->pidfd, "--pidfd");
	close_on_exec(options->exec_fd, "--exec-fd");
	for (size_t i = 0; i < options->cgroup_count; i++)
		close_on_exec(options->cgroups[i], "--cgroup");

	/* From this /proc: the container may show another one, or none. */
	if (options->last_pid >= 0) {
		last_pid_file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
		if (last_pid_file < 0)
			fail_errno("/proc/sys/kernel/ns_last_pid");
	}
	/* Before anything is allocated: memory is charged to the pod. */
	for (size_t i = 0; i < options->cgroup_count; i++)
		write_number("join cgroup", options->cgroups[i], 0);
	if (options->pidfd >= 0 && setns(options->pidfd, NAMESPACES) < 0)
		fail_errno("setns");

	pid = fork();
	if (pid < 0)
		fail_errno("fork");
	if (pid == 0)
		child(options, last_pid_file, parent);
	return await_child(pid);
}

/* The kernel's own limit for all filters of a process (MAX_INSNS_PER_PATH) bounds the output. */
enum { MOST_INSTRUCTIONS = 32768 };

static struct {
	uint8_t bytes[sizeof(uint32_t) + MOST_INSTRUCTIONS * sizeof(struct sock_filter)];
	size_t used;
} output;

static void put_count(uint32_t count)
{
	memcpy(output.bytes + output.used, &count, sizeof(count));
	output.used += sizeof(count);
}

/* Filter 0 is the oldest. Returns its number of instructions, -1 after the newest. */
static long get_filter(pid_t pid, unsigned long index, struct sock_filter *filter)
{
	return syscall(SYS_ptrace, PTRACE_SECCOMP_GET_FILTER, pid, index, filter);
}

/* Returns what failed, with errno set, or NULL. The process is in a ptrace stop. */
static const char *read_filters(pid_t pid)
{
	uint32_t count = 0;

	while (get_filter(pid, count, NULL) >= 0)
		count++;
	/* ENOENT: no further one. EINVAL: the process has no filter at all. */
	if (errno != ENOENT && !(errno == EINVAL && count == 0))
		return "PTRACE_SECCOMP_GET_FILTER";

	put_count(count);
	for (uint32_t index = 0; index < count; index++) {
		long length = get_filter(pid, index, NULL);
		size_t size = (size_t)length * sizeof(struct sock_filter);

		if (length < 0)
			return "PTRACE_SECCOMP_GET_FILTER";
		errno = E2BIG;
		if (output.used + sizeof(uint32_t) + size > sizeof(output.bytes))
			return "seccomp filters";
		put_count((uint32_t)length);
		if (get_filter(pid, index, (struct sock_filter *)(output.bytes + output.used)) < 0)
			return "PTRACE_SECCOMP_GET_FILTER";
		output.used += size;
	}
	return NULL;
}

static int write_output(void)
{
	for (size_t done = 0; done < output.used;) {
		ssize_t count = write(STDOUT_FILENO, output.bytes + done, output.used - done);

		if (count < 0 && errno != EINTR)
			fail_errno("write");
		if (count > 0)
			done += (size_t)count;
	}
	return 0;
}

/*
 * PTRACE_SEIZE and INTERRUPT send no signal and keep a group stop in force. The process may stop
 * for a signal that arrives at this moment instead: it is delivered with the detach. Output is
 * collected first, so that a slow reader of stdout does not hold the process.
 */
static int seccomp(pid_t pid)
{
	const char *problem;
	int status, error;
	long signal_number = 0;

	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0)
		fail_errno("PTRACE_SEIZE");
	if (ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0)
		fail_errno("PTRACE_INTERRUPT");
	if (waitpid(pid, &status, __WALL) < 0)
		fail_errno("waitpid");
	if (!WIFSTOPPED(status))
		fail("PTRACE_SEIZE", "the process has ended");
	if (status >> 16 != PTRACE_EVENT_STOP)
		signal_number = WSTOPSIG(status);

	problem = read_filters(pid);
	error = errno;
	/* The end of this process detaches as well, but without the signal. */
	ptrace(PTRACE_DETACH, pid, NULL, (void *)signal_number);
	errno = error;
	if (problem)
		fail_errno(problem);
	return write_output();
}

int main(int argc, char **argv)
{
	struct options options;

	if (argc < 2)
		fail("usage", "chrek-enter [--pidfd FD] [--cgroup FD]... [--last-pid N] "
			      "[--exec-fd FD] [-- ARGV0 ARGV...] | --seccomp PID");
	parse(&options, argv + 1);
	return options.seccomp >= 0 ? seccomp(options.seccomp) : enter(&options);
}
