// Preprocessing of a batch in one launch: images in any surface -> the network's input tensor.
//
// The integer arithmetic is that of the CPU path (colour.py, resample.py), so the bytes are the same:
// YUV to RGB, columns resampled and rounded to 8 bits, rows resampled and rounded to 8 bits; then a
// table maps each byte to the network's input. `cuda.py` fills in `Image`.
//
// Grid: (tiles across, tiles down, images). A block computes one tile of its image's tensor.
// It walks down the source rows that the tile needs, some rows at a time: converts them to RGB in
// `staged`, resamples their columns into `middle`, and adds these rows to the sums of the tile. All
// intermediate results are in shared memory.
//
// Loops stride over the block, so any block size works, even a single thread.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

#define RGB 0
#define YUV 1
#define GREY 2

#define TILE_HEIGHT 16  // cuda.py
#define TILE_WIDTH 32
#define COLOUR_SHIFT 20  // surface.py
#define PRECISION 22     // resample.py

// One axis of a resize: output i is the sum of weights[i * taps + j] * source[first[i] + j].
struct Axis {
  const int* first;
  const int* count;
  const int* weights;
};

// Mirrored by IMAGE in cuda.py, compared in a test with `image_layout` of the tests.
struct Image {
  u64 planes[3];      // of Y, U, V or R, G, B: the address of its first sample, or a texture object
  Axis columns, rows; // of the used window of the resized image
  int pitches[3];     // bytes from row to row
  int steps[3];       // bytes from sample to sample; channels of a texture
  int channels[3];    // which channel of the texture
  int textures;       // whether planes are texture objects
  int kind;           // RGB, YUV or GREY
  int chroma_width, chroma_height;
  int across, down;   // pixels that a chroma sample covers
  int cosited_across, cosited_down;
  int matrix[3][4];   // R, G, B from y, u, v: surface.py's rgb_weights
  int column_taps, row_taps;
  int top, left, height, width;  // of the window in the tensor
  int order[3];       // which of R, G, B each channel of the tensor is
  int staged;         // source rows at a time
  int span;           // most source pixels of a row that a tile needs
  int stored_width, stored_height;
  int transposed, mirrored_across, mirrored_down; // how the image is stored: surface.py's Turn
};

struct Launch {
  const Image* images;
  const void* table;    // [3][256]: the tensor's value for each byte, per channel
  const void* outside;  // [3]: the tensor's value outside the image, per channel
  void* out;            // [images][3][height][width]
  int height, width;
};

__device__ static inline int clip(int level) { return level < 0 ? 0 : level > 255 ? 255 : level; }

__device__ static inline int sample(const Image& p, int component, int x, int y) {
  if (p.textures) {
    uchar4 t = tex2D<uchar4>(p.planes[component], x + 0.5f, y + 0.5f);
    int channel = p.channels[component];
    return channel == 0 ? t.x : channel == 1 ? t.y : channel == 2 ? t.z : t.w;
  }
  const u8* plane = reinterpret_cast<const u8*>(p.planes[component]);
  return plane[(long long)y * p.pitches[component] + (long long)x * p.steps[component]];
}

// The chroma samples on both sides of a pixel, and the weight of the second one in quarters.
struct Siting {
  int near, next, f;
};

__device__ static inline Siting siting(int pixel, int reach, int cosited, int samples) {
  if (reach == 1) return {pixel, pixel, 0};
  int quarters = 2 * pixel - (cosited ? 0 : 1);
  int near = quarters >> 2, next = near + 1;
  return {near < 0 ? 0 : near, next < samples ? next : samples - 1, quarters & 3};
}

// Chroma at a pixel, in 1/16 levels.
__device__ static inline int chroma(const Image& p, int component, Siting x, Siting y) {
  int left = sample(p, component, x.near, y.near) * (4 - y.f) + sample(p, component, x.near, y.next) * y.f;
  if (x.f == 0) return 4 * left;
  int right = sample(p, component, x.next, y.near) * (4 - y.f) + sample(p, component, x.next, y.next) * y.f;
  return left * (4 - x.f) + right * x.f;
}

// A pixel of the upright source image, one byte each for R, G and B.
__device__ static inline u32 pixel(const Image& p, int column, int row) {
  int x = p.transposed ? row : column, y = p.transposed ? column : row;
  if (p.mirrored_across) x = p.stored_width - 1 - x;
  if (p.mirrored_down) y = p.stored_height - 1 - y;
  if (p.kind == RGB) {
    return sample(p, 0, x, y) | sample(p, 1, x, y) << 8 | sample(p, 2, x, y) << 16;
  }
  int luma = sample(p, 0, x, y), u = 16 * 128, v = 16 * 128;
  if (p.kind == YUV) {
    Siting across = siting(x, p.across, p.cosited_across, p.chroma_width);
    Siting down = siting(y, p.down, p.cosited_down, p.chroma_height);
    u = chroma(p, 1, across, down);
    v = chroma(p, 2, across, down);
  }
  u32 rgb = 0;
  for (int c = 0; c < 3; c++) {
    const int* m = p.matrix[c];
    rgb |= (u32)clip((luma * m[0] + u * m[1] + v * m[2] + m[3]) >> COLOUR_SHIFT) << 8 * c;
  }
  return rgb;
}

template <typename Number>
__device__ static void prepare(const Launch& launch) {
  DYNAMIC_SHARED(u32, shared);
  const Image& p = launch.images[blockIdx.z];
  u32* staged = shared;                               // [p.staged][p.span]
  u32* middle = staged + p.staged * p.span;           // [p.staged][TILE_WIDTH]
  int* sums = (int*)(middle + p.staged * TILE_WIDTH); // [TILE_HEIGHT][TILE_WIDTH][3]

  // The tile in the tensor, and the part that the window covers, in the window's coordinates.
  const int tile_x = blockIdx.x * TILE_WIDTH, tile_y = blockIdx.y * TILE_HEIGHT;
  const int end_x = min(tile_x + TILE_WIDTH, launch.width);
  const int end_y = min(tile_y + TILE_HEIGHT, launch.height);
  const int x0 = max(tile_x - p.left, 0), x1 = min(end_x - p.left, p.width);
  const int y0 = max(tile_y - p.top, 0), y1 = min(end_y - p.top, p.height);

  if (x0 < x1 && y0 < y1) {
    const int columns = x1 - x0;
    // First and last source indices both increase along an axis.
    const int low = p.columns.first[x0];
    const int span = p.columns.first[x1 - 1] + p.columns.count[x1 - 1] - low;
    const int begin = p.rows.first[y0];
    const int end = p.rows.first[y1 - 1] + p.rows.count[y1 - 1];

    for (int j = threadIdx.y; j < y1 - y0; j += blockDim.y)
      for (int i = threadIdx.x; i < columns; i += blockDim.x)
        for (int c = 0; c < 3; c++)
          sums[(j * TILE_WIDTH + i) * 3 + c] = 1 << (PRECISION - 1);

    for (int top = begin; top < end; top += p.staged) {
      const int count = min(p.staged, end - top);
      for (int r = threadIdx.y; r < count; r += blockDim.y)
        for (int x = threadIdx.x; x < span; x += blockDim.x)
          staged[r * p.span + x] = pixel(p, low + x, top + r);
      __syncthreads();

      for (int r = threadIdx.y; r < count; r += blockDim.y)
        for (int i = threadIdx.x; i < columns; i += blockDim.x) {
          const int* weights = p.columns.weights + (x0 + i) * p.column_taps;
          const u32* source = staged + r * p.span + p.columns.first[x0 + i] - low;
          int red = 1 << (PRECISION - 1), green = red, blue = red;
          for (int j = 0; j < p.columns.count[x0 + i]; j++) {
            const u32 rgb = source[j];
            const int weight = weights[j];
            red += (int)(rgb & 255) * weight;
            green += (int)(rgb >> 8 & 255) * weight;
            blue += (int)(rgb >> 16) * weight;
          }
          middle[r * TILE_WIDTH + i] = clip(red >> PRECISION) | clip(green >> PRECISION) << 8 |
                                              clip(blue >> PRECISION) << 16;
        }
      // This barrier also keeps the next rows out of `staged` until all columns are done. `middle` is
      // overwritten only after the next barrier.
      __syncthreads();

      for (int j = threadIdx.y; j < y1 - y0; j += blockDim.y) {
        const int first = p.rows.first[y0 + j];
        const int* weights = p.rows.weights + (y0 + j) * p.row_taps;
        const int from = max(first, top), to = min(first + p.rows.count[y0 + j], top + count);
        for (int i = threadIdx.x; i < columns; i += blockDim.x) {
          int* sum = sums + (j * TILE_WIDTH + i) * 3;
          for (int y = from; y < to; y++) {
            const u32 rgb = middle[(y - top) * TILE_WIDTH + i];
            const int weight = weights[y - first];
            sum[0] += (int)(rgb & 255) * weight;
            sum[1] += (int)(rgb >> 8 & 255) * weight;
            sum[2] += (int)(rgb >> 16) * weight;
          }
        }
      }
    }
  }

  __syncthreads();  // if the window begins inside the tile, other threads computed these sums
  const Number* table = (const Number*)launch.table;
  const Number* outside = (const Number*)launch.outside;
  const long long area = (long long)launch.height * launch.width;
  Number* out = (Number*)launch.out + 3 * area * blockIdx.z;
  for (int y = tile_y + threadIdx.y; y < end_y; y += blockDim.y)
    for (int x = tile_x + threadIdx.x; x < end_x; x += blockDim.x) {
      const int i = x - p.left - x0, j = y - p.top - y0;
      const bool inside = i >= 0 && i < x1 - x0 && j >= 0 && j < y1 - y0;
      for (int c = 0; c < 3; c++) {
        const Number value =
            inside ? table[256 * c + clip(sums[(j * TILE_WIDTH + i) * 3 + p.order[c]] >> PRECISION)]
                   : outside[c];
        out[area * c + (long long)launch.width * y + x] = value;
      }
    }
}

// Values are only copied: FP16 is handled as 16 bits, FP32 as 32 bits.
#define KERNEL(name, number)                                                               \
  extern "C" __global__ void name(const Image* images, const void* table,              \
                                  const void* outside, void* out, int height, int width) { \
    prepare<number>({images, table, outside, out, height, width});                       \
  }
KERNEL(preprocess_fp16, u16)
KERNEL(preprocess_fp32, u32)
