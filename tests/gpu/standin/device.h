/*
 * A node with GPUs, as a directory: what both stand-ins for NVIDIA's libraries read.
 *
 * The directory's path is in CHREK_STANDIN_NODE, else /run/standin-gpu. In it:
 *
 *   node.conf        driver 580.65.06
 *                    api 13000
 *                    persistence 1
 *                    gpu MINOR UUID BYTES COMPUTE-CAPABILITY MIG MODEL...
 *                    (MIG: 0, 1, or - where the chip knows none)
 *   fail             failures to inject, read at each call, one a line:
 *                      OPERATION ERROR [COUNT] [pid=N] [after] [failed]
 *                      hang OPERATION SECONDS [COUNT] [pid=N]
 *                    after: the operation is done, then the error is answered;
 *                    failed: the process is left in the state "failed";
 *                    pid: as the caller sees the process;
 *                    a hang without a count ends when its line is gone
 *   memory/MINOR/    device memory: a file per allocation, which its owner keeps open and
 *                    locked (flock), so that the file of a dead owner is known as such
 */
#ifndef STANDIN_DEVICE_H
#define STANDIN_DEVICE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { MOST_GPUS = 16, PATH_BYTES = 512 };

struct gpu {
	int minor;
	unsigned char raw[16];
	char uuid[48];
	uint64_t bytes;
	int major_capability;
	int minor_capability;
	int mig; /* -1: the chip knows none */
	char model[96];
};

struct node {
	char path[PATH_BYTES];
	char driver[32];
	int api;
	int persistence;
	int count;
	struct gpu gpus[MOST_GPUS]; /* by minor */
};

static inline const char *node_path(void)
{
	const char *path = getenv("CHREK_STANDIN_NODE");
	return path && *path ? path : "/run/standin-gpu";
}

static inline int parse_uuid(const char *text, unsigned char raw[16])
{
	int digits = 0;
	if (strncmp(text, "GPU-", 4) == 0)
		text += 4;
	for (; *text; text++) {
		int value;
		if (*text == '-')
			continue;
		if (*text >= '0' && *text <= '9')
			value = *text - '0';
		else if (*text >= 'a' && *text <= 'f')
			value = *text - 'a' + 10;
		else
			return -1;
		if (digits >= 32)
			return -1;
		raw[digits / 2] = (unsigned char)(digits % 2 ? raw[digits / 2] | value : value << 4);
		digits++;
	}
	return digits == 32 ? 0 : -1;
}

static inline int parse_gpu(const char *line, struct gpu *gpu)
{
	char mig[4];
	unsigned long long bytes;
	if (sscanf(line, "gpu %d %47s %llu %d.%d %3s %95[^\n]", &gpu->minor, gpu->uuid, &bytes,
			   &gpu->major_capability, &gpu->minor_capability, mig, gpu->model) != 7)
		return -1;
	gpu->bytes = bytes;
	gpu->mig = mig[0] == '-' ? -1 : mig[0] - '0';
	return parse_uuid(gpu->uuid, gpu->raw);
}

static inline int by_minor(const void *left, const void *right)
{
	return ((const struct gpu *)left)->minor - ((const struct gpu *)right)->minor;
}

/* Returns 0, or -1 when the node has no readable node.conf: no driver is loaded. */
static inline int node_read(struct node *node)
{
	char path[PATH_BYTES + 16], line[512];
	FILE *file;
	int bad = 0;
	memset(node, 0, sizeof *node);
	snprintf(node->path, sizeof node->path, "%s", node_path());
	snprintf(path, sizeof path, "%s/node.conf", node->path);
	node->persistence = 1;
	file = fopen(path, "re");
	if (!file)
		return -1;
	while (fgets(line, sizeof line, file)) {
		if (sscanf(line, "driver %31s", node->driver) == 1)
			continue;
		if (sscanf(line, "api %d", &node->api) == 1)
			continue;
		if (sscanf(line, "persistence %d", &node->persistence) == 1)
			continue;
		if (strncmp(line, "gpu ", 4) != 0)
			continue;
		if (node->count < MOST_GPUS && parse_gpu(line, &node->gpus[node->count]) == 0)
			node->count++;
		else
			bad = 1;
	}
	fclose(file);
	if (bad)
		fprintf(stderr, "standin: %s: a bad gpu line\n", path);
	qsort(node->gpus, (size_t)node->count, sizeof node->gpus[0], by_minor);
	return bad || !node->driver[0] ? -1 : 0;
}

static inline const struct gpu *node_find(const struct node *node, const unsigned char raw[16])
{
	for (int i = 0; i < node->count; i++)
		if (memcmp(node->gpus[i].raw, raw, 16) == 0)
			return &node->gpus[i];
	return NULL;
}

/* Bus and device differ between GPUs and mostly between nodes, as real ones do. */
static inline unsigned gpu_bus(const struct gpu *gpu)
{
	return 1u + (unsigned)gpu->minor;
}

static inline unsigned gpu_slot(const struct gpu *gpu)
{
	return gpu->raw[15] & 0x1fu;
}

/* ---- injected failures ---- */

struct injection {
	int error;
	int after;
	int failed;
	double hang_seconds;
	int counted;
};

struct failure_line {
	char operation[32];
	int count; /* -1: for ever */
	size_t count_at;
	size_t count_length;
	int pid; /* 0: any */
	struct injection injection;
};

static inline int parse_failure(const char *line, struct failure_line *out)
{
	char copy[256], *save = NULL, *word;
	int hang;
	memset(out, 0, sizeof *out);
	out->count = -1;
	snprintf(copy, sizeof copy, "%s", line);
	word = strtok_r(copy, " \t", &save);
	if (!word || *word == '#')
		return -1;
	hang = strcmp(word, "hang") == 0;
	if (hang && !(word = strtok_r(NULL, " \t", &save)))
		return -1;
	snprintf(out->operation, sizeof out->operation, "%s", word);
	if (!(word = strtok_r(NULL, " \t", &save)))
		return -1;
	if (hang)
		out->injection.hang_seconds = atof(word);
	else
		out->injection.error = atoi(word);
	while ((word = strtok_r(NULL, " \t", &save))) {
		if (strcmp(word, "after") == 0) {
			out->injection.after = 1;
		} else if (strcmp(word, "failed") == 0) {
			out->injection.failed = 1;
		} else if (strncmp(word, "pid=", 4) == 0) {
			out->pid = atoi(word + 4);
		} else {
			out->count = atoi(word);
			out->count_at = (size_t)(word - copy);
			out->count_length = strlen(word);
			out->injection.counted = 1;
		}
	}
	return 0;
}

/* Takes over what the line says of this call; 0 when it says nothing. */
static inline int failure_adds(const struct failure_line *line, const char *operation, int pid,
							   struct injection *found)
{
	if (strcmp(line->operation, operation) != 0 || (line->pid && line->pid != pid) || !line->count)
		return 0;
	if (line->injection.hang_seconds > 0 && found->hang_seconds == 0) {
		found->hang_seconds = line->injection.hang_seconds;
		found->counted = line->injection.counted;
		return 1;
	}
	if (line->injection.error && !found->error) {
		found->error = line->injection.error;
		found->after = line->injection.after;
		found->failed = line->injection.failed;
		return 1;
	}
	return 0;
}

/* What the lines say of this call; counts them down when `take`. */
static inline struct injection failures(const char *operation, int pid, int take)
{
	struct injection found;
	struct failure_line parsed;
	char path[PATH_BYTES + 16], text[8192], rest[sizeof text + 256], *line, *save = NULL;
	size_t used = 0;
	ssize_t got;
	int fd, counted = 0;
	memset(&found, 0, sizeof found);
	snprintf(path, sizeof path, "%s/fail", node_path());
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return found;
	flock(fd, LOCK_EX);
	got = read(fd, text, sizeof text - 1);
	text[got > 0 ? got : 0] = 0;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (parse_failure(line, &parsed) == 0 && failure_adds(&parsed, operation, pid, &found) &&
			parsed.count > 0) {
			counted = 1;
			if (parsed.count > 1)
				used += (size_t)snprintf(rest + used, sizeof rest - used, "%.*s%d%s\n",
										 (int)parsed.count_at, line, parsed.count - 1,
										 line + parsed.count_at + parsed.count_length);
			continue;
		}
		used += (size_t)snprintf(rest + used, sizeof rest - used, "%s\n", line);
	}
	if (take && counted &&
		(pwrite(fd, rest, used, 0) != (ssize_t)used || ftruncate(fd, (off_t)used) != 0))
		fprintf(stderr, "standin: cannot count down in %s: %s\n", path, strerror(errno));
	close(fd);
	return found;
}

static inline void sleep_seconds(double seconds)
{
	struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
	while (nanosleep(&left, &left) != 0 && errno == EINTR)
		;
}

/* What is to go wrong with this call; sleeps first where a hang is wished. */
static inline struct injection injected(const char *operation, int pid)
{
	struct injection found = failures(operation, pid, 1);
	for (double left = found.hang_seconds; left > 0; left -= 0.02) {
		sleep_seconds(left < 0.02 ? left : 0.02);
		if (!found.counted && failures(operation, pid, 0).hang_seconds == 0)
			break;
	}
	return found;
}

/* ---- device memory ---- */

/* Accounting and creation on one GPU are one step; the lock ends with the descriptor. */
static inline int memory_lock(const struct node *node, int minor)
{
	char path[PATH_BYTES + 48];
	int fd;
	snprintf(path, sizeof path, "%s/memory/%d", node->path, minor);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		flock(fd, LOCK_EX);
	return fd;
}

typedef void memory_seen(const struct stat *facts, void *data);

/* Bytes that living processes hold; removes files of the dead. Needs memory_lock. */
static inline uint64_t memory_used(const struct node *node, int minor, memory_seen *seen,
				   void *data)
{
	char path[PATH_BYTES + 48];
	uint64_t used = 0;
	struct dirent *entry;
	DIR *directory;
	snprintf(path, sizeof path, "%s/memory/%d", node->path, minor);
	directory = opendir(path);
	if (!directory)
		return 0;
	while ((entry = readdir(directory))) {
		struct stat facts;
		int fd;
		if (entry->d_name[0] == '.')
			continue;
		fd = openat(dirfd(directory), entry->d_name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
			unlinkat(dirfd(directory), entry->d_name, 0);
		} else if (fstat(fd, &facts) == 0) {
			used += (uint64_t)facts.st_size;
			if (seen)
				seen(&facts, data);
		}
		close(fd);
	}
	closedir(directory);
	return used;
}

#endif
