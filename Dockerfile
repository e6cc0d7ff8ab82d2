# The explorer is built apart, so that the server's image has no Node.js.
FROM node:22-bookworm-slim AS explorer
WORKDIR /build
COPY explorer/ ./
RUN npm ci --no-audit --no-fund && npm run build && date +%s > dist/version

FROM python:3.13-slim-bookworm
WORKDIR /srv/taskql
COPY requirements/server.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/server.txt && useradd --system --uid 10001 taskql
COPY alembic.ini pyproject.toml README.md ./
COPY app/ app/
COPY schema/ schema/
COPY migrations/ migrations/
COPY --from=explorer /build/dist/ app/static/explorer/
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
USER 10001
ENV HOST=0.0.0.0 PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/livez', timeout=2)"]
ENTRYPOINT ["taskql"]
CMD ["serve"]
