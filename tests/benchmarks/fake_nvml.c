/* Answers what NVML and the CUDA driver would, from the environment, for tests. */
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
typedef struct { unsigned pid; u64 bytes; unsigned gpu_instance, compute_instance; } process_t;

static u64 told(const char *name, u64 otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, 0, 0) : otherwise;
}
static int lacks(const char *name) { return getenv(name) != 0; }

int nvmlInit_v2(void) { return (int)told("FAKE_INIT", 0); }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)told("FAKE_COUNT", 1); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(size_t)(0xA0 + index);
    return (int)told("FAKE_HANDLE", 0);
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **handle) {
    *handle = (void *)0xB0;
    return strcmp(bus, "0000:65:00.0") ? 6 : 0;
}
int nvmlDeviceGetName(void *handle, char *name, unsigned size) {
    strncpy(name, handle == (void *)0xB0 ? "NVIDIA L4" : "NVIDIA H200", size);
    return 0;
}
int nvmlSystemGetDriverVersion(char *version, unsigned size) { strncpy(version, "570.1", size); return 0; }
int nvmlDeviceGetMemoryInfo(void *handle, u64 *memory) {
    memory[0] = 150ULL << 30, memory[1] = 1, memory[2] = 2;
    return 0;
}
int nvmlDeviceGetClockInfo(void *handle, int type, unsigned *mhz) { *mhz = 1980 + type; return 0; }
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius) {
    *celsius = 61;
    return sensor ? 2 : 0;
}
int nvmlDeviceGetViolationStatus(void *handle, int policy, u64 *times) {
    times[0] = 7, times[1] = policy ? 300 : 500;
    return lacks("FAKE_OLD") ? 3 : 0;
}
#ifdef OLD_DRIVER
#define REASONS nvmlDeviceGetCurrentClocksThrottleReasons
#else
#define REASONS nvmlDeviceGetCurrentClocksEventReasons
#endif
int REASONS(void *handle, u64 *bits) {
    *bits = told("FAKE_REASONS", 1);
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *handle, u64 *millijoules) {
    static u64 used = 5000000;
    used += 1500, *millijoules = used;
    return lacks("FAKE_OLD") ? 3 : 0;
}
#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *found) {
    if (*count < 2) return 7;
    *count = 2;
    found[0] = (process_t){1, 10, 0, 0};
    found[1] = (process_t){(unsigned)told("FAKE_PID", 2), told("FAKE_BYTES", 3 << 20), 0, 0};
    return lacks("FAKE_OLD") ? 3 : 0;
}
#endif

int cuInit(unsigned flags) { return (int)told("FAKE_INIT", 0); }
int cuDeviceGet(int *device, int index) { *device = index + 40; return index > 1; }
int cuDeviceGetPCIBusId(char *name, int size, int device) {
    strncpy(name, device == 41 ? "0000:65:00.0" : "0000:17:00.0", (size_t)size);
    return 0;
}
