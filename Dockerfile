# Bases are named by tag and digest, so that a build next year starts from what was tried. To renew one, take both from
# docker buildx imagetools inspect python:3.13-slim-bookworm
# Other bases, such as copies in a registry of yours: --build-arg PYTHON_IMAGE=… --build-arg NODE_IMAGE=…
ARG NODE_IMAGE=node:22.23.3-bookworm-slim@sha256:43ac6c60b8f89723f746e8a92ce91abd5017e627ce1ddfe4238355d3a30b772c
ARG PYTHON_IMAGE=python:3.13.16-slim-bookworm@sha256:a1165e272e578941b84abc79e4ab38a0305cd12803a5c4247979ac7655f4d641

# The explorer is built apart, so that the server's image has no Node.js.
FROM ${NODE_IMAGE} AS explorer
WORKDIR /build
COPY explorer/ ./
RUN npm ci --no-audit --no-fund && npm run build && date +%s > dist/version

FROM ${PYTHON_IMAGE}
WORKDIR /srv/taskql
COPY requirements/server.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/server.txt && useradd --system --uid 10001 taskql
COPY pyproject.toml README.md LICENSE ./
COPY app/ app/
COPY schema/ schema/
COPY migrations/ migrations/
COPY --from=explorer /build/dist/ app/web/static/explorer/
# Compiled here: the server may write nothing but temporary files.
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . && python -m compileall -q app schema migrations
LABEL org.opencontainers.image.title="TaskQL" \
    org.opencontainers.image.description="A GraphQL server for tasks, on PostgreSQL" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 10001
ENV HOST=0.0.0.0 PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/livez', timeout=2)"]
ENTRYPOINT ["taskql"]
CMD ["serve"]
