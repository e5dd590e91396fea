// preprocess.cu as a host library: its kernels, and the layout of its structs for cuda.py's test.
#include "shim.h"
#include KERNEL_SOURCE

#include <cstddef>

// What the emulated driver calls for a kernel: `arguments` are pointers to the kernel's parameters.
#define HOST(name)                                                                                \
  extern "C" void name##_host(unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,    \
                              unsigned bz, unsigned shared, void** a) {                           \
    run_grid({gx, gy, gz}, {bx, by, bz}, shared, [&] {                                            \
      name(*(const Picture**)a[0], *(const void**)a[1], *(const void**)a[2], *(void**)a[3],       \
           *(int*)a[4], *(int*)a[5]);                                                             \
    });                                                                                           \
  }
HOST(preprocess_fp16)
HOST(preprocess_fp32)

struct Member {
  const char* name;
  size_t offset, size;
};
#define MEMBER(name) {#name, offsetof(Picture, name), sizeof(Picture::name)}
static const Member members[] = {
    MEMBER(planes), MEMBER(columns), MEMBER(rows), MEMBER(pitches), MEMBER(steps),
    MEMBER(channels), MEMBER(textures), MEMBER(kind), MEMBER(chroma_width), MEMBER(chroma_height),
    MEMBER(across), MEMBER(down), MEMBER(cosited_across), MEMBER(cosited_down), MEMBER(matrix),
    MEMBER(column_taps), MEMBER(row_taps), MEMBER(top), MEMBER(left), MEMBER(height),
    MEMBER(width), MEMBER(order), MEMBER(staged), MEMBER(span), {"", sizeof(Picture), 0}};

extern "C" const Member* picture_layout() { return members; }

extern "C" void* make_texture(const void* memory, int pitch, int channels, int width, int height) {
  return new Texture{(const unsigned char*)memory, pitch, channels, width, height};
}
extern "C" void free_texture(void* texture) { delete (Texture*)texture; }
