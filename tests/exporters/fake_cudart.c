/* A CUDA runtime whose device is this process's own memory, and stricter than the real one:
 * it knows what is the device's, fills new memory with NaN, and runs what was launched only
 * when the stream is waited for. */
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, NO_DEVICE = 100, BLOCKS = 256 };

static struct { char *start; size_t size; } blocks[BLOCKS];
static int streams;
static void (*launched)(void);

int fake_inside(const void *address, size_t size) {
    const char *start = address;
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].start && start >= blocks[i].start &&
            start + size <= blocks[i].start + blocks[i].size)
            return 1;
    return 0;
}

int fake_held(void) {
    int held = streams;
    for (int i = 0; i < BLOCKS; i++)
        held += blocks[i].start != NULL;
    return held;
}

void fake_launch(void (*work)(void)) { launched = work; }

int cudaMalloc(void **address, size_t size) {
    for (int i = 0; i < BLOCKS; i++)
        if (!blocks[i].start) {
            blocks[i].start = *address = memset(malloc(size), 0xff, size);
            blocks[i].size = size;
            return OK;
        }
    return INVALID_VALUE;
}

int cudaFree(void *address) {
    if (getenv("FAKE_CUDA_NO_DEVICE"))
        return NO_DEVICE;
    if (!address)
        return OK;
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].start == address) {
            free(address);
            blocks[i].start = NULL;
            return OK;
        }
    return INVALID_VALUE;
}

int cudaMemcpy(void *target, const void *source, size_t size, int kind) {
    int wanted = fake_inside(target, size) ? 1 : fake_inside(source, size) ? 2 : 0;
    if (kind != wanted)
        return INVALID_VALUE;
    memcpy(target, source, size);
    return OK;
}

int cudaStreamCreate(void **stream) {
    *stream = (void *)(size_t)(0x1000 + ++streams);
    return OK;
}

int cudaStreamDestroy(void *stream) {
    streams--;
    return stream ? OK : INVALID_VALUE;
}

int cudaStreamSynchronize(void *stream) {
    void (*work)(void) = launched;
    launched = NULL;
    if (work)
        work();
    return stream ? OK : INVALID_VALUE;
}

const char *cudaGetErrorString(int error) {
    return error == NO_DEVICE ? "no CUDA-capable device is detected" : "invalid argument";
}

int cudaRuntimeGetVersion(int *version) { return *version = 12060, OK; }

int cudaDriverGetVersion(int *version) { return *version = 12070, OK; }

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
    return device == 0 && *value > 0 ? OK : INVALID_VALUE;
}

int cudaSetDevice(int device) { return device == 0 ? OK : INVALID_VALUE; }

int cudaGetDeviceProperties(char *properties, int device) {
    memset(properties, 0, 1032);
    strcpy(properties, "Orin");
    return device == 0 ? OK : INVALID_VALUE;
}
