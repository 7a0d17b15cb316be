/*
 * cuCheckpointProcess*: the calls of whoever checkpoints other processes.
 *
 * They reach the process by its control block, which they find among its descriptors, so a PID of
 * the caller's namespace is enough. One caller at a time: flock on the block, which the kernel
 * gives back when a caller dies.
 */
#include "worker.h"

#include <ctype.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

typedef struct {
	unsigned int timeoutMs;
	unsigned int reserved0;
	uint64_t reserved1[7];
} CUcheckpointLockArgs;

typedef struct {
	void **customStorageInfo_out;
	char reserved[56];
} CUcheckpointCheckpointArgs;

typedef struct {
	struct pair *gpuPairs;
	unsigned int gpuPairsCount;
	unsigned int padding0;
	void **customStorageInfo_out;
	char reserved[40];
} CUcheckpointRestoreArgs;

typedef struct {
	uint64_t reserved[8];
} CUcheckpointUnlockArgs;

struct target {
	int pid;
	int alive; /* pidfd */
	int block;
	struct control *control;
};

static int innermost_pid(const char *status_path)
{
	char line[256];
	int pid = 0;
	FILE *file = fopen(status_path, "re");
	while (file && fgets(line, sizeof line, file))
		if (strncmp(line, "NSpid:", 6) == 0) {
			char *word = strrchr(line, '\t');
			pid = word ? atoi(word) : 0;
		}
	if (file)
		fclose(file);
	return pid;
}

static int open_block(int pid)
{
	char path[320], link[64];
	struct dirent *entry;
	DIR *directory;
	int fd = -1;
	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	directory = opendir(path);
	while (directory && fd < 0 && (entry = readdir(directory))) {
		ssize_t length;
		snprintf(path, sizeof path, "/proc/%d/fd/%s", pid, entry->d_name);
		length = readlink(path, link, sizeof link - 1);
		if (length < 0)
			continue;
		link[length] = 0;
		if (strncmp(link, "/memfd:" CONTROL_NAME " ", sizeof "/memfd:" CONTROL_NAME) == 0)
			fd = open(path, O_RDWR | O_CLOEXEC);
	}
	if (directory)
		closedir(directory);
	return fd;
}

static void target_close(struct target *target)
{
	if (target->control)
		munmap(target->control, sizeof *target->control);
	if (target->block >= 0)
		close(target->block);
	if (target->alive >= 0)
		close(target->alive);
}

/* Finds the CUDA state of a process; INVALID_VALUE when it has none. */
static CUresult target_open(int pid, struct target *target)
{
	char path[64];
	struct stat facts;
    *target = (struct target){.pid = pid, .alive = -1, .block = -1};
	target->alive = (int)syscall(SYS_pidfd_open, pid, 0);
	if (target->alive < 0)
		return CUDA_ERROR_INVALID_VALUE;
	target->block = open_block(pid);
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	if (target->block >= 0 && fstat(target->block, &facts) == 0 &&
		facts.st_size >= (off_t)sizeof *target->control) {
		target->control = mmap(NULL, sizeof *target->control, PROT_READ | PROT_WRITE, MAP_SHARED,
							   target->block, 0);
		if (target->control == MAP_FAILED)
			target->control = NULL;
	}
	if (target->control && target->control->magic == CONTROL_MAGIC &&
		target->control->pid == innermost_pid(path))
		return CUDA_SUCCESS;
	target_close(target);
	return CUDA_ERROR_INVALID_VALUE;
}

static int has_died(const struct target *target)
{
	struct pollfd poller = {.fd = target->alive, .events = POLLIN};
	return poll(&poller, 1, 0) != 0;
}

/* Waits until the owner is done; the deadline is for it to begin, 0: none. */
static CUresult wait_done(const struct target *target, double deadline)
{
	struct control *control = target->control;
	uint32_t phase;
	while ((phase = control->phase) != DONE) {
		uint32_t asked = ASKED;
		if (has_died(target))
			return CUDA_ERROR_OPERATING_SYSTEM;
		/* The owner is stopped or frozen: what it has not begun can be taken back. */
		if (deadline && now_seconds() >= deadline && phase == ASKED &&
			atomic_compare_exchange_strong(&control->phase, &asked, IDLE))
			return CUDA_ERROR_NOT_READY;
		futex_wait(&control->phase, phase, 50);
	}
	control->phase = IDLE;
	return control->result;
}

/* Leaves no request of a caller that died behind; what the owner has begun is waited for. */
static CUresult settle(const struct target *target, double deadline)
{
	struct control *control = target->control;
	uint32_t phase = ASKED;
	atomic_compare_exchange_strong(&control->phase, &phase, IDLE);
	while ((phase = control->phase) == TAKEN) {
		if (has_died(target))
			return CUDA_ERROR_OPERATING_SYSTEM;
		if (deadline && now_seconds() >= deadline)
			return CUDA_ERROR_NOT_READY;
		futex_wait(&control->phase, phase, 50);
	}
	control->phase = IDLE;
	return CUDA_SUCCESS;
}

static CUresult ask(const struct target *target, uint32_t operation, double deadline)
{
	target->control->operation = operation;
	target->control->phase = ASKED;
	futex_wake(&target->control->phase);
	return wait_done(target, deadline);
}

static CUresult perform(const struct target *target, uint32_t operation, double deadline,
						const char *name)
{
	struct injection injection = injected(name, target->pid);
	CUresult result;
	if (!injection.error || injection.after) {
		result = ask(target, operation, deadline);
		if (result != CUDA_SUCCESS || !injection.error)
			return result;
	}
	if (injection.failed)
		ask(target, FAIL, 0);
	return injection.error;
}

static int is_zero(const void *bytes, size_t size)
{
	const unsigned char *each = bytes;
	while (size && !*each)
		each++, size--;
	return !size;
}

/* Before every call: the driver of the node knows it, and the caller has initialised CUDA. */
static CUresult allowed(struct node *node)
{
	if (!worker_initialised())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (node_read(node) != 0)
		return CUDA_ERROR_UNKNOWN;
	return node->api >= API_CHECKPOINT ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult begin(int pid, double deadline, struct node *node, struct target *target)
{
	CUresult result = allowed(node);
	if (result == CUDA_SUCCESS)
		result = target_open(pid, target);
	if (result != CUDA_SUCCESS)
		return result;
	flock(target->block, LOCK_EX);
	result = settle(target, deadline);
	if (result != CUDA_SUCCESS)
		target_close(target);
	return result;
}

EXPORT CUresult cuCheckpointProcessGetRestoreThreadId(int pid, int *tid)
{
	struct node node;
	struct target target;
	struct injection injection;
	char path[320];
	struct dirent *entry;
	DIR *directory;
	CUresult result = allowed(&node);
	if (result != CUDA_SUCCESS)
		return result;
	if (!tid)
		return CUDA_ERROR_INVALID_VALUE;
	injection = injected("thread", pid);
	if (injection.error)
		return injection.error;
	result = target_open(pid, &target);
	if (result != CUDA_SUCCESS)
		return result;
	result = CUDA_ERROR_OPERATING_SYSTEM;
	snprintf(path, sizeof path, "/proc/%d/task", pid);
	directory = opendir(path);
	while (directory && (entry = readdir(directory))) {
		snprintf(path, sizeof path, "/proc/%d/task/%s/status", pid, entry->d_name);
		if (isdigit((unsigned char)*entry->d_name) && innermost_pid(path) == target.control->tid) {
            *tid = atoi(entry->d_name);
			result = CUDA_SUCCESS;
		}
	}
	if (directory)
		closedir(directory);
	target_close(&target);
	return result;
}

/* "Running" also of a process that has no CUDA state, as the driver answers of it. */
EXPORT CUresult cuCheckpointProcessGetState(int pid, int *state)
{
	struct node node;
	struct target target;
	struct injection injection;
	CUresult result = allowed(&node);
	if (result != CUDA_SUCCESS)
		return result;
	if (!state || pid <= 0 || (kill(pid, 0) != 0 && errno == ESRCH))
		return CUDA_ERROR_INVALID_VALUE;
	injection = injected("state", pid);
	if (injection.error)
		return injection.error;
    *state = RUNNING;
	if (target_open(pid, &target) == CUDA_SUCCESS) {
        *state = (int)target.control->state;
		target_close(&target);
	}
	return CUDA_SUCCESS;
}

EXPORT CUresult cuCheckpointProcessLock(int pid, CUcheckpointLockArgs *args)
{
	struct node node;
	struct target target;
	unsigned int timeout = args ? args->timeoutMs : 0;
	double deadline = timeout ? now_seconds() + timeout / 1e3 : 0;
	CUresult result;
	if (args && (args->reserved0 || !is_zero(args->reserved1, sizeof args->reserved1)))
		return CUDA_ERROR_INVALID_VALUE;
	result = begin(pid, deadline, &node, &target);
	if (result != CUDA_SUCCESS)
		return result;
	target.control->timeout_ms = timeout;
	result = perform(&target, LOCK, deadline, "lock");
	target_close(&target);
	return result;
}

EXPORT CUresult cuCheckpointProcessCheckpoint(int pid, CUcheckpointCheckpointArgs *args)
{
	struct node node;
	struct target target;
	CUresult result;
	if (args && !is_zero(args->reserved, sizeof args->reserved))
		return CUDA_ERROR_INVALID_VALUE;
	if (args && args->customStorageInfo_out)
		return CUDA_ERROR_NOT_SUPPORTED;
	result = begin(pid, 0, &node, &target);
	if (result != CUDA_SUCCESS)
		return result;
	target.control->known = (uint32_t)node.count;
	for (int i = 0; i < node.count; i++)
		memcpy(target.control->all[i], node.gpus[i].raw, 16);
	result = perform(&target, CHECKPOINT, 0, "checkpoint");
	target_close(&target);
	return result;
}

/* The pairs must be a bijection of all GPUs of the old node onto all GPUs of this one. */
static int is_bijection(const struct control *control, const struct node *node,
						const struct pair *pairs, unsigned int count)
{
	if (count != control->known || count != (unsigned int)node->count)
		return 0;
	for (unsigned int i = 0; i < count; i++) {
		uint32_t known = 0;
		while (known < control->known && memcmp(control->all[known], pairs[i].old, 16) != 0)
			known++;
		if (known == control->known || !node_find(node, pairs[i].new))
			return 0;
		for (unsigned int other = 0; other < i; other++)
			if (memcmp(pairs[i].old, pairs[other].old, 16) == 0 ||
				memcmp(pairs[i].new, pairs[other].new, 16) == 0)
				return 0;
	}
	return 1;
}

EXPORT CUresult cuCheckpointProcessRestore(int pid, CUcheckpointRestoreArgs *args)
{
	struct node node;
	struct target target;
	unsigned int count = args ? args->gpuPairsCount : 0;
	CUresult result;
	if (args && (!is_zero(args->reserved, sizeof args->reserved) || (count && !args->gpuPairs)))
		return CUDA_ERROR_INVALID_VALUE;
	if (args && args->customStorageInfo_out)
		return CUDA_ERROR_NOT_SUPPORTED;
	result = begin(pid, 0, &node, &target);
	if (result != CUDA_SUCCESS)
		return result;
	if (target.control->state != CHECKPOINTED)
		result = CUDA_ERROR_ILLEGAL_STATE;
	/* To an older driver the pairs are reserved bytes, which must be zero. */
	else if (count && (node.api < API_GPU_PAIRS ||
					   !is_bijection(target.control, &node, args->gpuPairs, count)))
		result = CUDA_ERROR_INVALID_VALUE;
	if (result == CUDA_SUCCESS) {
		target.control->pairs = count;
		if (count)
			memcpy(target.control->pair, args->gpuPairs, count * sizeof *args->gpuPairs);
		result = perform(&target, RESTORE, 0, "restore");
	}
	target_close(&target);
	return result;
}

EXPORT CUresult cuCheckpointProcessUnlock(int pid, CUcheckpointUnlockArgs *args)
{
	struct node node;
	struct target target;
	CUresult result;
	if (args && !is_zero(args, sizeof *args))
		return CUDA_ERROR_INVALID_VALUE;
	result = begin(pid, 0, &node, &target);
	if (result != CUDA_SUCCESS)
		return result;
	result = perform(&target, UNLOCK, 0, "unlock");
	target_close(&target);
	return result;
}
