// Kernels for the tests of edge.cuda.

extern "C" __global__ void scale(float *out, const float *in, float factor, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = factor * in[i];
}

struct Shape {
    const unsigned char *rows;
    int pitch, width, height;
};

extern "C" __global__ void gather(Shape shape, unsigned char *out) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < shape.width && y < shape.height)
        out[y * shape.width + x] = shape.rows[y * shape.pitch + x];
}

extern "C" __global__ void read_texture(cudaTextureObject_t plane, unsigned char *out, int width,
                                        int height) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < width && y < height) out[y * width + x] = tex2D<unsigned char>(plane, x, y);
}

extern "C" __global__ void fill(signed char value, float *out, short count, double factor) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = static_cast<float>(value * factor);
}
