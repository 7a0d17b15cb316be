/*
 * --tree: the root of the process tree that CRIU dumps, and later restores under another PID 1.
 *
 * It holds no file descriptor but stdio, has no timer and never asks who its parent is, so a
 * restored one works on as if nothing had happened.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init.h"

enum {
	/* io_uring_setup, io_uring_enter, io_uring_register: the same on these architectures. */
	IO_URING_FIRST = 425,
	IO_URING_LAST = 427,
	X32_BIT = 0x40000000,
};

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, (action))
#define JUMP(test, value, yes, no) BPF_JUMP(BPF_JMP | (test) | BPF_K, (value), (yes), (no))

/* CRIU cannot dump an io_uring. Programs that try one (libuv does) have another way. */
static int deny_io_uring(void)
{
	struct sock_filter filter[] = {
		/* The 32-bit programs of both architectures count. */
		LOAD(arch),
		JUMP(BPF_JEQ, AUDIT_ARCH_X86_64, 4, 0),
		JUMP(BPF_JEQ, AUDIT_ARCH_I386, 3, 0),
		JUMP(BPF_JEQ, AUDIT_ARCH_AARCH64, 2, 0),
		JUMP(BPF_JEQ, AUDIT_ARCH_ARM, 1, 0),
		RETURN(SECCOMP_RET_ALLOW),
		LOAD(nr),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~(unsigned int)X32_BIT),
		JUMP(BPF_JGE, IO_URING_FIRST, 0, 2),
		JUMP(BPF_JGT, IO_URING_LAST, 1, 0),
		RETURN(SECCOMP_RET_ERRNO | EPERM),
		RETURN(SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {
		.len = sizeof(filter) / sizeof(filter[0]),
		.filter = filter,
	};

	/* Lets a process without CAP_SYS_ADMIN install a filter. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

static pid_t start_worker(char **command)
{
	pid_t pid = fork();

	if (pid == 0) {
		/* As in a cold container, where PID 1 leads its session and process group. */
		setsid();
		run_command(command);
	}
	return pid;
}

_Noreturn static void fail(const char *what)
{
	say(what, ": ", strerror(errno), NULL);
	_exit(EXIT_RETRY);
}

_Noreturn void tree_main(const struct options *options)
{
	struct signalfd_siginfo info;
	pid_t worker, pid;
	int status;

	signals_take();
	if (options->worker_mask_given)
		signals_set_inherited_mask(options->worker_mask);
	/* Fails, harmlessly, for a process that leads a group already. */
	setsid();
	/* Children of the worker that turn daemon stay in the tree. */
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		fail("Cannot become a subreaper");
	if (deny_io_uring() < 0)
		fail("Cannot install the seccomp filter against io_uring");
	worker = start_worker(options->command);
	if (worker < 0)
		fail("Cannot start the worker");

	for (;;) {
		signals_await(&info);
		if (signal_is_forwardable(&info))
			signal_forward(worker, &info);
		while (reap_one(&pid, &status))
			if (pid == worker)
				_exit(exit_code(status));
	}
}
