# One image for every role: `asm api`, `asm worker`, `asm migrate`, Flower.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY asm_core asm_core
COPY asm_workers asm_workers
COPY asm_api asm_api
RUN python -m venv /opt/asm && /opt/asm/bin/pip install --no-cache-dir ".[flower]"

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 asm && mkdir -p /work && chown asm /work
COPY --from=build /opt/asm /opt/asm
ENV PATH="/opt/asm/bin:$PATH" PYTHONUNBUFFERED=1 ASM_LOG_FORMAT=json ASM_SHELL_CWD=/work
USER asm
WORKDIR /work
EXPOSE 8420
ENTRYPOINT ["asm"]
CMD ["api", "--host", "0.0.0.0", "--port", "8420"]
