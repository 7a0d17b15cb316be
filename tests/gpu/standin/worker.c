/* The process with CUDA state: device memory, and the thread that serves the checkpoint API. */
#include "worker.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

struct worker worker;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct allocation *allocations;
static int extra[2] = {-1, -1}; /* /dev/nvidiactl, /dev/nvidia-uvm */
static int forked;              /* a child of an initialised process has no CUDA */

void futex_wait(_Atomic uint32_t *word, uint32_t value, long milliseconds)
{
	struct timespec limit = {milliseconds / 1000, milliseconds % 1000 * 1000000};
	/* Not FUTEX_PRIVATE: callers are other processes. */
	syscall(SYS_futex, word, FUTEX_WAIT, value, milliseconds < 0 ? NULL : &limit, NULL, 0);
}

void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

double now_seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- the gate of API calls ---- */

int worker_initialised(void)
{
	return worker.control && !forked;
}

CUresult worker_enter(const char *operation)
{
	struct control *control = worker.control;
	struct injection injection;
	if (!worker_initialised())
		return CUDA_ERROR_NOT_INITIALIZED;
	for (;;) {
		while (control->closed) {
			if (control->state == FAILED)
				return CUDA_ERROR_UNKNOWN;
			futex_wait(&control->closed, 1, -1);
		}
		control->calls++;
		if (!control->closed)
			break;
		worker_leave();
	}
	if (!operation)
		return CUDA_SUCCESS;
	injection = injected(operation, getpid());
	if (injection.error)
		worker_leave();
	return injection.error;
}

void worker_leave(void)
{
	if (--worker.control->calls == 0)
		futex_wake(&worker.control->calls);
}

static void open_gate(struct control *control)
{
	control->closed = 0;
	futex_wake(&control->closed);
}

/* ---- files of the node ---- */

static int open_file(const char *name, int number)
{
	char path[64];
	snprintf(path, sizeof path, number < 0 ? "/dev/%s" : "/dev/%s%d", name, number);
	return open(path, O_RDWR | O_CLOEXEC);
}

static void close_file(int *fd)
{
	if (*fd >= 0)
		close(*fd);
    *fd = -1;
}

static int has_device_files(void)
{
	struct dirent *entry;
	DIR *directory = opendir("/dev");
	int found = 0, number;
	char end;
	while (directory && !found && (entry = readdir(directory)))
		found = sscanf(entry->d_name, "nvidia%d%c", &number, &end) == 1;
	if (directory)
		closedir(directory);
	return found;
}

static void open_common_files(void)
{
	extra[0] = open_file("nvidiactl", -1);
	extra[1] = open_file("nvidia-uvm", -1);
}

static void close_files(void)
{
	close_file(&extra[0]);
	close_file(&extra[1]);
	for (int i = 0; i < worker.devices; i++)
		close_file(&worker.device[i].fd);
}

/* CUDA_VISIBLE_DEVICES: ordinals or UUIDs; what follows the first unknown one is not seen. */
static int visible(struct device *devices, int count)
{
	const char *wish = getenv("CUDA_VISIBLE_DEVICES");
	struct device chosen[MOST_GPUS];
	char copy[1024], *word, *save = NULL;
	int found = 0;
	if (!wish)
		return count;
	snprintf(copy, sizeof copy, "%s", wish);
	for (word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		int i;
		for (i = 0; i < count; i++)
			if (strncmp(word, "GPU-", 4) == 0 ? strcmp(word, devices[i].gpu.uuid) == 0
											  : *word >= '0' && *word <= '9' && atoi(word) == i)
				break;
		if (i == count || found == MOST_GPUS)
			break;
		chosen[found++] = devices[i];
		devices[i].fd = -1;
	}
	for (int i = 0; i < count; i++)
		close_file(&devices[i].fd);
	memcpy(devices, chosen, sizeof chosen[0] * (size_t)found);
	return found;
}

static CUresult find_devices(void)
{
	struct node node;
	int filter = has_device_files();
	if (node_read(&node) != 0)
		return CUDA_ERROR_NO_DEVICE;
	worker.devices = 0;
	for (int i = 0; i < node.count; i++) {
		int fd = open_file("nvidia", node.gpus[i].minor);
		if (fd < 0 && filter)
			continue;
		worker.device[worker.devices].gpu = node.gpus[i];
		worker.device[worker.devices].retained = 0;
		worker.device[worker.devices++].fd = fd;
	}
	worker.devices = visible(worker.device, worker.devices);
	if (!worker.devices)
		return CUDA_ERROR_NO_DEVICE;
	open_common_files();
	return CUDA_SUCCESS;
}

/* ---- device memory ---- */

static void file_path(const struct node *node, int minor, const char *name, char *path, size_t size)
{
	snprintf(path, size, "%s/memory/%d/%s", node->path, minor, name);
}

static void remove_file(int minor, const char *name)
{
	struct node node;
	char path[PATH_BYTES + 64];
	snprintf(node.path, sizeof node.path, "%s", node_path());
	file_path(&node, minor, name, path, sizeof path);
	unlink(path);
}

/* Makes the file that is an allocation on this GPU, if it has room. Returns its descriptor. */
static CUresult create_file(const struct node *node, const struct gpu *gpu, size_t bytes,
							int *created, char name[32])
{
	char path[PATH_BYTES + 64];
	CUresult result = CUDA_ERROR_OPERATING_SYSTEM;
	int fd, lock = memory_lock(node, gpu->minor);
	if (lock < 0)
		return result;
	if (memory_used(node, gpu->minor, NULL, NULL) + bytes > gpu->bytes) {
		close(lock);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	file_path(node, gpu->minor, "allocation-XXXXXX", path, sizeof path);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0) {
		snprintf(name, 32, "%s", strrchr(path, '/') + 1);
		/* Workers of any user look at all files. */
		if (flock(fd, LOCK_SH) == 0 && ftruncate(fd, (off_t)bytes) == 0 &&
		    fchmod(fd, 0666) == 0) {
			result = CUDA_SUCCESS;
            *created = fd;
		} else {
			unlink(path);
			close(fd);
		}
	}
	close(lock);
	return result;
}

static int map_file(int fd, unsigned char **address, size_t bytes)
{
	int fixed = *address ? MAP_FIXED : 0;
	void *mapped = mmap(*address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | fixed, fd, 0);
	if (mapped == MAP_FAILED)
		return -1;
    *address = mapped;
	/* A forked child does not have its parent's device memory. */
	madvise(mapped, bytes, MADV_DONTFORK);
	return 0;
}

static size_t whole_pages(size_t bytes)
{
	return (bytes + 4095) & ~(size_t)4095;
}

CUresult memory_allocate(int device, size_t bytes, int managed, unsigned char **address)
{
	struct node node;
	struct allocation *made;
	CUresult result;
	if (!bytes)
		return CUDA_ERROR_INVALID_VALUE;
	if (node_read(&node) != 0)
		return CUDA_ERROR_UNKNOWN;
	made = calloc(1, sizeof *made);
	if (!made)
		return CUDA_ERROR_OUT_OF_MEMORY;
	made->bytes = whole_pages(bytes);
	made->device = device;
	made->managed = managed;
	result = create_file(&node, &worker.device[device].gpu, made->bytes, &made->fd, made->name);
	if (result == CUDA_SUCCESS && map_file(made->fd, &made->address, made->bytes) != 0) {
		remove_file(worker.device[device].gpu.minor, made->name);
		close(made->fd);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	if (result != CUDA_SUCCESS) {
		free(made);
		return result;
	}
    *address = made->address;
	pthread_mutex_lock(&mutex);
	made->next = allocations;
	allocations = made;
	pthread_mutex_unlock(&mutex);
	return CUDA_SUCCESS;
}

CUresult memory_free(const unsigned char *address)
{
	struct allocation **link, *gone = NULL;
	pthread_mutex_lock(&mutex);
	for (link = &allocations; *link && !gone; link = *link ? &(*link)->next : link)
		if ((*link)->address == address) {
			gone = *link;
            *link = gone->next;
			break;
		}
	pthread_mutex_unlock(&mutex);
	if (!gone)
		return CUDA_ERROR_INVALID_VALUE;
	remove_file(worker.device[gone->device].gpu.minor, gone->name);
	munmap(gone->address, gone->bytes);
	close(gone->fd);
	free(gone);
	return CUDA_SUCCESS;
}

struct allocation *memory_find(const unsigned char *address, size_t bytes)
{
	struct allocation *found;
	pthread_mutex_lock(&mutex);
	for (found = allocations; found; found = found->next)
		if (address >= found->address && bytes <= found->bytes &&
			address - found->address <= (ptrdiff_t)(found->bytes - bytes))
			break;
	pthread_mutex_unlock(&mutex);
	return found;
}

CUresult memory_info(int device, uint64_t *free_bytes, uint64_t *total)
{
	const struct gpu *gpu = &worker.device[device].gpu;
	struct node node;
	uint64_t used;
	int lock;
	snprintf(node.path, sizeof node.path, "%s", node_path());
	lock = memory_lock(&node, gpu->minor);
	used = memory_used(&node, gpu->minor, NULL, NULL);
	if (lock >= 0)
		close(lock);
    *total = gpu->bytes;
    *free_bytes = used < gpu->bytes ? gpu->bytes - used : 0;
	return CUDA_SUCCESS;
}

/* ---- checkpoint ---- */

/* Holes stay holes: a GPU's gigabytes that nobody wrote cost nothing. */
static int read_file(int fd, unsigned char *to, size_t bytes)
{
	off_t start = 0, end;
	while ((start = lseek(fd, start, SEEK_DATA)) >= 0 && start < (off_t)bytes) {
		end = lseek(fd, start, SEEK_HOLE);
		while (start < end) {
			ssize_t got = pread(fd, to + start, (size_t)(end - start), start);
			if (got <= 0)
				return -1;
			start += got;
		}
	}
	return 0;
}

static CUresult checkpoint(void)
{
	struct node node;
	struct allocation *each;
	if (node_read(&node) != 0)
		return CUDA_ERROR_UNKNOWN;
	for (each = allocations; each; each = each->next)
		if (each->managed || (each->shared && atoi(node.driver) < DRIVER_WITH_IPC))
			return CUDA_ERROR_NOT_SUPPORTED;
	for (each = allocations; each; each = each->next) {
		each->copy = mmap(NULL, each->bytes, PROT_READ | PROT_WRITE,
						  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (each->copy != MAP_FAILED && read_file(each->fd, each->copy, each->bytes) == 0)
			continue;
		for (struct allocation *undo = allocations; undo != each->next; undo = undo->next) {
			if (undo->copy != MAP_FAILED)
				munmap(undo->copy, undo->bytes);
			undo->copy = NULL;
		}
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	for (each = allocations; each; each = each->next) {
		/* The addresses stay taken: after the restore the memory is there again. */
		mmap(each->address, each->bytes, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
		remove_file(worker.device[each->device].gpu.minor, each->name);
		close_file(&each->fd);
	}
	close_files();
	return CUDA_SUCCESS;
}

/* ---- restore ---- */

static const unsigned char *mapped(const struct control *control, const unsigned char old[16])
{
	for (uint32_t i = 0; i < control->pairs; i++)
		if (memcmp(control->pair[i].old, old, 16) == 0)
			return control->pair[i].new;
	return control->pairs ? NULL : old;
}

static CUresult find_new_gpus(const struct control *control, const struct node *node,
							  struct device next[MOST_GPUS])
{
	int filter = has_device_files();
	for (int i = 0; i < worker.devices; i++) {
		const struct gpu *old = &worker.device[i].gpu, *new;
		const unsigned char *uuid = mapped(control, old->raw);
		new = uuid ? node_find(node, uuid) : NULL;
		if (!new || strcmp(new->model, old->model) != 0)
			return CUDA_ERROR_INVALID_VALUE;
		next[i] = worker.device[i];
		next[i].gpu = *new;
		next[i].fd = open_file("nvidia", new->minor);
		if (next[i].fd < 0 && filter)
			return CUDA_ERROR_OPERATING_SYSTEM;
	}
	return CUDA_SUCCESS;
}

static int is_zero(const unsigned char *page)
{
	return page[0] == 0 && memcmp(page, page + 1, 4095) == 0;
}

static int write_file(int fd, const unsigned char *from, size_t bytes)
{
	for (size_t at = 0; at < bytes; at += 4096)
		if (!is_zero(from + at) && pwrite(fd, from + at, 4096, (off_t)at) != 4096)
			return -1;
	return 0;
}

static CUresult fill_new_files(const struct node *node, const struct device next[MOST_GPUS])
{
	for (struct allocation *each = allocations; each; each = each->next) {
		CUresult result = create_file(node, &next[each->device].gpu, each->bytes, &each->ready.fd,
									  each->ready.name);
		if (result != CUDA_SUCCESS)
			return result;
		if (write_file(each->ready.fd, each->copy, each->bytes) != 0)
			return CUDA_ERROR_OUT_OF_MEMORY;
	}
	return CUDA_SUCCESS;
}

static CUresult restore(const struct control *control)
{
	struct device next[MOST_GPUS];
	struct allocation *each;
	struct node node;
	CUresult result;
	for (int i = 0; i < MOST_GPUS; i++)
		next[i].fd = -1;
	for (each = allocations; each; each = each->next)
		each->ready.fd = -1;
	if (node_read(&node) != 0)
		return CUDA_ERROR_NO_DEVICE;
	result = find_new_gpus(control, &node, next);
	if (result == CUDA_SUCCESS)
		result = fill_new_files(&node, next);
	if (result != CUDA_SUCCESS) {
		for (each = allocations; each; each = each->next)
			if (each->ready.fd >= 0) {
				remove_file(next[each->device].gpu.minor, each->ready.name);
				close_file(&each->ready.fd);
			}
		for (int i = 0; i < MOST_GPUS; i++)
			close_file(&next[i].fd);
		return result;
	}
	open_common_files();
	memcpy(worker.device, next, sizeof worker.device);
	for (each = allocations; each; each = each->next) {
		each->fd = each->ready.fd;
		memcpy(each->name, each->ready.name, sizeof each->name);
		if (map_file(each->fd, &each->address, each->bytes) != 0)
			return CUDA_ERROR_UNKNOWN;
		munmap(each->copy, each->bytes);
		each->copy = NULL;
	}
	return CUDA_SUCCESS;
}

/* ---- the thread that serves requests ---- */

static CUresult lock(struct control *control)
{
	double end = now_seconds() + control->timeout_ms / 1e3;
	uint32_t calls;
	control->closed = 1;
	while ((calls = control->calls)) {
		double left = control->timeout_ms ? end - now_seconds() : 1;
		if (left <= 0) {
			open_gate(control);
			return CUDA_ERROR_NOT_READY;
		}
		futex_wait(&control->calls, calls, (long)(left * 1e3) + 1);
	}
	control->state = LOCKED;
	return CUDA_SUCCESS;
}

static CUresult serve(struct control *control)
{
	static const uint32_t from[] = {RUNNING, LOCKED, CHECKPOINTED, LOCKED};
	CUresult result;
	if (control->operation == FAIL) {
		control->closed = 1;
		control->state = FAILED;
		futex_wake(&control->closed);
		return CUDA_SUCCESS;
	}
	if (control->state != from[control->operation])
		return CUDA_ERROR_ILLEGAL_STATE;
	switch (control->operation) {
	case LOCK:
		return lock(control);
	case CHECKPOINT:
		if ((result = checkpoint()) == CUDA_SUCCESS)
			control->state = CHECKPOINTED;
		return result;
	case RESTORE:
		if ((result = restore(control)) == CUDA_SUCCESS)
			control->state = LOCKED;
		return result;
	default:
		control->state = RUNNING;
		open_gate(control);
		return CUDA_SUCCESS;
	}
}

static void *serve_requests(void *data)
{
	struct control *control = data;
	control->tid = (int32_t)syscall(SYS_gettid);
	for (;;) {
		uint32_t phase = ASKED;
		if (!atomic_compare_exchange_strong(&control->phase, &phase, TAKEN)) {
			futex_wait(&control->phase, phase, -1);
			continue;
		}
		control->result = serve(control);
		control->phase = DONE;
		futex_wake(&control->phase);
	}
	return NULL;
}

/* ---- start ---- */

/* Descriptors that a child got by fork keep nothing alive of the parent's device memory. */
static void after_fork(void)
{
	forked = 1;
	for (struct allocation *each = allocations; each; each = each->next)
		close_file(&each->fd);
	allocations = NULL;
}

static struct control *make_control(void)
{
	struct control *control;
	int fd = (int)syscall(SYS_memfd_create, CONTROL_NAME, 1u /* MFD_CLOEXEC */);
	if (fd < 0 || ftruncate(fd, sizeof *control) != 0)
		return NULL;
	control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (control == MAP_FAILED)
		return NULL;
	control->pid = getpid();
	return control;
}

static CUresult start(void)
{
	struct control *control = make_control();
	sigset_t all, before;
	pthread_t thread;
	int failed;
	if (!control)
		return CUDA_ERROR_OPERATING_SYSTEM;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(&thread, NULL, serve_requests, control);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed)
		return CUDA_ERROR_OPERATING_SYSTEM;
	while (!control->tid)
		sched_yield();
	pthread_atfork(NULL, NULL, after_fork);
	control->magic = CONTROL_MAGIC;
	worker.control = control;
	return CUDA_SUCCESS;
}

CUresult worker_init(void)
{
	static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
	struct injection injection;
	CUresult result;
	if (forked)
		return CUDA_ERROR_NOT_INITIALIZED;
	injection = injected("init", getpid());
	if (injection.error)
		return injection.error;
	pthread_mutex_lock(&once);
	result = worker.control ? CUDA_SUCCESS : find_devices();
	if (result == CUDA_SUCCESS && !worker.control)
		result = start();
	pthread_mutex_unlock(&once);
	return result;
}
