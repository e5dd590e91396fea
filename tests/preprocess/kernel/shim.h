// CUDA as plain C++: what preprocess.cu needs of it, over host memory.
//
// A block runs as real threads when the block is larger than one thread: __syncthreads is a barrier,
// so that ThreadSanitizer sees what a missing one would do. Shared memory is allocated anew for each
// block, poisoned, and exactly as large as was asked for, so that AddressSanitizer sees its ends.
#pragma once
#include "../../cuda_driver/standin.h"

#include <algorithm>
#include <barrier>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __device__

struct Index {
  unsigned x, y, z;
};
static thread_local Index threadIdx, blockIdx;
static Index blockDim;
static void* shared_memory;
static std::barrier<>* meeting;

#define DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(shared_memory)

static inline void __syncthreads() {
  if (meeting) meeting->arrive_and_wait();
}

struct uchar4 {
  unsigned char x, y, z, w;
};

// A texture object is the stand-in driver's: rows of an array of up to four 8-bit channels.
template <typename T>
static inline T tex2D(unsigned long long object, float x, float y) {
  const standin_texture& t = *reinterpret_cast<const standin_texture*>(object);
  // Clamped like the hardware's; an index outside is then a wrong byte, which the tests compare.
  int column = min(max(int(x), 0), int(t.width) - 1), row = min(max(int(y), 0), int(t.height) - 1);
  unsigned char v[4] = {0, 0, 0, 255};
  std::memcpy(v, t.rows + size_t(row) * t.pitch + size_t(column) * t.channels, t.channels);
  return {v[0], v[1], v[2], v[3]};
}

template <typename Body>
static void run_grid(Index grid, Index block, size_t shared, Body body) {
  blockDim = block;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        shared_memory = std::malloc(shared);
        std::memset(shared_memory, 0xA5, shared);
        const unsigned count = block.x * block.y;
        std::barrier<> all(count);
        meeting = count > 1 ? &all : nullptr;
        auto one = [&](unsigned i) {
          blockIdx = {x, y, z};
          threadIdx = {i % block.x, i / block.x, 0};
          body();
        };
        if (count == 1) {
          one(0);
        } else {
          std::vector<std::thread> threads;
          for (unsigned i = 0; i < count; i++) threads.emplace_back(one, i);
          for (auto& thread : threads) thread.join();
        }
        std::free(shared_memory);
      }
}
