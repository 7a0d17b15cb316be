/*
 * --install: puts chrek-init into the pod's emptyDir, from an image that holds it and the module that
 * Python workers may import.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"

#define MODULE "/chrek_worker.py"

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

static bool copy_file(const char *source, const char *path, mode_t mode)
{
	int from = open(source, O_RDONLY | O_CLOEXEC);
	int to = -1;
	bool done = false;

	if (from >= 0)
		to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (to >= 0) {
		/* fchmod because of the umask. */
		done = copy(from, to) && fchmod(to, mode) == 0;
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
static bool install_file(const char *source, const char *destination, mode_t mode)
{
	const char *suffix = DECIMAL((long)getpid());
	char temporary[PATH_MAX];
	size_t length = strlen(destination);

	if (length + strlen(suffix) + 2 > sizeof(temporary)) {
		errno = ENAMETOOLONG;
		return false;
	}
	memcpy(temporary, destination, length);
	temporary[length] = '.';
	strcpy(temporary + length + 1, suffix);

	/* Left by a run that was killed: in a container the PID is the same each time. */
	unlink(temporary);
	if (copy_file(source, temporary, mode) && rename(temporary, destination) == 0)
		return true;
	unlink(temporary);
	return false;
}

/* Beside chrek-init; whoever builds an image of their own may leave it out. */
static bool install_module(const char *destination)
{
	const char *slash = strrchr(destination, '/');
	size_t folder = slash ? (size_t)(slash + 1 - destination) : 0;
	char path[PATH_MAX];

	if (access(MODULE, F_OK) < 0)
		return true;
	if (folder + strlen(MODULE) >= sizeof(path)) {
		errno = ENAMETOOLONG;
		return false;
	}
	memcpy(path, destination, folder);
	strcpy(path + folder, MODULE + 1);
	return install_file(MODULE, path, 0644);
}

int install(const char *destination)
{
	/* The module first: chrek-init being there says that all of it is. */
	if (install_module(destination) && install_file("/proc/self/exe", destination, 0755))
		return 0;
	say("Cannot install chrek-init as ", destination, ": ", strerror(errno),
	    "; is the emptyDir mounted there and writable?", NULL);
	return 1;
}
