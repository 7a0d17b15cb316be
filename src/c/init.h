/* Declarations shared by the files of chrek-init; chrek-init.c says what the program is. */
#ifndef CHREK_INIT_H
#define CHREK_INIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/signalfd.h>
#include <sys/types.h>

enum {
	EXIT_USAGE = 64,
	EXIT_RETRY = 75, /* start this container, or this Job, again */
	EXIT_CANNOT_EXECUTE = 126,
	EXIT_NOT_FOUND = 127,
};

/* What the command line asked for. */
struct options {
	const char *self;	/* argv[0] */
	const char *socket_path;
	long wait_seconds;	/* how long the agent's socket may take to appear */
	uint64_t worker_mask;	/* --tree: the signal mask that the worker gets */
	bool worker_mask_given;
	char **command;		/* the worker: NULL-terminated argv */
};

/* say.c: everything that chrek-init prints, one line at a time. */
void say(const char *part, ...) __attribute__((sentinel));
const char *decimal(char buffer[24], long number);
#define DECIMAL(number) decimal((char[24]){0}, (number))

/* signals.c: the mask and dispositions that were inherited, and forwarding. */
void signals_take(void);
void signals_give_back(void);
void signals_give_back_dispositions(void);
uint64_t signals_inherited_mask(void);
void signals_set_inherited_mask(uint64_t mask);
int signals_open(void);
bool signals_read(int fd, struct signalfd_siginfo *info);
void signals_await(struct signalfd_siginfo *info);
bool signal_ends_waiting(uint32_t number);
bool signal_is_forwardable(const struct signalfd_siginfo *info);
void signal_forward(pid_t pid, const struct signalfd_siginfo *info);

/* events.c: the one place where PID 1 sleeps. */
struct events {
	int signals;	/* signalfd of every signal */
	bool stop;	/* set by a callback: whoever loops returns to its caller */
	void *owner;
	void (*on_signal)(void *owner, const struct signalfd_siginfo *info);
	void (*on_exit)(void *owner, pid_t pid, int status);
};

#define FOREVER INT64_MAX

int64_t now_milliseconds(void);
bool events_wait(struct events *events, int fd, int64_t until);
void events_handle_signals(struct events *events);

/* children.c: the ends of processes. */
int exit_code(int status);
bool reap_one(pid_t *pid, int *status);
_Noreturn void run_command(char **command);

/* agent.c: the connection to the agent. */
enum { LINE_LIMIT = 1024 };

enum agent_input { INPUT_NONE, INPUT_LINE, INPUT_TOO_LONG, INPUT_CLOSED };

struct agent {
	const char *path;
	int fd;			/* -1 while there is no connection */
	int watch;		/* inotify on the socket's directory, or -1 */
	int error;		/* errno of the last attempt to connect */
	int64_t pause;		/* milliseconds until the next attempt */
	int64_t longest_pause;
	size_t used;
	char buffer[LINE_LIMIT + 1];
};

void agent_open(struct agent *agent, const char *path);
bool agent_reach(struct agent *agent, struct events *events, int64_t until);
void agent_pause(struct agent *agent, struct events *events, int64_t until);
void agent_send(struct agent *agent, const char *verb, const char *value);
enum agent_input agent_read(struct agent *agent, char line[LINE_LIMIT + 1]);
void agent_close(struct agent *agent);

/* protocol.c: the words of a line. */
struct verdict {
	const char *reason;
	const char *message;
	const char *detail;	/* follows the message, or "" */
};

char *next_word(char **rest);
bool parse_number(const char *text, long least, long most, long *number);
bool is_nonce(const char *text);
struct verdict parse_verdict(char *rest);

/* The roles. */
_Noreturn void worker_main(const struct options *options);
_Noreturn void source_main(const struct options *options);
void source_serve(const struct options *options, const struct agent *agent, int signals);
_Noreturn void tree_main(const struct options *options);
int install(const char *destination);

#endif
