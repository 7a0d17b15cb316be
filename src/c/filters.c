/* Seccomp filters: read those of another process, install them in this one. */
#include <errno.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "enter.h"

#ifndef PTRACE_SECCOMP_GET_FILTER
#define PTRACE_SECCOMP_GET_FILTER 0x420c
#endif

static void put_count(struct filters *filters, uint32_t count)
{
	memcpy(filters->bytes + filters->used, &count, sizeof(count));
	filters->used += sizeof(count);
}

static uint32_t get_count(const struct filters *filters, size_t at)
{
	uint32_t count;

	memcpy(&count, filters->bytes + at, sizeof(count));
	return count;
}

/* Filter 0 is the oldest. Returns its number of instructions, -1 after the newest. */
static long get_filter(pid_t pid, unsigned long index, struct sock_filter *filter)
{
	return syscall(SYS_ptrace, PTRACE_SECCOMP_GET_FILTER, pid, index, filter);
}

/* Returns what failed, with errno set, or NULL. The process is in a ptrace stop. */
static const char *read_stopped(pid_t pid, struct filters *filters)
{
	uint32_t count = 0;

	while (get_filter(pid, count, NULL) >= 0)
		count++;
	/* ENOENT: no further one. EINVAL: the process has no filter at all. */
	if (errno != ENOENT && !(errno == EINVAL && count == 0))
		return "PTRACE_SECCOMP_GET_FILTER";

	put_count(filters, count);
	for (uint32_t index = 0; index < count; index++) {
		long length = get_filter(pid, index, NULL);
		size_t size = (size_t)length * sizeof(struct sock_filter);

		if (length < 0)
			return "PTRACE_SECCOMP_GET_FILTER";
		errno = E2BIG;
		if (filters->used + sizeof(uint32_t) + size > sizeof(filters->bytes))
			return "seccomp filters";
		put_count(filters, (uint32_t)length);
		if (get_filter(pid, index,
			       (struct sock_filter *)(filters->bytes + filters->used)) < 0)
			return "PTRACE_SECCOMP_GET_FILTER";
		filters->used += size;
	}
	return NULL;
}

/*
 * PTRACE_SEIZE and INTERRUPT send no signal and keep a group stop in force. The process may stop
 * for a signal that arrives at this moment instead: it is delivered with the detach.
 */
void filters_read(pid_t pid, struct filters *filters)
{
	const char *problem;
	int status, error;
	long signal_number = 0;

	filters->used = 0;
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

	problem = read_stopped(pid, filters);
	error = errno;
	/* The end of this process detaches as well, but without the signal. */
	ptrace(PTRACE_DETACH, pid, NULL, (void *)signal_number);
	errno = error;
	if (problem)
		fail_errno(problem);
}

uint32_t filters_count(const struct filters *filters)
{
	return get_count(filters, 0);
}

/* Oldest first, as they came to be. Needs CAP_SYS_ADMIN or no_new_privs. */
void filters_install(const struct filters *filters)
{
	size_t at = sizeof(uint32_t);

	for (uint32_t left = filters_count(filters); left; left--) {
		uint32_t length = get_count(filters, at);
		struct sock_fprog program = {
			.len = (unsigned short)length,
			.filter = (struct sock_filter *)(filters->bytes + at + sizeof(length)),
		};

		if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0)
			fail_errno("PR_SET_SECCOMP");
		at += sizeof(length) + length * sizeof(struct sock_filter);
	}
}
