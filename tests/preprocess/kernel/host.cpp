// preprocess.cu as a host library: its kernels, and the layout of its structs for cuda.py's test.
#include "shim.h"
#include KERNEL_SOURCE

#include <cstddef>

struct Parameters {
  const Image* pictures;
  const void *table, *outside;
  void* out;
  int height, width;
};

// NAME_host is what the stand-in driver calls (tests/cuda_driver/standin.h): a block is one thread,
// whatever its size, which the kernel's loops allow. NAME_threads has the threads it is asked for.
#define HOST(name)                                                                                \
  static void name##_run(const unsigned g[3], Index block, unsigned shared, const void* params) { \
    const Parameters& p = *static_cast<const Parameters*>(params);                                \
    run_grid({g[0], g[1], g[2]}, block, shared, [&] {                                             \
      name(p.pictures, p.table, p.outside, p.out, p.height, p.width);                             \
    });                                                                                           \
  }                                                                                               \
  extern "C" void name##_host(const unsigned grid[3], const unsigned[3], unsigned shared,         \
                              const void* params) {                                               \
    name##_run(grid, {1, 1, 1}, shared, params);                                                  \
  }                                                                                               \
  extern "C" void name##_threads(const unsigned grid[3], const unsigned block[3],                 \
                                 unsigned shared, const void* params) {                           \
    name##_run(grid, {block[0], block[1], 1}, shared, params);                                    \
  }
HOST(preprocess_fp16)
HOST(preprocess_fp32)

struct Member {
  const char* name;
  size_t offset, size;
};
#define MEMBER(name) {#name, offsetof(Image, name), sizeof(Image::name)}
static const Member members[] = {
    MEMBER(planes), MEMBER(columns), MEMBER(rows), MEMBER(pitches), MEMBER(steps),
    MEMBER(channels), MEMBER(textures), MEMBER(kind), MEMBER(chroma_width), MEMBER(chroma_height),
    MEMBER(across), MEMBER(down), MEMBER(cosited_across), MEMBER(cosited_down), MEMBER(matrix),
    MEMBER(column_taps), MEMBER(row_taps), MEMBER(top), MEMBER(left), MEMBER(height),
    MEMBER(width), MEMBER(order), MEMBER(staged), MEMBER(span), MEMBER(stored_width),
    MEMBER(stored_height), MEMBER(transposed), MEMBER(mirrored_across), MEMBER(mirrored_down), {"", sizeof(Image), 0}};

extern "C" const Member* image_layout() { return members; }

extern "C" void* make_texture(const void* memory, int pitch, int channels, int width, int height) {
  return new standin_texture{(const unsigned char*)memory, (unsigned long long)width,
                             (unsigned long long)height, (unsigned long long)pitch,
                             (unsigned)channels, 1};
}
extern "C" void free_texture(void* texture) { delete (standin_texture*)texture; }
