/* Declarations shared by the files of chrek-enter; chrek-enter.c says what the program is. */
#ifndef CHREK_ENTER_H
#define CHREK_ENTER_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* chrek-enter.c: ends the program with "chrek-enter: <what>: <why>". */
_Noreturn void fail(const char *what, const char *why);
_Noreturn void fail_errno(const char *what);
void die_with_parent(pid_t parent);

/* filters.c: seccomp filters. The kernel's own limit for all of a process bounds them. */
enum { MOST_INSTRUCTIONS = 32768 };

/*
 * u32 number of filters, oldest first, then for each u32 number of instructions and those
 * instructions (struct sock_filter, 8 bytes), all in the machine's byte order, little-endian.
 */
struct filters {
	uint8_t bytes[sizeof(uint32_t) + MOST_INSTRUCTIONS * sizeof(struct sock_filter)];
	size_t used;
};

void filters_read(pid_t pid, struct filters *filters);
uint32_t filters_count(const struct filters *filters);
void filters_install(const struct filters *filters);

/* confine.c: no more privilege than another process has. */
void confinement_read(int pidfd);
_Noreturn void confined_run(pid_t parent, const char *label, char **argv);

#endif
