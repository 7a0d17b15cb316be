/*
 * libcuda.so.1 without a GPU: the part of the driver API that workloads and bindings call.
 *
 * Signatures are those of cuda.h; no header of CUDA is needed. cuGetProcAddress answers by the
 * API version that was asked for and that node.conf says the driver has, as bindings resolve
 * every symbol through it.
 */
#include "worker.h"

#include <pthread.h>
#include <sys/mman.h>

typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct context {
	int device;
} *CUcontext;
typedef struct stream {
	CUcontext context;
} *CUstream;
typedef struct {
	unsigned char bytes[16];
} CUuuid;
typedef struct {
	char reserved[64];
} CUipcMemHandle;

enum { DEEPEST = 16 };

static _Thread_local CUcontext stack[DEEPEST];
static _Thread_local int depth;
static struct context primary[MOST_GPUS];

/* Opens an API call; every path after it ends with worker_leave. */
#define ENTER(operation) \
	do { \
		CUresult entered = worker_enter(operation); \
		if (entered != CUDA_SUCCESS) \
			return entered; \
	} while (0)

#define LEAVE(result) \
	do { \
		CUresult left = (result); \
		worker_leave(); \
		return left; \
	} while (0)

/* ---- driver and devices ---- */

EXPORT CUresult cuInit(unsigned int flags)
{
	return flags ? CUDA_ERROR_INVALID_VALUE : worker_init();
}

EXPORT CUresult cuDriverGetVersion(int *version)
{
	struct node node;
	if (!version)
		return CUDA_ERROR_INVALID_VALUE;
    *version = node_read(&node) == 0 ? node.api : 0;
	return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count)
{
	ENTER(NULL);
    *count = worker.devices;
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
	ENTER(NULL);
    *device = ordinal;
	LEAVE(ordinal < 0 || ordinal >= worker.devices ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS);
}

/* Enters, and answers for a device that does not exist. */
static CUresult enter_device(CUdevice device)
{
	ENTER(NULL);
	if (device >= 0 && device < worker.devices)
		return CUDA_SUCCESS;
	LEAVE(CUDA_ERROR_INVALID_DEVICE);
}

#define ENTER_DEVICE(device) \
	do { \
		CUresult entered = enter_device(device); \
		if (entered != CUDA_SUCCESS) \
			return entered; \
	} while (0)

EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
	ENTER_DEVICE(device);
	snprintf(name, (size_t)length, "%s", worker.device[device].gpu.model);
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
	ENTER_DEVICE(device);
	memcpy(uuid->bytes, worker.device[device].gpu.raw, 16);
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
	return cuDeviceGetUuid(uuid, device);
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
	ENTER_DEVICE(device);
    *bytes = worker.device[device].gpu.bytes;
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
	ENTER_DEVICE(device);
	const struct gpu *gpu = &worker.device[device].gpu;
	switch (attribute) {
	case 1: /* MAX_THREADS_PER_BLOCK */
        *value = 1024;
		break;
	case 10: /* WARP_SIZE */
        *value = 32;
		break;
	case 33: /* PCI_BUS_ID */
        *value = (int)gpu_bus(gpu);
		break;
	case 34: /* PCI_DEVICE_ID */
        *value = (int)gpu_slot(gpu);
		break;
	case 41: /* UNIFIED_ADDRESSING */
        *value = 1;
		break;
	case 75: /* COMPUTE_CAPABILITY_MAJOR */
        *value = gpu->major_capability;
		break;
	case 76: /* COMPUTE_CAPABILITY_MINOR */
        *value = gpu->minor_capability;
		break;
	default:
        *value = 0;
	}
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice device)
{
	ENTER_DEVICE(device);
	const struct gpu *gpu = &worker.device[device].gpu;
	snprintf(text, (size_t)length, "0000:%02X:%02X.0", gpu_bus(gpu), gpu_slot(gpu));
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer)
{
	ENTER_DEVICE(device);
    *can = device != peer && peer >= 0 && peer < worker.devices;
	LEAVE(CUDA_SUCCESS);
}

/* ---- contexts ---- */

static CUresult push(CUcontext context)
{
	if (depth == DEEPEST)
		return CUDA_ERROR_INVALID_VALUE;
	stack[depth++] = context;
	return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxCreate_v2(CUcontext *context, unsigned int flags, CUdevice device)
{
	(void)flags;
	ENTER_DEVICE(device);
    *context = malloc(sizeof **context);
	if (!*context)
		LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
	(*context)->device = device;
	LEAVE(push(*context));
}

EXPORT CUresult cuCtxCreate_v3(CUcontext *context, void *affinity, int count, unsigned int flags,
							   CUdevice device)
{
	(void)affinity;
	(void)count;
	return cuCtxCreate_v2(context, flags, device);
}

EXPORT CUresult cuCtxCreate_v4(CUcontext *context, void *parameters, unsigned int flags,
							   CUdevice device)
{
	(void)parameters;
	return cuCtxCreate_v2(context, flags, device);
}

EXPORT CUresult cuCtxDestroy_v2(CUcontext context)
{
	ENTER(NULL);
	if (depth && stack[depth - 1] == context)
		depth--;
	free(context);
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
	ENTER_DEVICE(device);
	primary[device].device = device;
	worker.device[device].retained++;
    *context = &primary[device];
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
	ENTER_DEVICE(device);
	if (!worker.device[device].retained)
		LEAVE(CUDA_ERROR_INVALID_CONTEXT);
	worker.device[device].retained--;
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active)
{
	ENTER_DEVICE(device);
    *flags = 0;
    *active = worker.device[device].retained > 0;
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxSetCurrent(CUcontext context)
{
	ENTER(NULL);
	if (depth)
		depth--;
	LEAVE(context ? push(context) : CUDA_SUCCESS);
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *context)
{
	ENTER(NULL);
    *context = depth ? stack[depth - 1] : NULL;
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context)
{
	ENTER(NULL);
	LEAVE(context ? push(context) : CUDA_ERROR_INVALID_CONTEXT);
}

EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
	ENTER(NULL);
	if (!depth)
		LEAVE(CUDA_ERROR_INVALID_CONTEXT);
	depth--;
	if (context)
        *context = stack[depth];
	LEAVE(CUDA_SUCCESS);
}

/* Enters, and answers for a thread that has no context. */
static CUresult enter_context(const char *operation)
{
	ENTER(operation);
	if (depth)
		return CUDA_SUCCESS;
	LEAVE(CUDA_ERROR_INVALID_CONTEXT);
}

#define ENTER_CONTEXT(operation) \
	do { \
		CUresult entered = enter_context(operation); \
		if (entered != CUDA_SUCCESS) \
			return entered; \
	} while (0)

static int current_device(void)
{
	return stack[depth - 1]->device;
}

EXPORT CUresult cuCtxGetDevice(CUdevice *device)
{
	ENTER_CONTEXT(NULL);
    *device = current_device();
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuCtxSynchronize(void)
{
	ENTER_CONTEXT("synchronize");
	LEAVE(CUDA_SUCCESS);
}

/* ---- streams ---- */

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned int flags)
{
	(void)flags;
	ENTER_CONTEXT(NULL);
    *stream = malloc(sizeof **stream);
	if (!*stream)
		LEAVE(CUDA_ERROR_OUT_OF_MEMORY);
	(*stream)->context = stack[depth - 1];
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuStreamDestroy_v2(CUstream stream)
{
	ENTER(NULL);
	free(stream);
	LEAVE(CUDA_SUCCESS);
}

/* Lasts as long as a line `hang synchronize SECONDS` of the node's `fail` says. */
EXPORT CUresult cuStreamSynchronize(CUstream stream)
{
	(void)stream;
	return cuCtxSynchronize();
}

/* ---- memory ---- */

static unsigned char *pointer(CUdeviceptr address)
{
	return (unsigned char *)(uintptr_t)address;
}

static CUresult allocate(CUdeviceptr *address, size_t bytes, int managed)
{
	unsigned char *made;
	ENTER_CONTEXT("alloc");
	CUresult result = memory_allocate(current_device(), bytes, managed, &made);
	if (result == CUDA_SUCCESS)
        *address = (CUdeviceptr)(uintptr_t)made;
	LEAVE(result);
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
	return allocate(address, bytes, 0);
}

/* The checkpoint API refuses a process while it has such memory. */
EXPORT CUresult cuMemAllocManaged(CUdeviceptr *address, size_t bytes, unsigned int flags)
{
	(void)flags;
	return allocate(address, bytes, 1);
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr address)
{
	ENTER(NULL);
	LEAVE(address ? memory_free(pointer(address)) : CUDA_SUCCESS);
}

EXPORT CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
	uint64_t left, all;
	ENTER_CONTEXT(NULL);
	CUresult result = memory_info(current_device(), &left, &all);
    *free_bytes = left;
    *total = all;
	LEAVE(result);
}

EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
	ENTER_CONTEXT("copy");
	if (!memory_find(pointer(to), bytes))
		LEAVE(CUDA_ERROR_INVALID_VALUE);
	memcpy(pointer(to), from, bytes);
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
	ENTER_CONTEXT("copy");
	if (!memory_find(pointer(from), bytes))
		LEAVE(CUDA_ERROR_INVALID_VALUE);
	memcpy(to, pointer(from), bytes);
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
	ENTER_CONTEXT("copy");
	if (!memory_find(pointer(from), bytes) || !memory_find(pointer(to), bytes))
		LEAVE(CUDA_ERROR_INVALID_VALUE);
	memmove(pointer(to), pointer(from), bytes);
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes,
									 CUstream stream)
{
	(void)stream;
	return cuMemcpyHtoD_v2(to, from, bytes);
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
	(void)stream;
	return cuMemcpyDtoH_v2(to, from, bytes);
}

EXPORT CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t bytes)
{
	ENTER_CONTEXT("copy");
	if (!memory_find(pointer(to), bytes))
		LEAVE(CUDA_ERROR_INVALID_VALUE);
	memset(pointer(to), value, bytes);
	LEAVE(CUDA_SUCCESS);
}

/* Pinned memory is the process's own: CRIU keeps it. Its size lies in the page before it. */
EXPORT CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned int flags)
{
	(void)flags;
	ENTER_CONTEXT("alloc");
	unsigned char *made = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE,
							   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!bytes || made == MAP_FAILED)
		LEAVE(bytes ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE);
	memcpy(made, &bytes, sizeof bytes);
    *address = made + 4096;
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuMemAllocHost_v2(void **address, size_t bytes)
{
	return cuMemHostAlloc(address, bytes, 0);
}

EXPORT CUresult cuMemFreeHost(void *address)
{
	size_t bytes;
	ENTER(NULL);
	memcpy(&bytes, (unsigned char *)address - 4096, sizeof bytes);
	munmap((unsigned char *)address - 4096, bytes + 4096);
	LEAVE(CUDA_SUCCESS);
}

/* The handle opens nothing; that it was made is what the checkpoint API looks at. */
EXPORT CUresult cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr address)
{
	struct allocation *found;
	ENTER_CONTEXT(NULL);
	found = memory_find(pointer(address), 1);
	if (!found)
		LEAVE(CUDA_ERROR_INVALID_VALUE);
	found->shared = 1;
	memset(handle, 0, sizeof *handle);
	memcpy(handle->reserved, found->name, sizeof found->name);
	LEAVE(CUDA_SUCCESS);
}

EXPORT CUresult cuIpcGetMemHandle_v2(CUipcMemHandle *handle, CUdeviceptr address)
{
	return cuIpcGetMemHandle(handle, address);
}

/* ---- errors ---- */

static const struct {
	CUresult code;
	const char *name;
	const char *text;
} errors[] = {
	{CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
	{CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
	{CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
	{CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
	{CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
	{CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
	{CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
	{CUDA_ERROR_OPERATING_SYSTEM, "CUDA_ERROR_OPERATING_SYSTEM",
	 "OS call failed or operation not supported on this OS"},
	{CUDA_ERROR_ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE",
	 "the operation cannot be performed in the present state"},
	{CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
	{CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
	{CUDA_ERROR_NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
	{CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
	{CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static int find_error(CUresult code)
{
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
		if (errors[i].code == code)
			return (int)i;
	return -1;
}

EXPORT CUresult cuGetErrorName(CUresult code, const char **name)
{
	int found = find_error(code);
    *name = found < 0 ? NULL : errors[found].name;
	return found < 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorString(CUresult code, const char **text)
{
	int found = find_error(code);
    *text = found < 0 ? NULL : errors[found].text;
	return found < 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* ---- symbols by version ---- */

CUresult cuCheckpointProcessGetRestoreThreadId(int, int *);
CUresult cuCheckpointProcessGetState(int, int *);
CUresult cuCheckpointProcessLock(int, void *);
CUresult cuCheckpointProcessCheckpoint(int, void *);
CUresult cuCheckpointProcessRestore(int, void *);
CUresult cuCheckpointProcessUnlock(int, void *);
EXPORT CUresult cuGetProcAddress(const char *, void **, int, uint64_t);
EXPORT CUresult cuGetProcAddress_v2(const char *, void **, int, uint64_t, int *);

#define SINCE(version, name, function) {version, name, (void *)(uintptr_t)&function}
#define PLAIN(function) SINCE(2000, #function, function)
#define SECOND(function) SINCE(3020, #function, function##_v2)

static const struct {
	int version;
	const char *name;
	void *function;
} symbols[] = {
	PLAIN(cuInit),
	PLAIN(cuDriverGetVersion),
	PLAIN(cuDeviceGetCount),
	PLAIN(cuDeviceGet),
	PLAIN(cuDeviceGetName),
	SINCE(9020, "cuDeviceGetUuid", cuDeviceGetUuid),
	SINCE(11040, "cuDeviceGetUuid", cuDeviceGetUuid_v2),
	SECOND(cuDeviceTotalMem),
	PLAIN(cuDeviceGetAttribute),
	PLAIN(cuDeviceGetPCIBusId),
	PLAIN(cuDeviceCanAccessPeer),
	SINCE(3020, "cuCtxCreate", cuCtxCreate_v2),
	SINCE(11040, "cuCtxCreate", cuCtxCreate_v3),
	SINCE(12050, "cuCtxCreate", cuCtxCreate_v4),
	SECOND(cuCtxDestroy),
	PLAIN(cuDevicePrimaryCtxRetain),
	SINCE(11000, "cuDevicePrimaryCtxRelease", cuDevicePrimaryCtxRelease_v2),
	PLAIN(cuDevicePrimaryCtxGetState),
	PLAIN(cuCtxSetCurrent),
	PLAIN(cuCtxGetCurrent),
	SECOND(cuCtxPushCurrent),
	SECOND(cuCtxPopCurrent),
	PLAIN(cuCtxGetDevice),
	PLAIN(cuCtxSynchronize),
	PLAIN(cuStreamCreate),
	SECOND(cuStreamDestroy),
	PLAIN(cuStreamSynchronize),
	SECOND(cuMemAlloc),
	PLAIN(cuMemAllocManaged),
	SECOND(cuMemFree),
	SECOND(cuMemGetInfo),
	SECOND(cuMemcpyHtoD),
	SECOND(cuMemcpyDtoH),
	SECOND(cuMemcpyDtoD),
	SECOND(cuMemcpyHtoDAsync),
	SECOND(cuMemcpyDtoHAsync),
	SECOND(cuMemsetD8),
	PLAIN(cuMemHostAlloc),
	SECOND(cuMemAllocHost),
	PLAIN(cuMemFreeHost),
	PLAIN(cuIpcGetMemHandle),
	SINCE(11000, "cuIpcGetMemHandle", cuIpcGetMemHandle_v2),
	PLAIN(cuGetErrorName),
	PLAIN(cuGetErrorString),
	SINCE(11030, "cuGetProcAddress", cuGetProcAddress),
	SINCE(12000, "cuGetProcAddress", cuGetProcAddress_v2),
	SINCE(API_CHECKPOINT, "cuCheckpointProcessGetRestoreThreadId",
		  cuCheckpointProcessGetRestoreThreadId),
	SINCE(API_CHECKPOINT, "cuCheckpointProcessGetState", cuCheckpointProcessGetState),
	SINCE(API_CHECKPOINT, "cuCheckpointProcessLock", cuCheckpointProcessLock),
	SINCE(API_CHECKPOINT, "cuCheckpointProcessCheckpoint", cuCheckpointProcessCheckpoint),
	SINCE(API_CHECKPOINT, "cuCheckpointProcessRestore", cuCheckpointProcessRestore),
	SINCE(API_CHECKPOINT, "cuCheckpointProcessUnlock", cuCheckpointProcessUnlock),
};

EXPORT CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
									int *status)
{
	enum { FOUND, NOT_FOUND, VERSION_NOT_SUFFICIENT };
	struct node node;
	int newest = 0, known = 0, driver = node_read(&node) == 0 ? node.api : version;
	(void)flags; /* the per-thread default stream makes no difference here */
    *function = NULL;
	for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
		if (strcmp(symbols[i].name, name) != 0 || symbols[i].version > driver)
			continue;
		known = 1;
		if (symbols[i].version <= version && symbols[i].version > newest) {
			newest = symbols[i].version;
            *function = symbols[i].function;
		}
	}
	if (status)
        *status = newest ? FOUND : known ? VERSION_NOT_SUFFICIENT : NOT_FOUND;
	return newest ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

EXPORT CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags)
{
	return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
