/*
 * Worker mode: asks the agent whether this container starts warm, then becomes the worker (cold)
 * or the parent of a restored one (warm).
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init.h"

enum {
	LEAST_ANSWER_SECONDS = 5,
	MOST_SECONDS = 86400,
	MOST_PID = 1 << 22,
	ADOPTION_CHECK = 20,		/* milliseconds */
	EMPTYING_LIMIT = 5000,		/* milliseconds */
	EMPTYING_PAUSE = 5,		/* milliseconds */
};

enum step {
	STEP_ASK_ON,
	STEP_COLD,
	STEP_SERVE,
	STEP_GONE,
	STEP_RESTORING,
	STEP_RESTORED,
	STEP_FAILED,
};

struct worker {
	const struct options *options;
	struct events events;
	struct agent agent;
	char line[LINE_LIMIT + 1];
	struct verdict verdict;		/* why this start is cold; points into line */
	bool restoring;

	/* What the agent said about the restore. */
	int64_t silence;		/* milliseconds */
	bool in_place;			/* a failure ends in a cold start, not in exit 75 */
	pid_t root;			/* of the restored tree; 0: not known yet */

	/* The root may end before the agent says that it was restored. */
	bool root_ended;
	int root_status;
};

static void on_signal(void *owner, const struct signalfd_siginfo *info)
{
	(void)owner;
	if (signal_ends_waiting(info->ssi_signo))
		_exit(128 + (int)info->ssi_signo);
}

static void on_signal_forward(void *owner, const struct signalfd_siginfo *info)
{
	const struct worker *worker = owner;

	signal_forward(worker->root, info);
}

static void on_exit_remember(void *owner, pid_t pid, int status)
{
	struct worker *worker = owner;

	if (pid == worker->root) {
		worker->root_ended = true;
		worker->root_status = status;
	}
}

static enum step cold(struct worker *worker, const char *reason, const char *message)
{
	worker->verdict = (struct verdict){reason, message, ""};
	return worker->restoring ? STEP_FAILED : STEP_COLD;
}

static enum step not_understood(struct worker *worker)
{
	return cold(worker, "AgentProtocol", "the agent said what chrek-init does not understand");
}

/* "<deadline_seconds> <pid> <exit|exec>" */
static enum step take_restoring(struct worker *worker, char *rest)
{
	const char *deadline = next_word(&rest);
	const char *root = next_word(&rest);
	long seconds, pid;

	if (!parse_number(deadline, 1, MOST_SECONDS, &seconds) ||
	    !parse_number(root, 2, MOST_PID, &pid))
		return not_understood(worker);
	if (strcmp(rest, "exit") != 0 && strcmp(rest, "exec") != 0)
		return not_understood(worker);
	/* The restored tree would become somebody else's child, and kill(-1) a catastrophe. */
	if (getpid() != 1)
		return cold(worker, "AgentProtocol",
			    "a restore was offered but chrek-init is not PID 1");
	worker->silence = seconds * 1000;
	worker->root = (pid_t)pid;
	worker->in_place = strcmp(rest, "exec") == 0;
	worker->restoring = true;
	return STEP_RESTORING;
}

static enum step take_line(struct worker *worker)
{
	char *rest = worker->line;
	const char *verb = next_word(&rest);

	if (strcmp(verb, "nonce") == 0 && is_nonce(rest)) {
		agent_send(&worker->agent, "nonce", rest);
		return STEP_ASK_ON;
	}
	if (strcmp(verb, "cold") == 0 || strcmp(verb, "failed") == 0) {
		worker->verdict = parse_verdict(rest);
		return worker->restoring ? STEP_FAILED : STEP_COLD;
	}
	if (strcmp(verb, "serve") == 0 && !worker->restoring) {
		worker->verdict = parse_verdict(rest);
		return STEP_SERVE;
	}
	if (strcmp(verb, "restoring") == 0 && !worker->restoring)
		return take_restoring(worker, rest);
	if (strcmp(verb, "progress") == 0 && worker->restoring)
		return STEP_RESTORING;
	if (strcmp(verb, "restored") == 0 && *rest == '\0' && worker->restoring)
		return STEP_RESTORED;
	return not_understood(worker);
}

/* Sleeps until the agent has said something or until. */
static enum agent_input listen_until(struct worker *worker, int64_t until)
{
	enum agent_input input;

	while ((input = agent_read(&worker->agent, worker->line)) == INPUT_NONE) {
		if (now_milliseconds() >= until)
			return INPUT_NONE;
		events_wait(&worker->events, worker->agent.fd, until);
	}
	return input;
}

static int64_t seconds_from_now(long seconds)
{
	return now_milliseconds() + seconds * 1000;
}

/* One connection, up to the agent's decision. */
static enum step await_decision(struct worker *worker)
{
	long wait = worker->options->wait_seconds;
	int64_t until =
		seconds_from_now(wait < LEAST_ANSWER_SECONDS ? LEAST_ANSWER_SECONDS : wait);
	enum step step = STEP_ASK_ON;

	agent_send(&worker->agent, "chrek", "1 start");
	while (step == STEP_ASK_ON) {
		/* Nonces do not buy time. */
		switch (listen_until(worker, until)) {
		case INPUT_LINE:
			step = take_line(worker);
			break;
		case INPUT_CLOSED:
			step = STEP_GONE;
			break;
		case INPUT_TOO_LONG:
			step = not_understood(worker);
			break;
		case INPUT_NONE:
			step = cold(worker, "AgentSilent", "the agent gave no answer in time");
			break;
		}
	}
	return step;
}

/* State asking: ends with STEP_COLD, STEP_SERVE or STEP_RESTORING. */
static enum step ask(struct worker *worker)
{
	int64_t until = seconds_from_now(worker->options->wait_seconds);
	bool met = false;

	while (agent_reach(&worker->agent, &worker->events, until)) {
		enum step step = await_decision(worker);

		if (step != STEP_GONE)
			return step;
		met = true;
		agent_close(&worker->agent);
		agent_pause(&worker->agent, &worker->events, until);
		if (now_milliseconds() >= until)
			break;
	}
	if (met)
		return cold(worker, "AgentGone",
			    "the agent closed the connection without an answer");
	worker->verdict = (struct verdict){
		"AgentUnavailable",
		"no agent answers at the socket: ",
		strerror(worker->agent.error),
	};
	return STEP_COLD;
}

/* State restoring: ends with STEP_RESTORED or STEP_FAILED. */
static enum step await_restore(struct worker *worker)
{
	for (;;) {
		enum step step;

		switch (listen_until(worker, now_milliseconds() + worker->silence)) {
		case INPUT_LINE:
			step = take_line(worker);
			break;
		case INPUT_CLOSED:
			return cold(worker, "AgentGone",
				    "the agent closed the connection while restoring");
		case INPUT_TOO_LONG:
			return not_understood(worker);
		default:
			return cold(worker, "AgentSilent",
				    "the agent said nothing for too long while restoring");
		}
		if (step == STEP_RESTORED || step == STEP_FAILED)
			return step;
	}
}

static bool root_is_child(const struct worker *worker)
{
	siginfo_t info;

	return waitid(P_PID, (id_t)worker->root, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static bool root_exists(const struct worker *worker)
{
	return kill(worker->root, 0) == 0 || errno == EPERM;
}

/*
 * The rest of a warm container's life. CRIU is the root's parent until it exits. Should the root
 * die before, CRIU takes its exit code along and no SIGCHLD tells, so until the root is a child
 * its existence is looked at now and then. Returns when it vanished that way.
 */
static void supervise(struct worker *worker)
{
	bool adopted = false;

	worker->events.on_signal = on_signal_forward;
	while (!worker->root_ended) {
		adopted = adopted || root_is_child(worker);
		if (!adopted && !root_exists(worker)) {
			/* It may have become a child and ended since the last look. */
			events_handle_signals(&worker->events);
			if (!worker->root_ended)
				return;
			break;
		}
		events_wait(&worker->events, -1,
			    adopted ? FOREVER : now_milliseconds() + ADOPTION_CHECK);
	}
	_exit(exit_code(worker->root_status));
}

/* Kills and reaps everything else in the PID namespace; only ever called as PID 1. */
static void empty_namespace(struct worker *worker)
{
	int64_t until = now_milliseconds() + EMPTYING_LIMIT;

	/*
	 * Processes that entered the namespace stay, as zombies, until their parents outside reap
	 * them: after a while that does not hold the worker up.
	 */
	while (kill(-1, SIGKILL) == 0 && now_milliseconds() < until)
		events_wait(&worker->events, -1, now_milliseconds() + EMPTYING_PAUSE);
	events_handle_signals(&worker->events);
}

static void say_why(const struct worker *worker)
{
	say("Falling back to cold start: ", worker->verdict.reason, ": ", worker->verdict.message,
	    worker->verdict.detail, NULL);
}

/* Cold, in place. */
_Noreturn static void become_worker(struct worker *worker)
{
	/* A SIGTERM that has just come must not get lost between here and exec. */
	events_handle_signals(&worker->events);
	run_command(worker->options->command);
}

_Noreturn static void fall_back(struct worker *worker)
{
	say_why(worker);
	agent_close(&worker->agent);
	if (worker->restoring) {
		if (!worker->in_place)
			_exit(EXIT_RETRY);
		worker->events.on_signal = on_signal;
		empty_namespace(worker);
	}
	become_worker(worker);
}

/* Cold as well, but below a tree that can be captured while it serves. */
_Noreturn static void serve(struct worker *worker)
{
	say_why(worker);
	source_serve(worker->options, &worker->agent, worker->events.signals);
	become_worker(worker);
}

_Noreturn void worker_main(const struct options *options)
{
	static struct worker worker;

	worker.options = options;
	worker.events = (struct events){
		.owner = &worker,
		.on_signal = on_signal,
		.on_exit = on_exit_remember,
	};
	signals_take();
	agent_open(&worker.agent, options->socket_path);

	worker.events.signals = signals_open();
	if (worker.events.signals < 0) {
		/* A cold worker needs none; the end of a restored one would not be seen. */
		worker.verdict =
			(struct verdict){"AgentUnavailable", "signalfd: ", strerror(errno)};
		fall_back(&worker);
	}
	switch (ask(&worker)) {
	case STEP_SERVE:
		serve(&worker);
	case STEP_RESTORING:
		if (await_restore(&worker) != STEP_RESTORED)
			break;
		agent_close(&worker.agent);
		supervise(&worker);
		cold(&worker, "AgentProtocol",
		     "the agent reported a restore but its root process is gone");
		break;
	default:
		break;
	}
	fall_back(&worker);
}
