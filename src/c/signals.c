/*
 * Signals: chrek-init blocks every one and reads them where it sleeps, so that none is lost and
 * none needs a handler. The worker gets back exactly the mask and dispositions that were inherited.
 *
 * The system calls are made directly with 64-bit sets: musl's functions hide signals 32 to 34,
 * which it keeps for itself, but 34 is SIGRTMIN of a worker that is linked against glibc.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init.h"

static const uint64_t ALL_SIGNALS = UINT64_MAX;

static uint64_t inherited_mask;
static bool inherited_child_ignored;

static void set_mask(const uint64_t *mask, uint64_t *old)
{
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, mask, old, sizeof(*mask));
}

/*
 * Blocks everything. PID 1 would otherwise not even see signals without a handler; blocked ones
 * are kept for signalfd.
 */
void signals_take(void)
{
	struct sigaction action;

	set_mask(&ALL_SIGNALS, &inherited_mask);
	/* With SIGCHLD ignored the kernel throws exit codes away. */
	sigaction(SIGCHLD, NULL, &action);
	inherited_child_ignored = action.sa_handler == SIG_IGN;
	if (inherited_child_ignored)
		signal(SIGCHLD, SIG_DFL);
}

void signals_give_back_dispositions(void)
{
	if (inherited_child_ignored)
		signal(SIGCHLD, SIG_IGN);
}

/* The last thing before exec. */
void signals_give_back(void)
{
	signals_give_back_dispositions();
	set_mask(&inherited_mask, NULL);
}

uint64_t signals_inherited_mask(void)
{
	return inherited_mask;
}

void signals_set_inherited_mask(uint64_t mask)
{
	inherited_mask = mask;
}

int signals_open(void)
{
	const int flags = SFD_CLOEXEC | SFD_NONBLOCK;

	return (int)syscall(SYS_signalfd4, -1, &ALL_SIGNALS, sizeof(ALL_SIGNALS), flags);
}

bool signals_read(int fd, struct signalfd_siginfo *info)
{
	return read(fd, info, sizeof(*info)) == sizeof(*info);
}

/* Sleeps until a signal comes; for the tree, which has no file descriptor of its own. */
void signals_await(struct signalfd_siginfo *info)
{
	siginfo_t got;

	/* EINTR is seen after a debugger's or CRIU's visit. */
	while (syscall(SYS_rt_sigtimedwait, &ALL_SIGNALS, &got, NULL, sizeof(ALL_SIGNALS)) < 0)
		;
	memset(info, 0, sizeof(*info));
	info->ssi_signo = (uint32_t)got.si_signo;
	info->ssi_code = got.si_code;
	info->ssi_pid = (uint32_t)got.si_pid;
	info->ssi_ptr = (uint64_t)(uintptr_t)got.si_value.sival_ptr;
}

/*
 * Which signals end chrek-init while there is no worker yet: the ones that ask a container to
 * stop. All others are dropped, as the kernel drops them for a PID 1 that has not yet installed
 * its handlers.
 */
bool signal_ends_waiting(uint32_t number)
{
	return number == SIGTERM || number == SIGINT || number == SIGQUIT;
}

/*
 * SIGKILL and SIGSTOP never arrive here, SIGCHLD speaks of chrek-init's own children. Everything
 * else is the worker's, also SIGTSTP, SIGTTIN and SIGTTOU: gunicorn counts its workers with the
 * latter two, and no terminal sends them (pods with a tty are not managed).
 * A signal from chrek-init itself is the SIGPIPE of its own write to a closed stderr.
 */
bool signal_is_forwardable(const struct signalfd_siginfo *info)
{
	bool own = info->ssi_code == SI_USER && info->ssi_pid == (uint32_t)getpid();

	return info->ssi_signo != SIGCHLD && !own;
}

/* Passes a signal on, with its value when it was sent with one. */
void signal_forward(pid_t pid, const struct signalfd_siginfo *info)
{
	if (info->ssi_code == SI_QUEUE) {
		union sigval value = {.sival_ptr = (void *)(uintptr_t)info->ssi_ptr};

		if (sigqueue(pid, (int)info->ssi_signo, value) == 0)
			return;
	}
	kill(pid, (int)info->ssi_signo);
}
