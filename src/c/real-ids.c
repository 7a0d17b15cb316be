/*
 * real-ids.so: preloaded into CRIU while it dumps.
 *
 * The kernel lets a process read another user's resource limits only with CAP_SYS_RESOURCE, which
 * some hosts keep from their containers, or when its real ids are that user's (prlimit(2)). CRIU
 * reads them of every task. This gives CRIU the real ids of what it dumps, CHREK_REAL_IDS=UID:GID;
 * by its effective ones it stays root.
 *
 * libnftables, which CRIU asks for the kernel's features, ends a process whose real and effective
 * user ids differ, because it must not run set-user-ID. CRIU is no set-user-ID program here, and
 * nobody but the agent talks to it, so getuid() tells the effective one.
 *
 * Preloaded, and not set before CRIU is executed: the loader takes no preloads then.
 */
typedef unsigned int id_type;

extern char *getenv(const char *name);
extern unsigned long strtoul(const char *text, char **end, int base);
extern int setresgid(id_type real, id_type effective, id_type saved);
extern int setresuid(id_type real, id_type effective, id_type saved);
extern id_type geteuid(void);
extern _Noreturn void _exit(int status);
id_type getuid(void);

#define KEEP ((id_type)-1)

id_type getuid(void)
{
	return geteuid();
}

__attribute__((constructor)) static void set_real_ids(void)
{
	const char *ids = getenv("CHREK_REAL_IDS");
	unsigned long uid, gid;
	char *end;

	if (!ids)
		return;
	uid = strtoul(ids, &end, 10);
	if (*end != ':')
		_exit(111);
	gid = strtoul(end + 1, &end, 10);
	if (*end || setresgid((id_type)gid, KEEP, KEEP) < 0 ||
	    setresuid((id_type)uid, KEEP, KEEP) < 0)
		_exit(111);
}
