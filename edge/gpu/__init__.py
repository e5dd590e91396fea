"""CUDA: device memory, streams, graphs and kernels."""
