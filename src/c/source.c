/*
 * Source mode: PID 1 of a checkpoint job. Starts the tree when the agent is ready for it, tells
 * the agent its PID, and ends with a code from which the Job knows whether to try again.
 *
 * State serving: PID 1 of a worker that can be captured while it serves. The same machine, but
 * nothing that the agent says, and no end of it, may end the worker.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "init.h"

enum {
	LEAST_ANSWER_SECONDS = 5,
	/* Between the agent's farewell after "committed" and CRIU's end of the tree. */
	COMMITTED_LIMIT = 30000, /* milliseconds */
	/* Between attempts to reach an agent that is away for long; inotify tells of a new one. */
	SERVING_PAUSE = 5000, /* milliseconds */
};

enum phase {
	PHASE_ASKING,	 /* no tree yet */
	PHASE_RUNNING,	 /* the tree loads its model */
	PHASE_DUMPING,	 /* the tree is, or is about to be, frozen */
	PHASE_COMMITTED, /* the artifact is complete */
};

struct source {
	const struct options *options;
	struct events events;
	struct agent agent;
	char line[LINE_LIMIT + 1];
	enum phase phase;
	bool serving;
	int64_t until;	/* when something must have happened */

	pid_t tree;	/* 0: none yet */
	bool tree_ended;
	int tree_status;

	/* Signals that came while dumping, bit n - 1 for signal n. */
	uint64_t held;
};

/* Everything else in the PID namespace ends with PID 1. */
_Noreturn static void end(const struct source *source, int code)
{
	if (source->tree > 0 && !source->tree_ended)
		kill(source->tree, SIGKILL);
	_exit(code);
}

_Noreturn static void give_up(const struct source *source, const char *reason,
			      const char *message, const char *detail)
{
	say(source->tree ? "Checkpoint interrupted: " : "Checkpoint refused: ", reason, ": ",
	    message, detail, NULL);
	end(source, EXIT_RETRY);
}

_Noreturn static void not_understood(const struct source *source)
{
	give_up(source, "AgentProtocol", "the agent said what chrek-init does not understand", "");
}

/*
 * While dumping nothing is forwarded: a signal that is pending in a frozen process would become
 * part of the artifact, and end every worker that is restored from it.
 */
static void on_signal(void *owner, const struct signalfd_siginfo *info)
{
	struct source *source = owner;

	if (source->tree == 0) {
		if (signal_ends_waiting(info->ssi_signo))
			_exit(128 + (int)info->ssi_signo);
	} else if (source->phase == PHASE_DUMPING) {
		source->held |= UINT64_C(1) << (info->ssi_signo - 1);
	} else {
		signal_forward(source->tree, info);
	}
}

static void on_exit_remember(void *owner, pid_t pid, int status)
{
	struct source *source = owner;

	if (pid == source->tree) {
		source->tree_ended = true;
		source->tree_status = status;
		source->events.stop = true;
	}
}

static void release_held(struct source *source)
{
	for (int number = 1; number <= 64; number++)
		if (source->held & UINT64_C(1) << (number - 1))
			kill(source->tree, number);
	source->held = 0;
}

/* "chrek-init --tree --mask <hex> -- <command>", from the very file that runs now. */
_Noreturn static void run_tree(const struct source *source)
{
	const struct options *options = source->options;
	char mask[17];
	uint64_t rest = signals_inherited_mask();
	size_t count = 0;

	for (int digit = 15; digit >= 0; digit--, rest >>= 4)
		mask[digit] = "0123456789abcdef"[rest & 15];
	mask[16] = '\0';
	while (options->command[count])
		count++;

	char *self = (char *)options->self;
	char *arguments[count + 6];
	char *head[] = {self, "--tree", "--mask", mask, "--"};

	memcpy(arguments, head, sizeof(head));
	memcpy(arguments + 5, options->command, (count + 1) * sizeof(char *));
	/*
	 * All signals stay blocked: one that is forwarded before the tree looks for signals waits.
	 * The worker's mask travels as an argument.
	 */
	signals_give_back_dispositions();
	execv("/proc/self/exe", arguments);
	say("Cannot run /proc/self/exe: ", strerror(errno), NULL);
	if (source->serving)
		run_command(options->command);
	_exit(EXIT_RETRY);
}

static void tell_started(struct source *source)
{
	agent_send(&source->agent, "started", DECIMAL((long)source->tree));
}

/* Returns whether there is a tree. */
static bool start_tree(struct source *source)
{
	pid_t pid = fork();

	if (pid == 0)
		run_tree(source);
	if (pid < 0)
		return false;
	source->tree = pid;
	source->phase = PHASE_RUNNING;
	source->until = FOREVER;
	tell_started(source);
	return true;
}

static void take_verdict(struct source *source, const char *verb, char *rest)
{
	struct verdict verdict = parse_verdict(rest);

	if (strcmp(verb, "resumed") == 0) {
		say("Checkpoint failed: ", verdict.reason, ": ", verdict.message,
		    "; the worker runs on", NULL);
		source->phase = PHASE_RUNNING;
		release_held(source);
		return;
	}
	say("Checkpoint refused: ", verdict.reason, ": ", verdict.message, NULL);
	end(source, EXIT_RETRY);
}

/* What is not understood here is passed over. */
static void take_line_serving(struct source *source, const char *verb, char *rest)
{
	bool bare = *rest == '\0';

	if (strcmp(verb, "dumping") == 0 && bare) {
		source->phase = PHASE_DUMPING;
	} else if (strcmp(verb, "resumed") == 0 && bare) {
		source->phase = PHASE_RUNNING;
		release_held(source);
	} else if (strcmp(verb, "resumed") == 0) {
		take_verdict(source, verb, rest);
	} else if (strcmp(verb, "committed") == 0 && bare) {
		say("Checkpoint complete; the worker serves on", NULL);
	}
}

static void take_line(struct source *source)
{
	char *rest = source->line;
	const char *verb = next_word(&rest);
	bool bare = *rest == '\0';

	if (strcmp(verb, "nonce") == 0 && is_nonce(rest)) {
		agent_send(&source->agent, "nonce", rest);
	} else if (source->serving) {
		take_line_serving(source, verb, rest);
	} else if (source->phase == PHASE_COMMITTED) {
		/* Nothing that is said now can make the artifact incomplete. */
	} else if (strcmp(verb, "cold") == 0 || strcmp(verb, "failed") == 0) {
		take_verdict(source, verb, rest);
	} else if (strcmp(verb, "capture") == 0 && bare) {
		/* An agent that has restarted says it again. */
		if (source->phase == PHASE_ASKING && !start_tree(source))
			give_up(source, "ForkFailed", "cannot start the tree: ", strerror(errno));
	} else if (strcmp(verb, "dumping") == 0 && bare && source->tree) {
		source->phase = PHASE_DUMPING;
	} else if (strcmp(verb, "resumed") == 0 && source->phase == PHASE_DUMPING) {
		take_verdict(source, verb, rest);
	} else if (strcmp(verb, "committed") == 0 && bare && source->phase == PHASE_DUMPING) {
		source->phase = PHASE_COMMITTED;
	} else {
		not_understood(source);
	}
}

/* Takes every line that is there. Returns INPUT_NONE or INPUT_CLOSED. */
static enum agent_input take_lines(struct source *source)
{
	enum agent_input input;

	while ((input = agent_read(&source->agent, source->line)) == INPUT_LINE)
		take_line(source);
	if (input == INPUT_TOO_LONG && source->phase != PHASE_COMMITTED && !source->serving)
		not_understood(source);
	return input == INPUT_NONE ? INPUT_NONE : INPUT_CLOSED;
}

/* The tree has ended, and the agent's last words have been read. */
_Noreturn static void finish(const struct source *source)
{
	int code = exit_code(source->tree_status);

	if (source->serving)
		_exit(code);
	if (source->phase == PHASE_COMMITTED) {
		say("Checkpoint complete", NULL);
		_exit(0);
	}
	say("Checkpoint interrupted: WorkerExited: the worker ended with code ",
	    DECIMAL((long)code), " before its checkpoint was complete", NULL);
	_exit(code ? code : EXIT_RETRY);
}

static int64_t seconds_from_now(long seconds)
{
	return now_milliseconds() + seconds * 1000;
}

static void introduce(struct source *source)
{
	long wait = source->options->wait_seconds;

	agent_send(&source->agent, "chrek", source->serving ? "1 serving" : "1 source");
	if (source->tree)
		tell_started(source);
	else
		source->until =
			seconds_from_now(wait < LEAST_ANSWER_SECONDS ? LEAST_ANSWER_SECONDS : wait);
}

/* Connects, for the first time or again. False: the tree ended meanwhile. */
static bool reach(struct source *source, int64_t until)
{
	if (agent_reach(&source->agent, &source->events, until)) {
		introduce(source);
		return true;
	}
	if (source->tree_ended)
		return false;
	give_up(source, source->tree ? "AgentGone" : "AgentUnavailable",
		"no agent answers at the socket: ", strerror(source->agent.error));
}

/* The agent has closed the connection. */
static void take_close(struct source *source, int64_t *reach_until)
{
	int64_t now = now_milliseconds();

	agent_close(&source->agent);
	if (source->serving) {
		/* Its CRIU has died with it and freezes nothing. */
		source->phase = PHASE_RUNNING;
		release_held(source);
	}
	if (source->phase == PHASE_COMMITTED) {
		source->until = now + COMMITTED_LIMIT;
		return;
	}
	if (source->phase == PHASE_DUMPING)
		give_up(source, "AgentGone", "the agent closed the connection while dumping", "");
	/* A tree has worked for its state: each time the agent gets the whole wait to come back. */
	if (source->serving)
		*reach_until = FOREVER;
	else if (source->tree)
		*reach_until = seconds_from_now(source->options->wait_seconds);
	else if (now >= *reach_until)
		give_up(source, "AgentGone", "the agent closed the connection without an answer",
			"");
	agent_pause(&source->agent, &source->events, *reach_until);
	if (!source->tree_ended)
		reach(source, *reach_until);
}

static void expire(struct source *source)
{
	if (source->phase == PHASE_COMMITTED) {
		say("Checkpoint complete; the agent left the worker running", NULL);
		end(source, 0);
	}
	give_up(source, "AgentSilent", "the agent gave no answer in time", "");
}

_Noreturn static void run(struct source *source, int64_t reach_until)
{
	for (;;) {
		bool open = source->agent.fd >= 0;

		/*
		 * The tree is looked at before the agent's lines: "committed" is sent before CRIU
		 * kills the tree, so once the end is known the line can be read.
		 */
		bool ended = source->tree_ended;

		if (open && take_lines(source) == INPUT_CLOSED)
			take_close(source, &reach_until);
		else if (ended)
			finish(source);
		else if (now_milliseconds() >= source->until)
			expire(source);
		else
			events_wait(&source->events, source->agent.fd, source->until);
	}
}

static struct source *prepare(const struct options *options)
{
	static struct source source;

	source.options = options;
	source.until = FOREVER;
	source.events = (struct events){
		.owner = &source,
		.on_signal = on_signal,
		.on_exit = on_exit_remember,
	};
	return &source;
}

_Noreturn void source_main(const struct options *options)
{
	struct source *source = prepare(options);
	int64_t reach_until = seconds_from_now(options->wait_seconds);

	signals_take();
	source->events.signals = signals_open();
	if (source->events.signals < 0)
		give_up(source, "InitFailed", "signalfd: ", strerror(errno));
	agent_open(&source->agent, options->socket_path);
	reach(source, reach_until);
	run(source, reach_until);
}

/* Goes on with the connection that worker mode has. Returns only when nothing was started. */
void source_serve(const struct options *options, const struct agent *agent, int signals)
{
	struct source *source = prepare(options);

	source->serving = true;
	source->agent = *agent;
	source->agent.longest_pause = SERVING_PAUSE;
	source->events.signals = signals;
	if (start_tree(source))
		run(source, FOREVER);
}
