# vit-edge on a Jetson with JetPack 6: docker build -f jetson.Dockerfile -t vit-edge .
# L4T_TAG is the board's L4T release (head -1 /etc/nv_tegra_release), as tagged by NVIDIA.
ARG L4T_TAG=r36.4.0

FROM nvcr.io/nvidia/l4t-jetpack:${L4T_TAG} AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
# PyCUDA has no wheels: pip compiles it against the image's own CUDA.
ENV CUDA_ROOT=/usr/local/cuda PATH=/usr/local/cuda/bin:${PATH}
WORKDIR /opt/vit-edge
RUN /usr/bin/python3 -m venv --system-site-packages .venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY edge edge
RUN .venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[device,cuda,service]'
# TensorRT's bindings come with JetPack. The build stops here if the environment does not see them.
RUN .venv/bin/python -c 'import tensorrt; print("TensorRT", tensorrt.__version__)'
# Compile the kernels now, not at each container's first start. 8.7 is Orin. PyCUDA loads the
# driver's library, which does not exist while an image is built; CUDA's stub is enough here.
ARG COMPUTE_CAPABILITY=8.7
RUN mkdir -p stub /opt/cache \
    && ln -s /usr/local/cuda/lib64/stubs/libcuda.so stub/libcuda.so.1 \
    && LD_LIBRARY_PATH=/opt/vit-edge/stub XDG_CACHE_HOME=/opt/cache \
        .venv/bin/python -m edge.gpu.kernels ${COMPUTE_CAPABILITY}

FROM nvcr.io/nvidia/l4t-jetpack:${L4T_TAG}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3-gi python3-gst-1.0 gir1.2-gst-plugins-base-1.0 gir1.2-gst-plugins-bad-1.0 \
        gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
        gstreamer1.0-plugins-bad gstreamer1.0-libav \
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
