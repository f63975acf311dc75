# The web page and all commands in a container; docs/deployment.md says how to run it.
#
#   docker build -t ovseg .                           for CPUs
#   docker build -t ovseg:cuda --build-arg TORCH=cuda .    for NVIDIA cards; torch brings its CUDA libraries
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
# The source distribution first, the wheel from that alone, as a release is made.
RUN pip install --no-cache-dir build==1.3.0 && python -m build --outdir /dist

FROM python:${PYTHON}-slim
ARG TORCH=cpu
ARG EXTRAS=web,hf,heif
ENV PYTHONUNBUFFERED=1 \
    OVSEG_CACHE=/cache
COPY requirements/constraints.txt /tmp/constraints.txt
COPY --from=wheel /dist/*.whl /tmp/
# PyTorch's own index has builds without gigabytes of CUDA, which pip prefers: 2.15.0+cpu is newer than 2.15.0.
RUN if [ "$TORCH" = cpu ]; then export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; fi \
    && pip install --no-cache-dir -c /tmp/constraints.txt "$(echo /tmp/ovseg-*.whl)[$EXTRAS]" \
    && ovseg install-detectron2 \
    && rm -rf /tmp/*
RUN useradd --create-home --uid 1000 ovseg && mkdir /cache /data && chown ovseg /cache /data
USER 1000
WORKDIR /data
VOLUME /cache
EXPOSE 7860
# With --token the page answers 401, which is an answer, too.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["python", "-c", \
    "import http.client as h; c = h.HTTPConnection('127.0.0.1', 7860); c.request('GET', '/health'); \
    exit(c.getresponse().status >= 500)"]
ENTRYPOINT ["ovseg"]
CMD ["serve", "--host", "0.0.0.0"]
