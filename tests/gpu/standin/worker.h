/*
 * The part of the stand-in that lives in a process with CUDA state: its GPUs, its device memory,
 * and the control block, a memfd that callers of the checkpoint API open through /proc/PID/fd.
 *
 * The control block and the thread that serves it need neither paths nor sockets, so that they
 * work across namespaces and after CRIU has restored the process. All words are in shared memory
 * and waits are futexes.
 */
#ifndef STANDIN_WORKER_H
#define STANDIN_WORKER_H

#include <stdatomic.h>
#include <stddef.h>

#include "device.h"

typedef int CUresult;
enum {
	CUDA_SUCCESS = 0,
	CUDA_ERROR_INVALID_VALUE = 1,
	CUDA_ERROR_OUT_OF_MEMORY = 2,
	CUDA_ERROR_NOT_INITIALIZED = 3,
	CUDA_ERROR_NO_DEVICE = 100,
	CUDA_ERROR_INVALID_DEVICE = 101,
	CUDA_ERROR_INVALID_CONTEXT = 201,
	CUDA_ERROR_OPERATING_SYSTEM = 304,
	CUDA_ERROR_ILLEGAL_STATE = 401,
	CUDA_ERROR_NOT_FOUND = 500,
	CUDA_ERROR_NOT_READY = 600,
	CUDA_ERROR_NOT_PERMITTED = 800,
	CUDA_ERROR_NOT_SUPPORTED = 801,
	CUDA_ERROR_UNKNOWN = 999,
};

enum { RUNNING, LOCKED, CHECKPOINTED, FAILED };          /* CUprocessState */
enum { IDLE, ASKED, TAKEN, DONE };                       /* of a request */
enum { LOCK, CHECKPOINT, RESTORE, UNLOCK, FAIL };        /* requests */
enum { API_CHECKPOINT = 12080, API_GPU_PAIRS = 13000 }; /* drivers that brought them */
enum { DRIVER_WITH_IPC = 610 };

#define CONTROL_NAME "standin-cuda"
#define CONTROL_MAGIC 0x41445543u

struct pair {
	unsigned char old[16];
	unsigned char new[16];
};

struct control {
	uint32_t magic;
	int32_t pid; /* of the owner, in its own PID namespace: a forked child shares the block */
	_Atomic int32_t tid; /* of the thread that serves requests, likewise */
	_Atomic uint32_t state;
	_Atomic uint32_t closed; /* API calls wait while it is 1 */
	_Atomic uint32_t calls;  /* API calls in progress */
	_Atomic uint32_t phase;
	uint32_t operation;
	uint32_t timeout_ms; /* of a lock; 0: none */
	int32_t result;
	uint32_t known; /* GPUs of the node of the checkpoint, by its caller */
	unsigned char all[MOST_GPUS][16];
	uint32_t pairs;
	struct pair pair[MOST_GPUS];
};

/* Waits while the word has the value; milliseconds < 0: for ever. */
void futex_wait(_Atomic uint32_t *word, uint32_t value, long milliseconds);
void futex_wake(_Atomic uint32_t *word);
double now_seconds(void);

struct device {
	struct gpu gpu;
	int fd; /* its /dev/nvidiaN, -1: none */
	int retained;
};

struct allocation {
	struct allocation *next;
	unsigned char *address;
	size_t bytes;
	int device;
	int managed;
	int shared;
	int fd; /* of the file that is the memory; -1 while checkpointed */
	char name[32];
	unsigned char *copy; /* in host memory while checkpointed */
	struct pair_file {
		int fd;
		char name[32];
	} ready; /* on the new GPU, while a restore is made */
};

struct worker {
	struct control *control;
	int devices;
	struct device device[MOST_GPUS];
};

extern struct worker worker;

CUresult worker_init(void);
int worker_initialised(void);
/* Between enter and leave a lock waits for the call; enter blocks while the process is locked. */
CUresult worker_enter(const char *operation);
void worker_leave(void);

CUresult memory_allocate(int device, size_t bytes, int managed, unsigned char **address);
CUresult memory_free(const unsigned char *address);
/* The allocation that holds the whole range, or NULL. */
struct allocation *memory_find(const unsigned char *address, size_t bytes);
CUresult memory_info(int device, uint64_t *free_bytes, uint64_t *total);

#endif
