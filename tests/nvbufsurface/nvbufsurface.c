/* A stand-in for NVIDIA's libnvbufsurface, for tests without a Jetson.
 *
 * The structures have the layout of ABI A (L4T R35, R36) or B (L4T R38), by -DABI=A or -DABI=B.
 * The functions under NVIDIA's names behave as theirs are documented to; those under standin_ make
 * surfaces, count calls and make calls fail.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define A 1
#define B 2
#if ABI != A && ABI != B
#error "compile with -DABI=A or -DABI=B"
#endif
#define AB(a, b) (ABI == A ? (a) : (b))

enum { SURFACE_ARRAY = 4, PLANES = 4, MOST = 4096 };

typedef struct {
    uint32_t num_planes;
    uint32_t width[PLANES], height[PLANES], pitch[PLANES];
    uint32_t offset[PLANES], psize[PLANES], bytesPerPix[PLANES];
    void *_reserved[16];
} NvBufSurfacePlaneParams;

typedef struct {
    void *addr[PLANES];
    void *eglImage;
#if ABI == B
    void *nvmmPtr;
    void *cudaPtr;
#endif
    void *_reserved[4];
} NvBufSurfaceMappedAddr;

typedef struct {
    void *basePtr, *dataPtr, *extMem, *mipmap;
    uint8_t _reserved[64];
} NvBufSurfaceCudaBuffer;

typedef struct {
    uint32_t width, height, pitch;
    int32_t colorFormat, layout;
    uint64_t bufferDesc;
    uint32_t dataSize;
    void *dataPtr;
    NvBufSurfacePlaneParams planeParams;
    NvBufSurfaceMappedAddr mappedAddr;
    void *paramex;
#if ABI == A
    void *_reserved[3];
#else
    NvBufSurfaceCudaBuffer *cudaBuffer;
    void *_reserved[4];
#endif
} NvBufSurfaceParams;

typedef struct {
    uint32_t gpuId, batchSize, numFilled;
    bool isContiguous;
    int32_t memType;
    NvBufSurfaceParams *surfaceList;
#if ABI == B
    bool isImportedBuf;
#endif
    void *_reserved[4];
} NvBufSurface;

/* name, offset or size: checked by the compiler, and told to Python. */
#define OFFSETS(X) \
    X(NvBufSurface, gpuId, 0) \
    X(NvBufSurface, batchSize, 4) \
    X(NvBufSurface, numFilled, 8) \
    X(NvBufSurface, isContiguous, 12) \
    X(NvBufSurface, memType, 16) \
    X(NvBufSurface, surfaceList, 24) \
    X(NvBufSurfaceParams, width, 0) \
    X(NvBufSurfaceParams, height, 4) \
    X(NvBufSurfaceParams, pitch, 8) \
    X(NvBufSurfaceParams, colorFormat, 12) \
    X(NvBufSurfaceParams, layout, 16) \
    X(NvBufSurfaceParams, bufferDesc, 24) \
    X(NvBufSurfaceParams, dataSize, 32) \
    X(NvBufSurfaceParams, dataPtr, 40) \
    X(NvBufSurfaceParams, planeParams, 48) \
    X(NvBufSurfaceParams, mappedAddr, 280) \
    X(NvBufSurfaceParams, paramex, AB(352, 368)) \
    X(NvBufSurfacePlaneParams, num_planes, 0) \
    X(NvBufSurfacePlaneParams, width, 4) \
    X(NvBufSurfacePlaneParams, height, 20) \
    X(NvBufSurfacePlaneParams, pitch, 84 - 48) \
    X(NvBufSurfacePlaneParams, offset, 100 - 48) \
    X(NvBufSurfacePlaneParams, psize, 68) \
    X(NvBufSurfacePlaneParams, bytesPerPix, 84) \
    X(NvBufSurfaceMappedAddr, addr, 0) \
    X(NvBufSurfaceMappedAddr, eglImage, 312 - 280) \
    X(NvBufSurfaceCudaBuffer, basePtr, 0) \
    X(NvBufSurfaceCudaBuffer, dataPtr, 8) \
    X(NvBufSurfaceCudaBuffer, extMem, 16) \
    X(NvBufSurfaceCudaBuffer, mipmap, 24)
#define OFFSETS_B(X) \
    X(NvBufSurface, isImportedBuf, 32) \
    X(NvBufSurfaceParams, cudaBuffer, 376) \
    X(NvBufSurfaceMappedAddr, nvmmPtr, 320 - 280) \
    X(NvBufSurfaceMappedAddr, cudaPtr, 328 - 280)
#define SIZES(X) \
    X(NvBufSurface, AB(64, 72)) \
    X(NvBufSurfaceParams, AB(384, 416)) \
    X(NvBufSurfacePlaneParams, 232) \
    X(NvBufSurfaceMappedAddr, AB(72, 88)) \
    X(NvBufSurfaceCudaBuffer, 96)

#define ASSERT_OFFSET(type, field, at) _Static_assert(offsetof(type, field) == (at), #type "." #field);
#define ASSERT_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type);
OFFSETS(ASSERT_OFFSET)
SIZES(ASSERT_SIZE)
#if ABI == B
OFFSETS_B(ASSERT_OFFSET)
#endif

/* The offset of "Type.field", the size of "Type", or -1. */
int abi_offsetof(const char *name) {
#define TELL_OFFSET(type, field, at) \
    if (!strcmp(name, #type "." #field)) return (int)offsetof(type, field);
#define TELL_SIZE(type, size) \
    if (!strcmp(name, #type)) return (int)sizeof(type);
    OFFSETS(TELL_OFFSET)
    SIZES(TELL_SIZE)
#if ABI == B
    OFFSETS_B(TELL_OFFSET)
#endif
    return -1;
}

static struct call {
    const char *name;
    int calls, failures;
} calls[] = {
    {"NvBufSurfaceFromFd", 0, 0},
    {"NvBufSurfaceMapEglImage", 0, 0},
    {"NvBufSurfaceUnMapEglImage", 0, 0},
    {"NvBufSurfaceSyncForCpu", 0, 0},
    {"NvBufSurfaceSyncForDevice", 0, 0},
    {"misuse", 0, 0}, /* calls that would crash, leak or corrupt memory on a device */
};

static struct call *find(const char *name) {
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(calls[i].name, name)) return &calls[i];
    abort();
}

/* Counts a call; whether it is to fail. */
static bool enter(const char *name) {
    struct call *call = find(name);
    call->calls++;
    return call->failures && call->failures--;
}

static int misuse(void) {
    enter("misuse");
    return -1;
}

int standin_calls(const char *name) { return find(name)->calls; }
void standin_fail(const char *name, int times) { find(name)->failures = times; }

static NvBufSurface *surfaces[MOST];
static uintptr_t images; /* made so far */
static int mapped;       /* and not taken away again */

int standin_mapped(void) { return mapped; }

/* Callers hand over copies of an NvBufSurface, which share its list: it is known by the list. */
static NvBufSurface *original(const NvBufSurface *surface) {
    for (int i = 0; surface && i < MOST; i++)
        if (surfaces[i] && surfaces[i]->surfaceList == surface->surfaceList) return surfaces[i];
    return NULL;
}

/* A batch of two pictures alike; its second is there to be left alone. */
NvBufSurface *standin_create(uint64_t fd, int memType, int layout, int colorFormat, uint32_t width,
                             uint32_t height, uint32_t planes, const uint32_t *pitches,
                             const uint32_t *offsets, void *dataPtr, void *cudaDataPtr) {
    int slot = 0;
    while (slot < MOST && surfaces[slot]) slot++;
    if (slot == MOST) return NULL;
    NvBufSurface *surface = surfaces[slot] = calloc(1, sizeof *surface);
    surface->batchSize = surface->numFilled = 2;
    surface->memType = memType;
    surface->surfaceList = calloc(2, sizeof *surface->surfaceList);
    for (int i = 0; i < 2; i++) {
        NvBufSurfaceParams *params = &surface->surfaceList[i];
        params->width = width;
        params->height = height;
        params->pitch = pitches[0];
        params->colorFormat = colorFormat;
        params->layout = layout;
        params->bufferDesc = fd + i;
        params->dataPtr = dataPtr;
        params->planeParams.num_planes = planes;
        memcpy(params->planeParams.pitch, pitches, planes * sizeof *pitches);
        memcpy(params->planeParams.offset, offsets, planes * sizeof *offsets);
#if ABI == B
        if (cudaDataPtr) {
            params->cudaBuffer = calloc(1, sizeof *params->cudaBuffer);
            params->cudaBuffer->dataPtr = cudaDataPtr;
        }
#else
        (void)cudaDataPtr;
#endif
    }
    return surface;
}

void standin_destroy(NvBufSurface *surface) {
    for (int i = 0; i < MOST; i++) {
        if (surfaces[i] != surface) continue;
        if (surface->surfaceList[0].mappedAddr.eglImage) misuse();
        surfaces[i] = NULL;
        free(surface->surfaceList);
        free(surface);
        return;
    }
    misuse();
}

int NvBufSurfaceFromFd(int fd, void **buffer) {
    if (enter("NvBufSurfaceFromFd")) return -1;
    for (int i = 0; i < MOST; i++) {
        if (!surfaces[i] || surfaces[i]->surfaceList[0].bufferDesc != (uint64_t)fd) continue;
        *buffer = surfaces[i];
        return 0;
    }
    return -1;
}

int NvBufSurfaceMapEglImage(NvBufSurface *surface, int index) {
    if (enter("NvBufSurfaceMapEglImage")) return -1;
    NvBufSurface *known = original(surface);
    if (!known || index < 0 || index >= (int)known->numFilled) return misuse();
    if (known->memType != SURFACE_ARRAY && known->memType != 0) return -1;
    NvBufSurfaceParams *params = &known->surfaceList[index];
    if (params->mappedAddr.eglImage) return misuse();
    params->mappedAddr.eglImage = (void *)(0x100000 * ++images);
    mapped++;
    return 0;
}

int NvBufSurfaceUnMapEglImage(NvBufSurface *surface, int index) {
    if (enter("NvBufSurfaceUnMapEglImage")) return -1;
    NvBufSurface *known = original(surface);
    if (!known || index < 0 || index >= (int)known->numFilled) return misuse();
    if (!known->surfaceList[index].mappedAddr.eglImage) return misuse();
    known->surfaceList[index].mappedAddr.eglImage = NULL;
    mapped--;
    return 0;
}

int NvBufSurfaceSyncForCpu(NvBufSurface *surface, int index, int plane) {
    (void)index, (void)plane;
    if (enter("NvBufSurfaceSyncForCpu")) return -1;
    return original(surface) ? 0 : misuse();
}

int NvBufSurfaceSyncForDevice(NvBufSurface *surface, int index, int plane) {
    (void)index, (void)plane;
    if (enter("NvBufSurfaceSyncForDevice")) return -1;
    return original(surface) ? 0 : misuse();
}
