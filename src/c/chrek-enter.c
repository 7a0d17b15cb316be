/*
 * chrek-enter: runs a program in another container's namespaces and cgroups, for the agent.
 *
 *	chrek-enter [--pidfd FD] [--own-ipc 1] [--cgroup FD]... [--last-pid N] [--exec-fd FD]
 *		    [-- ARGV0 ARGV...]
 *	chrek-enter --confined FD [--cgroup FD]... [--label TEXT] -- COMMAND [ARGUMENT...]
 *	chrek-enter --seccomp PID
 *
 * Enter: moves itself into each cgroup (FD is its cgroup.procs, open for writing), joins the mount,
 * UTS, IPC, network, PID and cgroup namespaces of the process behind the pidfd, and forks, because
 * only a child is in the joined PID namespace. The child writes N to that namespace's ns_last_pid
 * (the next process there gets N + 1) and executes the program behind --exec-fd, or, without one,
 * exits with 0. The parent ends with the child's exit code, 128+n for signal n. With --own-ipc it
 * stays out of the IPC namespace: CRIU dumps one only when it is not its own.
 *
 * The program is executed from a file descriptor and never looked up: no file of the container is
 * run. The helper's own descriptors are closed in it, every other inherited one is kept, and the
 * environment is passed as it is. Nobody outlives anybody: the kernel kills the child when the
 * parent dies, and the parent when the thread (not only the process) that created it ends.
 *
 * Confined: the same with a program of the container, looked up in its PATH, that runs as if the
 * process behind the pidfd, its PID 1, had started it: the same root, working directory, users,
 * groups, capabilities, no_new_privs, seccomp filters, resource limits, umask, OOM score and ignored
 * signals; TEXT is written to its attr/exec (AppArmor, SELinux). It gets no file descriptor but
 * stdio, its input is at its end, it leads a session with a keyring of its own, and no signal is
 * blocked. The environment is passed as it is: give PID 1's. What cannot be copied is an error, and then nothing
 * of the container is run.
 *
 * Seccomp: writes the seccomp filters of a process to stdout, as CRIU and a comparison of
 * privileges need them (struct filters in enter.h says how). The process is stopped for some
 * microseconds and goes on as it was.
 *
 * Errors: "chrek-enter: <what>: <why>" on stderr, exit 111.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "enter.h"

enum {
	EXIT_ERROR = 111,
	MOST_CGROUPS = 32, /* version 1 has about a dozen hierarchies */
	NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID |
		     CLONE_NEWCGROUP,
};

struct options {
	int pidfd;	/* -1: stay in these namespaces */
	bool confined;
	const char *label; /* NULL: none */
	int cgroups[MOST_CGROUPS];
	size_t cgroup_count;
	int last_pid;	/* -1: leave it */
	int exec_fd;	/* -1: only do the rest */
	int seccomp;	/* -1: enter */
	bool own_ipc;	/* do not join the IPC namespace */
	char **argv;
};

extern char **environ;

_Noreturn void fail(const char *what, const char *why)
{
	dprintf(STDERR_FILENO, "chrek-enter: %s: %s\n", what, why);
	_exit(EXIT_ERROR);
}

_Noreturn void fail_errno(const char *what)
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
		else if (strcmp(name, "--confined") == 0)
			options->confined = (options->pidfd = parse_number(name, argument[1])) >= 0;
		else if (strcmp(name, "--label") == 0 && argument[1])
			options->label = argument[1];
		else if (strcmp(name, "--last-pid") == 0)
			options->last_pid = parse_number(name, argument[1]);
		else if (strcmp(name, "--exec-fd") == 0)
			options->exec_fd = parse_number(name, argument[1]);
		else if (strcmp(name, "--own-ipc") == 0)
			options->own_ipc = parse_number(name, argument[1]) != 0;
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
void die_with_parent(pid_t parent)
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
	if (options->confined)
		confined_run(parent, options->label, options->argv);
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
	if (options->confined && !(options->argv && options->argv[0]))
		fail("--confined", "needs -- COMMAND ...");
	if (options->confined && (options->exec_fd >= 0 || options->last_pid >= 0))
		fail("--confined", "goes with --cgroup and --label only");
	if (options->exec_fd < 0 && options->argv && !options->confined)
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
	if (options->confined) {
		confinement_read(options->pidfd);
		/* No process of the container may open /proc/PID/exe or memory of the child. */
		if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
			fail_errno("PR_SET_DUMPABLE");
	}
	/* Before anything is allocated: memory is charged to the pod. */
	for (size_t i = 0; i < options->cgroup_count; i++)
		write_number("join cgroup", options->cgroups[i], 0);
	if (options->pidfd >= 0 &&
	    setns(options->pidfd, NAMESPACES & ~(options->own_ipc ? CLONE_NEWIPC : 0)) < 0)
		fail_errno("setns");

	pid = fork();
	if (pid < 0)
		fail_errno("fork");
	if (pid == 0)
		child(options, last_pid_file, parent);
	return await_child(pid);
}

static struct filters filters;

static int write_output(void)
{
	for (size_t done = 0; done < filters.used;) {
		ssize_t count = write(STDOUT_FILENO, filters.bytes + done, filters.used - done);

		if (count < 0 && errno != EINTR)
			fail_errno("write");
		if (count > 0)
			done += (size_t)count;
	}
	return 0;
}

/* Collected first, so that a slow reader of stdout does not hold the process. */
static int seccomp(pid_t pid)
{
	filters_read(pid, &filters);
	return write_output();
}

int main(int argc, char **argv)
{
	struct options options;

	if (argc < 2)
		fail("usage", "chrek-enter [--pidfd FD] [--own-ipc 1] [--cgroup FD]... [--last-pid N] "
			      "[--exec-fd FD] [-- ARGV0 ARGV...] | "
			      "--confined FD [--cgroup FD]... [--label TEXT] -- COMMAND ... | "
			      "--seccomp PID");
	parse(&options, argv + 1);
	return options.seccomp >= 0 ? seccomp(options.seccomp) : enter(&options);
}
