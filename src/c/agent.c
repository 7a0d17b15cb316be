/*
 * The connection to the agent. The socket's directory is an emptyDir that the worker can write
 * to, so whatever lies at the socket's path is looked at before it is used, and nothing read from
 * it is trusted further than the protocol says.
 */
#include <errno.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "init.h"

enum { FIRST_PAUSE = 2, LONGEST_PAUSE = 50 }; /* milliseconds */

static int watch_directory(const char *path)
{
	char directory[sizeof(((struct sockaddr_un *)0)->sun_path)];
	const char *slash = strrchr(path, '/');
	size_t length = slash ? (size_t)(slash - path) : 0;
	int fd;

	if (length == 0 || length >= sizeof(directory))
		return -1;
	memcpy(directory, path, length);
	directory[length] = '\0';

	fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	/* Without inotify the pauses between attempts are all there is, and enough. */
	if (fd >= 0 && inotify_add_watch(fd, directory, IN_CREATE | IN_MOVED_TO | IN_ATTRIB) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

void agent_open(struct agent *agent, const char *path)
{
	agent->path = path;
	agent->fd = -1;
	agent->watch = watch_directory(path);
	agent->error = 0;
	agent->pause = FIRST_PAUSE;
	agent->longest_pause = LONGEST_PAUSE;
	agent->used = 0;
}

/* A symlink is not followed: the agent binds its socket at this very path. */
static bool is_socket(const char *path)
{
	struct stat status;

	if (lstat(path, &status) < 0)
		return false;
	errno = ENOTSOCK;
	return S_ISSOCK(status.st_mode);
}

static bool connect_once(struct agent *agent)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(agent->path);
	int fd = -1;

	errno = ENAMETOOLONG;
	if (length < sizeof(address.sun_path) && is_socket(agent->path)) {
		memcpy(address.sun_path, agent->path, length + 1);
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	}
	/* A full backlog is EAGAIN, and tried again like every other failure. */
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
		agent->fd = fd;
		agent->used = 0;
		return true;
	}
	agent->error = errno;
	if (fd >= 0)
		close(fd);
	return false;
}

/* Sleeps before the next attempt: longer each time, shorter when the directory has changed. */
void agent_pause(struct agent *agent, struct events *events, int64_t until)
{
	int64_t end = now_milliseconds() + agent->pause;
	char changes[1024];

	if (events_wait(events, agent->watch, end < until ? end : until)) {
		while (read(agent->watch, changes, sizeof(changes)) > 0)
			;
		agent->pause = FIRST_PAUSE;
	} else if (agent->pause < agent->longest_pause) {
		agent->pause += agent->pause / 2;
	}
}

/* Connects. False when there is no agent until then, or a callback said stop. */
bool agent_reach(struct agent *agent, struct events *events, int64_t until)
{
	while (!connect_once(agent)) {
		if (events->stop || now_milliseconds() >= until)
			return false;
		agent_pause(agent, events, until);
	}
	return true;
}

/*
 * Sends "<verb> <value>\n". A failure is not looked at: it means that the agent has closed its
 * end, and what it said before is still to be read.
 */
void agent_send(struct agent *agent, const char *verb, const char *value)
{
	char line[LINE_LIMIT];
	size_t verb_length = strlen(verb);
	size_t value_length = strlen(value);

	if (verb_length + value_length + 2 > sizeof(line))
		return;
	memcpy(line, verb, verb_length);
	line[verb_length] = ' ';
	memcpy(line + verb_length + 1, value, value_length);
	line[verb_length + 1 + value_length] = '\n';
	send(agent->fd, line, verb_length + value_length + 2, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Moves the first line out of the buffer, printable and NUL-terminated. */
static bool take_line(struct agent *agent, char line[LINE_LIMIT + 1])
{
	char *newline = memchr(agent->buffer, '\n', agent->used);
	size_t length;

	if (!newline)
		return false;
	length = (size_t)(newline - agent->buffer);
	for (size_t i = 0; i < length; i++) {
		char byte = agent->buffer[i];

		line[i] = (byte >= ' ' && byte <= '~') ? byte : '?';
	}
	line[length] = '\0';
	agent->used -= length + 1;
	memmove(agent->buffer, newline + 1, agent->used);
	return true;
}

/* Never sleeps. Lines that came before the end of the connection are returned before it. */
enum agent_input agent_read(struct agent *agent, char line[LINE_LIMIT + 1])
{
	for (;;) {
		ssize_t count;

		if (take_line(agent, line))
			return INPUT_LINE;
		if (agent->used == sizeof(agent->buffer))
			return INPUT_TOO_LONG;
		count = recv(agent->fd, agent->buffer + agent->used,
			     sizeof(agent->buffer) - agent->used, MSG_DONTWAIT);
		if (count > 0)
			agent->used += (size_t)count;
		else if (count == 0 || (errno != EINTR && errno != EAGAIN))
			return INPUT_CLOSED;
		else if (errno == EAGAIN)
			return INPUT_NONE;
	}
}

void agent_close(struct agent *agent)
{
	if (agent->fd >= 0)
		close(agent->fd);
	agent->fd = -1;
	agent->used = 0;
}
