/*
 * chrek-init: PID 1 of the containers that chrek manages.
 *
 * Asks the node's agent whether the container starts warm (from a checkpoint) or cold, and never
 * keeps it from starting: whatever the agent does, or does not, ends in the worker running or in
 * an exit that makes the kubelet start the container again.
 *
 *   chrek-init [--wait SECONDS] [--socket PATH] -- COMMAND [ARGUMENT...]   worker
 *   chrek-init --source [--wait SECONDS] [--socket PATH] -- COMMAND ...    checkpoint job
 *   chrek-init --tree [--mask HEX] -- COMMAND ...                          root of the dumped tree
 *   chrek-init --install DESTINATION                                       copies itself
 *
 * One static program without threads, timers or heap, because it runs in other people's images.
 *
 * Protocol, version 1
 * -------------------
 * A Unix stream socket that the agent binds in the pod's emptyDir: agent.sock beside chrek-init.
 * Lines of printable ASCII that end in a newline, at most 1024 bytes. A Reason matches
 * [A-Za-z0-9]{1,64}.
 *
 * Both modes
 *   init -> agent  "chrek 1 start" (worker), "chrek 1 serving" (worker that serves already) or
 *                  "chrek 1 source" (checkpoint job), the first line
 *   agent -> init  "nonce <hex>": answered with the same line at once, in every state
 *
 * Worker mode, state asking: no socket within --wait (AgentUnavailable), the connection closed and
 * not answered again until --wait is over (AgentGone), no decision within max(--wait, 5) seconds
 * of connecting (AgentSilent), anything not listed here (AgentProtocol): cold, in place.
 *   "cold <Reason> <message>" ("failed" means the same): cold, in place.
 *   "restoring <deadline_seconds> <pid> <exit|exec>": state restoring. <pid> is the PID, in this
 *       namespace, of the tree's root, which becomes PID 1's child when CRIU ends.
 * State restoring: the deadline is the longest silence allowed; every line resets it.
 *   "progress <step>"
 *   "restored": supervise <pid>: forward signals, reap, end with its exit code. When it has ended
 *       already, end with that code now; when it is gone without one, that is a failure
 *       (AgentProtocol).
 *   "failed <Reason> <message>" ("cold" means the same), the end of the connection (AgentGone),
 *       silence (AgentSilent), anything else (AgentProtocol): a failure. With "exit", exit 75;
 *       with "exec", kill and reap everything in the PID namespace, then cold, in place.
 * Cold prints "chrek: Falling back to cold start: <Reason>: <message>" and becomes the command.
 *   "serve <Reason> <message>", in state asking: prints the same line and starts the worker as the
 *       tree of a source (the agent has set ns_last_pid), answers "started <pid>": state serving.
 * State serving: the worker serves and may be captured while it does. Signals go to it, and
 *   chrek-init ends with its exit code, as a cold worker would. Nothing that the agent says ends it.
 *   "dumping": signals are held back from here on, lest they become part of the artifact.
 *   "resumed": the tree runs again; deliver the held signals. "resumed <Reason> <message>": and
 *       print why it was not captured.
 *   "committed": the artifact is complete; print it.
 *   The end of the connection: as "resumed", for CRIU ends with the agent and thaws the tree.
 *       Connect again, for as long as the worker lives, and send "chrek 1 serving" and
 *       "started <pid>".
 *   Anything else is passed over.
 *
 * Source mode: prints "chrek: Checkpoint refused: <Reason>: <message>" (there was no tree, or the
 * agent said so) or "chrek: Checkpoint interrupted: ..." and exits 75, so that the Job retries, for
 * the same four Reasons (also InitFailed and ForkFailed: the node is out of something). Until there
 * is a tree, the times of state asking hold.
 *   "capture": start the tree (the agent has set ns_last_pid), answer "started <pid>"; ignored
 *       when it runs. There is no deadline from here on: models take long to load.
 *   "cold <Reason> <message>" or "failed ...": refused.
 *   "dumping": signals are held back from here on, lest they become part of the artifact.
 *   "resumed <Reason> <message>": the dump failed; print it, deliver the held signals, go on.
 *   "committed", only after "dumping": the artifact is complete. From now on the end of the tree,
 *       however it comes, is exit 0, and nothing that the agent says or omits changes that; when
 *       the connection ends, the tree has 30 more seconds to do so.
 *   The end of the connection: while dumping, AgentGone; else connect again for up to --wait and
 *       send "chrek 1 source" and, when the tree runs, "started <pid>".
 *   A tree that ends before "committed": print WorkerExited, end with its code, 75 in place of 0.
 *
 * Signals: before there is a worker SIGTERM, SIGINT and SIGQUIT end chrek-init at once (128+n) and
 * others are dropped, as the kernel drops them for a PID 1 without handlers. Afterwards all of them
 * go to the worker.
 *
 * Exit codes: the worker's (128+n for a signal); 64 usage; 75 start this container or Job again;
 * 126 and 127 the command cannot be run or was not found, as in a shell.
 */
#include <string.h>
#include <unistd.h>

#include "init.h"

#ifndef CHREK_VERSION
#error "CHREK_VERSION is set by the Makefile"
#endif

enum { DEFAULT_WAIT = 1, MOST_WAIT = 86400 };

enum role { ROLE_WORKER, ROLE_SOURCE, ROLE_TREE };

static const char SOCKET_NAME[] = "agent.sock";
static const char DEFAULT_SOCKET[] = "/chrek/agent.sock";

static const char HELP[] =
	"Usage: chrek-init [--source] [--wait SECONDS] [--socket PATH] [--] COMMAND [ARGUMENT...]\n"
	"       chrek-init --install DESTINATION\n"
	"\n"
	"PID 1 of a container that chrek manages: asks the node's agent for a warm start,\n"
	"otherwise becomes COMMAND.\n"
	"\n"
	"  --wait SECONDS         how long the agent's socket may take to appear (default 1)\n"
	"  --socket PATH          the agent's socket (default: agent.sock beside chrek-init)\n"
	"  --source               be PID 1 of a checkpoint job\n"
	"  --tree [--mask HEX]    be the root of the tree that a checkpoint job captures\n"
	"  --install DESTINATION  copy this program to DESTINATION\n"
	"  --version, --help\n";

static int print(const char *text)
{
	size_t length = strlen(text);

	return write(STDOUT_FILENO, text, length) == (ssize_t)length ? 0 : 1;
}

static int usage(const char *what, const char *value)
{
	say(what, value, "; see chrek-init --help", NULL);
	return EXIT_USAGE;
}

/* The socket lies beside chrek-init, wherever the pod mounts its emptyDir. */
static const char *socket_beside(const char *self)
{
	static char path[4096];
	const char *slash = strrchr(self, '/');
	size_t length = slash ? (size_t)(slash - self) + 1 : 0;

	if (self[0] != '/' || length + sizeof(SOCKET_NAME) > sizeof(path))
		return DEFAULT_SOCKET;
	memcpy(path, self, length);
	memcpy(path + length, SOCKET_NAME, sizeof(SOCKET_NAME));
	return path;
}

static bool parse_mask(const char *text, uint64_t *mask)
{
	static const char digits[] = "0123456789abcdef";
	size_t length = strspn(text, digits);

	if (length != 16 || text[length] != '\0')
		return false;
	*mask = 0;
	for (; *text; text++)
		*mask = *mask << 4 | (uint64_t)(strchr(digits, *text) - digits);
	return true;
}

/* Takes the option's value. Returns 0, or the exit code after saying what is wrong. */
static int take_value(struct options *options, const char *name, char *value)
{
	if (!value)
		return usage("This option needs a value: ", name);
	if (strcmp(name, "--socket") == 0) {
		options->socket_path = value;
	} else if (strcmp(name, "--wait") == 0) {
		if (!parse_number(value, 0, MOST_WAIT, &options->wait_seconds))
			return usage("--wait takes whole seconds from 0 to 86400, not ", value);
	} else {
		if (!parse_mask(value, &options->worker_mask))
			return usage("--mask takes 16 hexadecimal digits, not ", value);
		options->worker_mask_given = true;
	}
	return 0;
}

static bool has_value(const char *name)
{
	return strcmp(name, "--socket") == 0 || strcmp(name, "--wait") == 0 ||
	       strcmp(name, "--mask") == 0;
}

static int run(const struct options *options, enum role role)
{
	if (!options->command[0])
		return usage("No command was given", "");
	switch (role) {
	case ROLE_SOURCE:
		source_main(options);
	case ROLE_TREE:
		tree_main(options);
	default:
		worker_main(options);
	}
}

int main(int argc, char **argv)
{
	struct options options = {.wait_seconds = DEFAULT_WAIT};
	enum role role = ROLE_WORKER;
	char **argument = argv + 1;

	if (argc < 2)
		return usage("No command was given", "");
	options.self = argv[0];
	options.socket_path = socket_beside(argv[0]);

	for (; *argument && strncmp(*argument, "--", 2) == 0; argument++) {
		const char *name = *argument;

		if (strcmp(name, "--") == 0) {
			argument++;
			break;
		}
		if (strcmp(name, "--help") == 0)
			return print(HELP);
		if (strcmp(name, "--version") == 0)
			return print("chrek-init " CHREK_VERSION "\n");
		if (strcmp(name, "--install") == 0)
			return argument[1] && !argument[2] ? install(argument[1])
							   : usage("--install takes one path", "");
		if (strcmp(name, "--source") == 0) {
			role = ROLE_SOURCE;
		} else if (strcmp(name, "--tree") == 0) {
			role = ROLE_TREE;
		} else if (has_value(name)) {
			int code = take_value(&options, name, *++argument);

			if (code)
				return code;
		} else {
			return usage("There is no option ", name);
		}
	}
	options.command = argument;
	return run(&options, role);
}
