/* The ends of processes, and the beginning of the worker. */
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init.h"

/* What a shell calls $?. */
int exit_code(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

bool reap_one(pid_t *pid, int *status)
{
	do
		*pid = waitpid(-1, status, WNOHANG);
	while (*pid < 0 && errno == EINTR);
	return *pid > 0;
}

/* Becomes the worker. Every file descriptor that chrek-init opened is close-on-exec. */
_Noreturn void run_command(char **command)
{
	int error;

	signals_give_back();
	execvp(command[0], command);
	error = errno;
	say("Cannot run \"", command[0], "\": ", strerror(error), NULL);
	_exit(error == ENOENT || error == ENOTDIR ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE);
}
