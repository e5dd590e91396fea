# vit-edge on a Jetson (Orin or Thor) with JetPack 7.2: make image JETPACK=7
# From 7.2 on a Jetson runs ordinary arm64 containers: there is no l4t-jetpack image, and NVIDIA's
# packages come from the repository that a board itself uses. L4T_REPO is the board's L4T release.
ARG UBUNTU=24.04

FROM ubuntu:${UBUNTU} AS nvidia
ARG L4T_REPO=r39.2
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/*
# The marker lets packages of the board support install where there is no board: otherwise they
# check the boot firmware.
RUN curl -fsSL https://repo.download.nvidia.com/jetson/jetson-ota-public.asc \
        -o /usr/share/keyrings/jetson.asc \
    && for part in common som; do \
        echo "deb [signed-by=/usr/share/keyrings/jetson.asc]" \
            "https://repo.download.nvidia.com/jetson/${part} ${L4T_REPO} main"; \
    done > /etc/apt/sources.list.d/jetson.list \
    && mkdir -p /opt/nvidia/l4t-packages \
    && touch /opt/nvidia/l4t-packages/.nv-l4t-disable-boot-fw-update-in-preinstall
# TensorRT and its bindings. NVRTC compiles kernels for a GPU that is not listed below.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        tensorrt-libs python3-libnvinfer cuda-nvrtc-13-2 \
    && rm -rf /var/lib/apt/lists/*

FROM nvidia AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        build-essential python3-dev python3-venv \
        cuda-nvcc-13-2 cuda-cudart-dev-13-2 cuda-driver-dev-13-2 cuda-profiler-api-13-2 \
        libcurand-dev-13-2 \
    && rm -rf /var/lib/apt/lists/*
# PyCUDA has no wheels: pip compiles it against this CUDA.
ENV CUDA_ROOT=/usr/local/cuda-13.2 PATH=/usr/local/cuda-13.2/bin:${PATH}
WORKDIR /opt/vit-edge
RUN /usr/bin/python3 -m venv --system-site-packages .venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY edge edge
RUN .venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[device,cuda,service]'
# The build stops here if the environment does not see TensorRT's bindings.
RUN .venv/bin/python -c 'import tensorrt; print("TensorRT", tensorrt.__version__)'
# Compile the kernels now, not at each container's first start: 8.7 is Orin, 11.0 is Thor. PyCUDA
# loads the driver's library, which does not exist while an image is built; CUDA's stub is enough.
ARG COMPUTE_CAPABILITIES="8.7 11.0"
RUN mkdir -p stub /opt/cache \
    && ln -s "${CUDA_ROOT}/lib64/stubs/libcuda.so" stub/libcuda.so.1 \
    && LD_LIBRARY_PATH=/opt/vit-edge/stub XDG_CACHE_HOME=/opt/cache \
        .venv/bin/python -m edge.gpu.kernels ${COMPUTE_CAPABILITIES}

FROM nvidia
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        python3-gi python3-gst-1.0 gir1.2-gst-plugins-base-1.0 gir1.2-gst-plugins-bad-1.0 \
        gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
        gstreamer1.0-plugins-bad gstreamer1.0-libav nvidia-l4t-gstreamer \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --groups video edge
COPY --from=build /opt/vit-edge/.venv /opt/vit-edge/.venv
COPY --from=build --chown=edge /opt/cache /home/edge/.cache
ENV PATH=/opt/vit-edge/.venv/bin:${PATH}
USER edge
WORKDIR /home/edge
# Engines are mounted: docker run --runtime nvidia -v "$PWD/engines:/home/edge/engines" ...
ENTRYPOINT ["edge"]
CMD ["doctor"]
