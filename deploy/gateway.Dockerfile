# reelray for Ray's head, gateways and clients: no PyTorch, no CUDA.
# Build at the top of the repository: docker build -f deploy/gateway.Dockerfile -t reelray-gateway .

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/reelray
ENV PATH=/opt/reelray/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
COPY deploy/gateway-requirements.txt ./deploy/
# A package index of your own is named in a pip.conf: --secret id=pip,src=pip.conf. It stays out of the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --constraint constraints.txt --requirement deploy/gateway-requirements.txt "setuptools>=77"
COPY pyproject.toml README.md LICENSE ./
COPY reelray ./reelray
RUN pip install --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
RUN groupadd --gid 1000 reelray \
    && useradd --uid 1000 --gid 1000 --create-home reelray
COPY --from=build /opt/reelray /opt/reelray
ENV PATH=/opt/reelray/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/reelray
EXPOSE 50051
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-m", "reelray.cluster.serve_app.probe", "127.0.0.1:50051"]
CMD ["reelray", "--help"]
