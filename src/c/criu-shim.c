/*
 * criu-shim.so: preloaded into CRIU, for what only a process of CRIU's own can do.
 *
 * CHREK_REAL_IDS=UID:GID, while it dumps. The kernel lets a process read another user's resource
 * limits only with CAP_SYS_RESOURCE, which some hosts keep from their containers, or when its real
 * ids are that user's (prlimit(2)). CRIU reads them of every task. This gives CRIU the real ids of
 * what it dumps; by its effective ones it stays root.
 *
 * libnftables, which CRIU asks for the kernel's features, ends a process whose real and effective
 * user ids differ, because it must not run set-user-ID. CRIU is no set-user-ID program here, and
 * nobody but the agent talks to it, so getuid() tells the effective one.
 *
 * CHREK_SUBREAPER=PID, while it restores. A daemon whose session's leader is gone is restored as a
 * child of a stand-in for that leader, which then ends (prepare_pstree_ids in criu/pstree.c). Its
 * children must fall to the tree's root, as they had, and not to the container's PID 1; but CRIU
 * makes the root a subreaper only at the end. This does it when the root begins its session, which
 * is before it has children.
 *
 * CRIU asks the kernel for its features with the help of directories in /tmp. Where the container's
 * root cannot be written, /dev/shm serves as well: every container has one.
 *
 * Preloaded, and not set before CRIU is executed: the loader takes no preloads then.
 */
typedef unsigned int id_type;

extern char *getenv(const char *name);
extern unsigned long strtoul(const char *text, char **end, int base);
extern int setresgid(id_type real, id_type effective, id_type saved);
extern int setresuid(id_type real, id_type effective, id_type saved);
extern id_type geteuid(void);
extern int getpid(void);
extern int prctl(int option, ...);
extern long syscall(long number, ...);
extern void *dlsym(void *handle, const char *name);
extern unsigned long strlen(const char *text);
extern char *strcpy(char *to, const char *from);
extern _Noreturn void _exit(int status);
id_type getuid(void);
int setsid(void);
char *mkdtemp(char *template);

#define NEXT ((void *)-1L)	/* RTLD_NEXT of <dlfcn.h> */
#define ELSEWHERE "/dev/shm/.criu.XXXXXX"

enum {
	KEEP = -1,
	SET_CHILD_SUBREAPER = 36,	/* of <sys/prctl.h> */
	WRONG_ENVIRONMENT = 111,
};

#if defined(__x86_64__)
enum { SETSID = 112 };
#else
enum { SETSID = 157 };	/* the kernel's generic table */
#endif

static int subreaper;

id_type getuid(void)
{
	return geteuid();
}

int setsid(void)
{
	long session = syscall(SETSID);

	if (session >= 0 && subreaper && getpid() == subreaper &&
	    prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return -1;
	return (int)session;
}

char *mkdtemp(char *template)
{
	char *(*next)(char *) = (char *(*)(char *))dlsym(NEXT, "mkdtemp");
	char *made = next ? next(template) : 0;

	/* The caller's own buffer, which keeps the name: a shorter one fits. */
	if (!made && next && strlen(template) >= strlen(ELSEWHERE))
		made = next(strcpy(template, ELSEWHERE));
	return made;
}

static unsigned long number(const char *text, char **end)
{
	unsigned long value = strtoul(text, end, 10);

	if (*end == text)
		_exit(WRONG_ENVIRONMENT);
	return value;
}

static void set_real_ids(const char *ids)
{
	char *end;
	unsigned long uid = number(ids, &end), gid;

	if (*end != ':')
		_exit(WRONG_ENVIRONMENT);
	gid = number(end + 1, &end);
	if (*end || setresgid((id_type)gid, (id_type)KEEP, (id_type)KEEP) < 0 ||
	    setresuid((id_type)uid, (id_type)KEEP, (id_type)KEEP) < 0)
		_exit(WRONG_ENVIRONMENT);
}

__attribute__((constructor)) static void start(void)
{
	const char *ids = getenv("CHREK_REAL_IDS");
	const char *root = getenv("CHREK_SUBREAPER");
	char *end;

	if (root) {
		subreaper = (int)number(root, &end);
		if (*end)
			_exit(WRONG_ENVIRONMENT);
	}
	if (ids)
		set_real_ids(ids);
}
