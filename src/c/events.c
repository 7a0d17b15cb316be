/* The one place where PID 1 sleeps: signals, one more file descriptor, and the clock. */
#include <poll.h>
#include <signal.h>
#include <time.h>

#include "init.h"

int64_t now_milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int timeout_until(int64_t until)
{
	int64_t left;

	if (until == FOREVER)
		return -1;
	left = until - now_milliseconds();
	if (left <= 0)
		return 0;
	return left > 60000 ? 60000 : (int)left;
}

/* Takes every signal that is there and every child that has ended. */
void events_handle_signals(struct events *events)
{
	struct signalfd_siginfo info;
	pid_t pid;
	int status;

	while (signals_read(events->signals, &info))
		if (signal_is_forwardable(&info))
			events->on_signal(events->owner, &info);
	/* One SIGCHLD may stand for many children. */
	while (reap_one(&pid, &status))
		events->on_exit(events->owner, pid, status);
}

/*
 * Sleeps until fd (-1: none) is readable, a signal came, or the clock reaches until; it may wake
 * earlier. Signals are handled before it returns. Returns whether fd is readable or closed.
 */
bool events_wait(struct events *events, int fd, int64_t until)
{
	struct pollfd fds[2] = {
		{.fd = events->signals, .events = POLLIN},
		{.fd = fd, .events = POLLIN},
	};
	int count = poll(fds, 2, timeout_until(until));

	events_handle_signals(events);
	return count > 0 && fds[1].revents != 0;
}
