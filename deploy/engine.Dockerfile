# reelray with all that engines need: PyTorch for CUDA, Triton, Ray Serve.
# Build at the top of the repository: docker build -f deploy/engine.Dockerfile -t reelray-engine .
# By itself it serves one machine; under KubeRay its command is replaced by `ray start`.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/reelray
ENV PATH=/opt/reelray/bin:$PATH
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY reelray ./reelray
# A package index of your own is named in a pip.conf: --secret id=pip,src=pip.conf. It stays out of the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --constraint constraints.txt "setuptools>=77" \
    && pip install --constraint constraints.txt --no-build-isolation ".[gpu,serve]"

FROM python:3.11-slim-bookworm
# Triton compiles what launches its kernels when it first runs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 reelray \
    && useradd --uid 1000 --gid 1000 --create-home reelray \
    && install --directory --owner 1000 --group 1000 /data
COPY --from=build /opt/reelray /opt/reelray
ENV PATH=/opt/reelray/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    REELRAY_DATA_DIR=/data \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/reelray
EXPOSE 50051
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-m", "reelray.cluster.serve_app.probe", "127.0.0.1:50051"]
# Other machines reach it only with REELRAY_TOKEN, which `docker run` passes on.
CMD ["reelray", "serve", "--address", "0.0.0.0:50051"]
