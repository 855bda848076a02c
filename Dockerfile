# syntax=docker/dockerfile:1
# docker build -t quantkit . && docker run --rm -v "$PWD:/work" quantkit compare fp32 int8
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE MANIFEST.in ./
COPY configs configs
COPY quantkit quantkit
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="quantkit" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels pip install --no-cache-dir /wheels/*.whl \
    && useradd --create-home --uid 1000 quantkit
ENV PYTHONUNBUFFERED=1
USER quantkit
WORKDIR /work
ENTRYPOINT ["quantkit"]
CMD ["--help"]
