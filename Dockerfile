# One image for every process; the command decides which one it is (docker-compose.yml).
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/data/huggingface \
    ARTIFACTS_DIR=/data/artifacts

# The uid is fixed, so that what lies in the volume keeps its owner from one image to the next. The code belongs to
# root: the processes write to /data, and to /app/var for beat's schedule.
RUN groupadd --gid 10001 chat \
    && useradd --uid 10001 --gid chat --create-home --shell /usr/sbin/nologin chat \
    && install --directory --owner chat --group chat /app/var /data /data/artifacts /data/huggingface

WORKDIR /app

# An index with another build of torch, e.g. one for your CUDA version or the CPU one.
ARG TORCH_INDEX=""
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}

COPY . .

USER 10001:10001
EXPOSE 8000
CMD ["uvicorn", "chatbot_site.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--ws-max-size", "65536", "--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "10", "--proxy-headers"]
