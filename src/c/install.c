/* --install: puts chrek-init into the pod's emptyDir, from an image that holds nothing else. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"

static bool write_all(int fd, const char *bytes, size_t size)
{
	while (size > 0) {
		ssize_t count = write(fd, bytes, size);

		if (count < 0 && errno != EINTR)
			return false;
		if (count > 0) {
			bytes += count;
			size -= (size_t)count;
		}
	}
	return true;
}

static bool copy(int from, int to)
{
	char buffer[16384];

	for (;;) {
		ssize_t count = read(from, buffer, sizeof(buffer));

		if (count == 0)
			return true;
		if (count < 0 && errno != EINTR)
			return false;
		if (count > 0 && !write_all(to, buffer, (size_t)count))
			return false;
	}
}

static bool copy_self(const char *path)
{
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int to = -1;
	bool done = false;

	if (from >= 0)
		to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	if (to >= 0) {
		/* fchmod because of the umask. */
		done = copy(from, to) && fchmod(to, 0755) == 0;
		done = close(to) == 0 && done;
	}
	if (from >= 0)
		close(from);
	return done;
}

/*
 * Atomic: the destination is either what it was or complete. A second run replaces it, also while
 * the first copy runs.
 */
int install(const char *destination)
{
	const char *suffix = DECIMAL((long)getpid());
	char temporary[PATH_MAX];
	size_t length = strlen(destination);

	if (length + strlen(suffix) + 2 > sizeof(temporary)) {
		say("Cannot install: the path is too long: ", destination, NULL);
		return EXIT_USAGE;
	}
	memcpy(temporary, destination, length);
	temporary[length] = '.';
	strcpy(temporary + length + 1, suffix);

	/* Left by a run that was killed: in a container the PID is the same each time. */
	unlink(temporary);
	if (copy_self(temporary) && rename(temporary, destination) == 0)
		return 0;
	say("Cannot install chrek-init as ", destination, ": ", strerror(errno),
	    "; is the emptyDir mounted there and writable?", NULL);
	unlink(temporary);
	return 1;
}
