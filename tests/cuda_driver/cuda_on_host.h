// Enough of CUDA C++ to compile a kernel's source for the CPU: one thread after the other, so that a
// kernel whose threads wait for each other (__syncthreads) does not compile.
#pragma once

#include "standin.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};
struct uchar2 {
    unsigned char x, y;
};
struct uchar4 {
    unsigned char x, y, z, w;
};
struct float3 {
    float x, y, z;
};

using cudaTextureObject_t = unsigned long long;

inline thread_local uint3 gridDim, blockDim, blockIdx, threadIdx;

using std::max;
using std::min;

template <class T>
T __ldg(const T *address) {
    return *address;
}

// Unnormalised coordinates, the nearest element, clamped: as edge.cuda_bindings makes textures.
template <class T>
T tex2D(cudaTextureObject_t object, float x, float y) {
    auto &texture = *reinterpret_cast<const standin_texture *>(object);
    auto inside = [](float at, unsigned long long size) {
        return static_cast<size_t>(std::clamp(std::floor(at), 0.f, static_cast<float>(size - 1)));
    };
    size_t element = texture.channels * texture.bytes;
    const unsigned char *row = texture.rows + inside(y, texture.height) * texture.pitch;
    return *reinterpret_cast<const T *>(row + inside(x, texture.width) * element);
}

namespace on_host {

template <class... Arguments, size_t... Index>
void run(void (*kernel)(Arguments...), const unsigned grid[3], const unsigned block[3],
         const void *params, std::index_sequence<Index...>) {
    const size_t sizes[] = {sizeof(Arguments)..., 0}, aligns[] = {alignof(Arguments)..., 1};
    size_t offsets[sizeof...(Arguments) + 1] = {}, at = 0;
    for (size_t i = 0; i < sizeof...(Arguments); ++i) {
        at = (at + aligns[i] - 1) / aligns[i] * aligns[i];
        offsets[i] = at;
        at += sizes[i];
    }
    auto bytes = static_cast<const char *>(params);
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    for (unsigned i = 0; i < grid[0] * grid[1] * grid[2]; ++i)
        for (unsigned j = 0; j < block[0] * block[1] * block[2]; ++j) {
            blockIdx = {i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1]};
            threadIdx = {j % block[0], j / block[0] % block[1], j / block[0] / block[1]};
            kernel(*reinterpret_cast<const Arguments *>(bytes + offsets[Index])...);
        }
}

template <class... Arguments>
void launch(void (*kernel)(Arguments...), const unsigned grid[3], const unsigned block[3],
            const void *params) {
    run(kernel, grid, block, params, std::index_sequence_for<Arguments...>());
}

}  // namespace on_host

#define HOST_KERNEL(name)                                                          \
    extern "C" void name##_host(const unsigned grid[3], const unsigned block[3],   \
                                unsigned, const void *params) {                    \
        on_host::launch(name, grid, block, params);                                \
    }
