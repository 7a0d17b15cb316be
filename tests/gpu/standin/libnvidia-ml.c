/*
 * libnvidia-ml.so.1 without a GPU: the facts that chrek asks of NVML, of all GPUs of node.conf.
 *
 * Processes are found as the owners of the locks on the files of device memory, which the kernel
 * lists in /proc/locks with PIDs of the reader's namespace.
 */
#include "device.h"

#include <sys/sysmacros.h>

typedef int nvmlReturn_t;
enum {
	NVML_SUCCESS = 0,
	NVML_ERROR_UNINITIALIZED = 1,
	NVML_ERROR_INVALID_ARGUMENT = 2,
	NVML_ERROR_NOT_SUPPORTED = 3,
	NVML_ERROR_NO_PERMISSION = 4,
	NVML_ERROR_NOT_FOUND = 6,
	NVML_ERROR_INSUFFICIENT_SIZE = 7,
	NVML_ERROR_DRIVER_NOT_LOADED = 9,
	NVML_ERROR_GPU_IS_LOST = 15,
	NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
	NVML_ERROR_UNKNOWN = 999,
};

typedef struct gpu *nvmlDevice_t;

typedef struct {
	unsigned long long total;
	unsigned long long free;
	unsigned long long used;
} nvmlMemory_t;

typedef struct {
	unsigned int version;
	unsigned long long total;
	unsigned long long reserved;
	unsigned long long free;
	unsigned long long used;
} nvmlMemory_v2_t;

enum { MEMORY_V2 = 0x02000028 };

typedef struct {
	unsigned int pid;
	unsigned long long usedGpuMemory;
	unsigned int gpuInstanceId;
	unsigned int computeInstanceId;
} nvmlProcessInfo_t;

typedef struct {
	char busIdLegacy[16];
	unsigned int domain;
	unsigned int bus;
	unsigned int device;
	unsigned int pciDeviceId;
	unsigned int pciSubSystemId;
	char busId[32];
} nvmlPciInfo_t;

static struct node node;
static int initialised;

EXPORT nvmlReturn_t nvmlInit_v2(void)
{
	struct injection injection = injected("nvml", getpid());
	if (injection.error)
		return injection.error;
	if (!initialised && node_read(&node) != 0)
		return NVML_ERROR_DRIVER_NOT_LOADED;
	initialised++;
	return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
	(void)flags;
	return nvmlInit_v2();
}

EXPORT nvmlReturn_t nvmlShutdown(void)
{
	if (!initialised)
		return NVML_ERROR_UNINITIALIZED;
	initialised--;
	return NVML_SUCCESS;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result)
{
	switch (result) {
	case NVML_SUCCESS:
		return "Success";
	case NVML_ERROR_UNINITIALIZED:
		return "Uninitialized";
	case NVML_ERROR_INVALID_ARGUMENT:
		return "Invalid Argument";
	case NVML_ERROR_NOT_SUPPORTED:
		return "Not Supported";
	case NVML_ERROR_NO_PERMISSION:
		return "Insufficient Permissions";
	case NVML_ERROR_NOT_FOUND:
		return "Not Found";
	case NVML_ERROR_INSUFFICIENT_SIZE:
		return "Insufficient Size";
	case NVML_ERROR_DRIVER_NOT_LOADED:
		return "Driver Not Loaded";
	case NVML_ERROR_GPU_IS_LOST:
		return "GPU is lost";
	case NVML_ERROR_LIB_RM_VERSION_MISMATCH:
		return "Driver/library version mismatch";
	default:
		return "Unknown Error";
	}
}

/* A text into a caller's buffer, which must have room for all of it. */
static nvmlReturn_t give(const char *text, char *to, unsigned int size)
{
	if (!initialised)
		return NVML_ERROR_UNINITIALIZED;
	if (!to)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (strlen(text) >= size)
		return NVML_ERROR_INSUFFICIENT_SIZE;
	strcpy(to, text);
	return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
	return give(node.driver, version, length);
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    *version = node.api;
	return initialised ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
	return nvmlSystemGetCudaDriverVersion_v2(version);
}

/* ---- devices ---- */

static nvmlReturn_t check(const void *device, const char *operation)
{
	struct injection injection;
	if (!initialised)
		return NVML_ERROR_UNINITIALIZED;
	if (!device)
		return NVML_ERROR_INVALID_ARGUMENT;
	injection = injected(operation, getpid());
	return injection.error;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    *count = (unsigned int)node.count;
	return initialised ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
	if (!initialised)
		return NVML_ERROR_UNINITIALIZED;
	if (index >= (unsigned int)node.count)
		return NVML_ERROR_INVALID_ARGUMENT;
    *device = &node.gpus[index];
	return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
	if (!initialised)
		return NVML_ERROR_UNINITIALIZED;
	for (int i = 0; i < node.count; i++)
		if (strcmp(node.gpus[i].uuid, uuid) == 0) {
            *device = &node.gpus[i];
			return NVML_SUCCESS;
		}
	return NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
	nvmlReturn_t result = check(device, "nvml-device");
    *index = (unsigned int)(device - node.gpus);
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
	nvmlReturn_t result = check(device, "nvml-device");
	return result ? result : give(device->model, name, length);
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
	nvmlReturn_t result = check(device, "nvml-device");
	return result ? result : give(device->uuid, uuid, length);
}

EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor_number)
{
	nvmlReturn_t result = check(device, "nvml-device");
	if (result == NVML_SUCCESS)
        *minor_number = (unsigned int)device->minor;
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major_number,
													   int *minor_number)
{
	nvmlReturn_t result = check(device, "nvml-device");
	if (result == NVML_SUCCESS) {
        *major_number = device->major_capability;
        *minor_number = device->minor_capability;
	}
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current,
										 unsigned int *pending)
{
	nvmlReturn_t result = check(device, "nvml-device");
	if (result != NVML_SUCCESS)
		return result;
	if (device->mig < 0)
		return NVML_ERROR_NOT_SUPPORTED;
    *current = *pending = (unsigned int)device->mig;
	return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned int *mode)
{
	struct node now;
	nvmlReturn_t result = check(device, "nvml-device");
	if (result == NVML_SUCCESS)
        *mode = node_read(&now) == 0 && now.persistence;
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	nvmlReturn_t result = check(device, "nvml-device");
	if (result != NVML_SUCCESS)
		return result;
	memset(pci, 0, sizeof *pci);
	pci->bus = gpu_bus(device);
	pci->device = gpu_slot(device);
	snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:%02X.0", pci->bus & 0xffu,
			 pci->device & 0xffu);
	snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:%02X.0", pci->bus & 0xffu,
			 pci->device & 0xffu);
	return NVML_SUCCESS;
}

/* ---- memory and its owners ---- */

enum { MOST_FILES = 4096 };

struct files {
	int count;
	struct stat facts[MOST_FILES];
};

static void remember(const struct stat *facts, void *data)
{
	struct files *files = data;
	if (files->count < MOST_FILES)
		files->facts[files->count++] = *facts;
}

static uint64_t look(const struct gpu *gpu, struct files *files)
{
	int lock = memory_lock(&node, gpu->minor);
	uint64_t used = memory_used(&node, gpu->minor, files ? remember : NULL, files);
	if (lock >= 0)
		close(lock);
	return used;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	nvmlReturn_t result = check(device, "nvml-memory");
	if (result != NVML_SUCCESS)
		return result;
	memory->total = device->bytes;
	memory->used = look(device, NULL);
	memory->free = memory->total - memory->used;
	return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
	nvmlMemory_t plain;
	nvmlReturn_t result;
	if (memory->version != MEMORY_V2)
		return 25; /* NVML_ERROR_ARGUMENT_VERSION_MISMATCH */
	result = nvmlDeviceGetMemoryInfo(device, &plain);
	if (result != NVML_SUCCESS)
		return result;
	memory->total = plain.total;
	memory->free = plain.free;
	memory->used = plain.used;
	memory->reserved = 0;
	return NVML_SUCCESS;
}

struct owner {
	unsigned int pid;
	unsigned long long bytes;
};

static void add_owner(struct owner *owners, unsigned int *count, unsigned int pid, uint64_t bytes)
{
	unsigned int i = 0;
	while (i < *count && owners[i].pid != pid)
		i++;
	if (i == MOST_FILES)
		return;
	if (i == *count)
		owners[(*count)++] = (struct owner){.pid = pid};
	owners[i].bytes += bytes;
}

/* A line: "1: FLOCK  ADVISORY  READ 1234 08:01:5678 0 EOF". */
static void find_owners(const struct files *files, struct owner *owners, unsigned int *count)
{
	FILE *locks = fopen("/proc/locks", "re");
	char line[256];
	while (locks && fgets(line, sizeof line, locks)) {
		unsigned int device_major, device_minor;
		unsigned long inode;
		int pid;
		if (sscanf(line, "%*d: FLOCK %*s %*s %d %x:%x:%lu", &pid, &device_major, &device_minor,
				   &inode) != 4 ||
			pid <= 0)
			continue;
		for (int i = 0; i < files->count; i++)
			if (files->facts[i].st_ino == inode &&
				files->facts[i].st_dev == makedev(device_major, device_minor))
				add_owner(owners, count, (unsigned int)pid, (uint64_t)files->facts[i].st_size);
	}
	if (locks)
		fclose(locks);
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device,
															unsigned int *count,
															nvmlProcessInfo_t *infos)
{
	nvmlReturn_t result = check(device, "nvml-processes");
	unsigned int found = 0, room = *count;
	struct files *files;
	struct owner *owners;
	if (result != NVML_SUCCESS)
		return result;
	files = calloc(1, sizeof *files);
	owners = calloc(MOST_FILES, sizeof *owners);
	if (files && owners) {
		look(device, files);
		find_owners(files, owners, &found);
	} else {
		result = NVML_ERROR_UNKNOWN;
	}
    *count = found;
	if (result == NVML_SUCCESS && found > room)
		result = NVML_ERROR_INSUFFICIENT_SIZE;
	for (unsigned int i = 0; result == NVML_SUCCESS && i < found; i++)
		infos[i] = (nvmlProcessInfo_t){.pid = owners[i].pid,
									   .usedGpuMemory = owners[i].bytes,
									   .gpuInstanceId = 0xffffffffu,
									   .computeInstanceId = 0xffffffffu};
	free(files);
	free(owners);
	return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *count,
														 nvmlProcessInfo_t *infos)
{
	return nvmlDeviceGetComputeRunningProcesses_v3(device, count, infos);
}
