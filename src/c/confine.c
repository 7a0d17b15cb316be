/*
 * A program that runs with exactly the privileges of another process, PID 1 of a container: what a
 * child of that process would be, although an agent that may do anything started it.
 *
 * Everything is read before the container is entered, through the agent's own /proc. Source:
 * credentials(7), capabilities(7), seccomp(2), keyrings(7).
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "enter.h"

enum {
	MOST_GROUPS = 65536,	  /* NGROUPS_MAX */
	STATUS_LIMIT = 1 << 20,	  /* bytes: as many groups of ten digits, and the rest */
	KEYCTL_JOIN_SESSION_KEYRING = 1,
};

/* For setresuid and setresgid: leave this one. */
#define SAME ((uid_t)-1)

struct privileges {
	uint64_t inheritable, permitted, effective, bounding, ambient;
};

static struct {
	uid_t uids[3]; /* real, effective, saved */
	gid_t gids[3];
	gid_t groups[MOST_GROUPS];
	size_t group_count;
	struct privileges capabilities;
	bool no_new_privs;
	unsigned int seccomp_mode;
	mode_t mask;
	uint64_t ignored; /* signals, bit n - 1 for signal n */
	struct rlimit limits[RLIM_NLIMITS];
	char oom_score_adj[16];
	struct filters filters;
	int root, directory; /* of PID 1 */
	int proc;	     /* the agent's /proc */
} wanted;

static char status[STATUS_LIMIT];

/* Reads a small file whole. Returns its length; the text is NUL-terminated. */
static size_t read_file(int directory, const char *path, char *text, size_t size)
{
	int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t count = 0;

	if (fd < 0)
		fail_errno(path);
	while (used < size - 1 && (count = read(fd, text + used, size - 1 - used)) > 0)
		used += (size_t)count;
	if (count < 0)
		fail_errno(path);
	if (used == size - 1)
		fail(path, "too long");
	close(fd);
	text[used] = '\0';
	return used;
}

/* What follows "<name>:\t" in /proc/PID/status. Newlines in the first line, the name, are escaped. */
static const char *field(const char *name)
{
	size_t length = strlen(name);

	for (const char *line = status; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, length) == 0 && line[length] == ':')
			return line + length + 1;
	}
	fail("/proc/PID/status", name);
}

/* Numbers of one line. Returns how many there are. */
static size_t numbers(const char *name, int base, uint64_t *values, size_t most)
{
	const char *at = field(name);
	size_t count = 0;

	for (;;) {
		char *end;

		at += strspn(at, "\t ");
		if (*at == '\n' || *at == '\0')
			return count;
		errno = 0;
		if (count == most)
			fail("/proc/PID/status", name);
		values[count++] = strtoull(at, &end, base);
		if (errno || end == at)
			fail("/proc/PID/status", name);
		at = end;
	}
}

static uint64_t number(const char *name, int base)
{
	uint64_t value;

	if (numbers(name, base, &value, 1) != 1)
		fail("/proc/PID/status", name);
	return value;
}

static void read_ids(const char *name, uint32_t ids[3])
{
	uint64_t values[4];

	if (numbers(name, 10, values, 4) != 4)
		fail("/proc/PID/status", name);
	/* The fourth, of file systems, follows the effective one. */
	for (size_t i = 0; i < 3; i++)
		ids[i] = (uint32_t)values[i];
}

static void read_groups(void)
{
	static uint64_t values[MOST_GROUPS];

	wanted.group_count = numbers("Groups", 10, values, MOST_GROUPS);
	for (size_t i = 0; i < wanted.group_count; i++)
		wanted.groups[i] = (gid_t)values[i];
}

static void read_status(int process)
{
	read_file(process, "status", status, sizeof(status));
	read_ids("Uid", wanted.uids);
	read_ids("Gid", wanted.gids);
	read_groups();
	wanted.capabilities = (struct privileges){
		.inheritable = number("CapInh", 16),
		.permitted = number("CapPrm", 16),
		.effective = number("CapEff", 16),
		.bounding = number("CapBnd", 16),
		.ambient = number("CapAmb", 16),
	};
	wanted.no_new_privs = number("NoNewPrivs", 10) != 0;
	wanted.seccomp_mode = (unsigned int)number("Seccomp", 10);
	wanted.mask = (mode_t)number("Umask", 8);
	wanted.ignored = number("SigIgn", 16);
}

/* The number that the process behind a pidfd has here. */
static pid_t pid_of(int pidfd)
{
	char path[32], text[1024];
	const char *line;
	long pid = -1;

	snprintf(path, sizeof(path), "self/fdinfo/%d", pidfd);
	read_file(wanted.proc, path, text, sizeof(text));
	line = strstr(text, "\nPid:");
	if (line)
		pid = strtol(line + 5, NULL, 10);
	if (pid <= 0)
		fail("--confined", "no process of this PID namespace");
	return (pid_t)pid;
}

static int open_below(int process, const char *name)
{
	int fd = openat(process, name, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		fail_errno(name);
	return fd;
}

/* With its own real users, because an agent without CAP_SYS_RESOURCE may not ask otherwise. */
static void read_limits(pid_t pid)
{
	uid_t user = getuid();
	gid_t group = getgid();

	if (setresgid(wanted.gids[0], SAME, SAME) < 0 || setresuid(wanted.uids[0], SAME, SAME) < 0)
		fail_errno("setresuid");
	for (int resource = 0; resource < RLIM_NLIMITS; resource++)
		if (prlimit(pid, resource, NULL, &wanted.limits[resource]) < 0)
			fail_errno("prlimit");
	if (setresuid(user, SAME, SAME) < 0 || setresgid(group, SAME, SAME) < 0)
		fail_errno("setresuid");
}

void confinement_read(int pidfd)
{
	char path[16];
	pid_t pid;
	int process;

	wanted.proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (wanted.proc < 0)
		fail_errno("/proc");
	pid = pid_of(pidfd);
	snprintf(path, sizeof(path), "%d", (int)pid);
	process = open_below(wanted.proc, path);
	read_status(process);
	read_file(process, "oom_score_adj", wanted.oom_score_adj, sizeof(wanted.oom_score_adj));
	wanted.root = open_below(process, "root");
	wanted.directory = open_below(process, "cwd");
	read_limits(pid);
	filters_read(pid, &wanted.filters);
	if (wanted.seccomp_mode == 1 ||
	    (wanted.seccomp_mode == 2) != (filters_count(&wanted.filters) > 0))
		fail("seccomp", "a mode that cannot be copied");
	/* It lives, so the number was its own all the time. */
	if (syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) < 0)
		fail_errno("--confined");
	close(process);
}

static void write_own(const char *path, const char *text)
{
	int fd = openat(wanted.proc, path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail_errno(path);
	close(fd);
}

/* The label that the program gets with execve: "exec <profile>" for AppArmor, SELinux' own. */
static void set_label(const char *label)
{
	static const char apparmor[] = "self/attr/apparmor/exec";

	write_own(faccessat(wanted.proc, apparmor, W_OK, AT_EACCESS) == 0 ? apparmor
									 : "self/attr/exec",
		  label);
}

static void set_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	for (int i = 0; i < 2; i++) {
		data[i].effective = (uint32_t)(effective >> (32 * i));
		data[i].permitted = (uint32_t)(permitted >> (32 * i));
		data[i].inheritable = (uint32_t)(inheritable >> (32 * i));
	}
	if (syscall(SYS_capset, &header, data) < 0)
		fail_errno("capset");
}

static uint64_t own_permitted(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data) < 0)
		fail_errno("capget");
	return (uint64_t)data[1].permitted << 32 | data[0].permitted;
}

static void limit_bounding_set(uint64_t bounding)
{
	for (unsigned int capability = 0; capability < 64; capability++) {
		if (prctl(PR_CAPBSET_READ, capability, 0, 0, 0) < 0)
			return; /* the kernel's last one was the one before */
		if (!(bounding >> capability & 1) &&
		    prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
			fail_errno("PR_CAPBSET_DROP");
	}
}

static void set_ambient(uint64_t ambient)
{
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		fail_errno("PR_CAP_AMBIENT");
	for (unsigned int capability = 0; capability < 64; capability++)
		if (ambient >> capability & 1 &&
		    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) < 0)
			fail_errno("PR_CAP_AMBIENT");
}

/* Users and groups. The capabilities are kept, for what is still to be done. */
static void set_ids(void)
{
	const uid_t *uids = wanted.uids;
	const gid_t *gids = wanted.gids;

	if (setgroups(wanted.group_count, wanted.groups) < 0)
		fail_errno("setgroups");
	if (setresgid(gids[0], gids[1], gids[2]) < 0)
		fail_errno("setresgid");
	limit_bounding_set(wanted.capabilities.bounding);
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		fail_errno("PR_SET_KEEPCAPS");
	if (setresuid(uids[0], uids[1], uids[2]) < 0)
		fail_errno("setresuid");
}

static void drop_capabilities(void)
{
	set_capabilities(wanted.capabilities.effective, wanted.capabilities.permitted,
			 wanted.capabilities.inheritable);
}

static void set_signals(void)
{
	sigset_t none;

	for (int signal_number = 1; signal_number < NSIG; signal_number++)
		signal(signal_number,
		       wanted.ignored >> (signal_number - 1) & 1 ? SIG_IGN : SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* An end of file, and no file of the host. */
static void set_input(void)
{
	int ends[2];

	if (pipe(ends) < 0 || dup2(ends[0], STDIN_FILENO) < 0)
		fail_errno("pipe");
}

/*
 * In the container, as a new process of it that nobody may look into until it is the program
 * (PR_SET_DUMPABLE).
 */
_Noreturn void confined_run(pid_t parent, const char *label, char **argv)
{
	uint64_t all = own_permitted();

	setsid();
	set_input();
	/* Keys of the agent's session. Where that is filtered there are none. */
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS &&
	    errno != EPERM)
		fail_errno("keyctl");
	write_own("self/oom_score_adj", wanted.oom_score_adj);
	if (label)
		set_label(label);
	for (int resource = 0; resource < RLIM_NLIMITS; resource++)
		if (setrlimit(resource, &wanted.limits[resource]) < 0)
			fail_errno("setrlimit");
	umask(wanted.mask);
	if (fchdir(wanted.root) < 0 || chroot(".") < 0 || fchdir(wanted.directory) < 0)
		fail_errno("chroot");
	if (syscall(SYS_close_range, 3U, ~0U, 0U) < 0)
		fail_errno("close_range");
	set_signals();

	set_ids();
	set_capabilities(all, all, wanted.capabilities.inheritable);
	set_ambient(wanted.capabilities.ambient);
	/* Other users and groups have reset it. */
	die_with_parent(parent);
	if (wanted.no_new_privs) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
			fail_errno("PR_SET_NO_NEW_PRIVS");
		drop_capabilities();
		filters_install(&wanted.filters);
	} else {
		/* Only CAP_SYS_ADMIN may install them. They let PID 1's runtime do the rest, too. */
		filters_install(&wanted.filters);
		drop_capabilities();
	}
	execvp(argv[0], argv);
	fail_errno(argv[0]);
}
