# bids_fmmtc as a container. It holds no weights and no atlas: fetch those once with bids_fmmtc-fetch and mount the
# folder at /resources. Everything else runs without network, with any user id, and with a read-only root:
#
#   docker build -t bids_fmmtc .
#   docker run --rm --init --network=none --read-only --tmpfs /tmp -u "$(id -u):$(id -g)" \
#     -v /path/to/fmriprep:/data:ro -v /path/to/out:/out -v /path/to/resources:/resources:ro \
#     bids_fmmtc /data /out participant
#
# Build arguments:
#   PYTHON_IMAGE  the base. A release pins it by digest: --build-arg PYTHON_IMAGE=docker.io/library/python@sha256:...
#   TORCH_INDEX   extra package index for torch; the default gives the CPU build. For CUDA name the index of that
#                 build; empty ("") takes torch from the default index.
#   FIND_LINKS    a folder of wheels inside the build (bind-mounted), for sites without those indexes.

ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

# Dependencies alone, installed for an empty package, so that a change of the sources does not install torch again.
FROM ${PYTHON_IMAGE} AS dependencies
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG FIND_LINKS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/bids_fmmtc
WORKDIR /empty
COPY pyproject.toml constraints.txt LICENSE ./
RUN mkdir bids_fmmtc && touch bids_fmmtc/__init__.py README.md \
 && /opt/bids_fmmtc/bin/pip install --constraint constraints.txt \
      ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} ${FIND_LINKS:+--find-links "${FIND_LINKS}"} ".[fast]" \
 && /opt/bids_fmmtc/bin/pip uninstall --yes bids_fmmtc

FROM dependencies AS package
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY bids_fmmtc bids_fmmtc
RUN /opt/bids_fmmtc/bin/pip install --no-deps --prefix /install .

FROM ${PYTHON_IMAGE}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bids_fmmtc" \
      org.opencontainers.image.description="BIDS-App that predicts treatment response from resting-state fMRI" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Mount points exist, because some runtimes cannot make them in a read-only root.
RUN mkdir -p /data /out /work /resources
COPY --from=dependencies /opt/bids_fmmtc /opt/bids_fmmtc
COPY --from=package /install /opt/bids_fmmtc

# No library may reach for the network, or for a home folder that an arbitrary user id does not have.
ENV PATH=/opt/bids_fmmtc/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    FMMTC_RESOURCES=/resources \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HF_HOME=/tmp/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib \
    NO_ET=1 \
    NIPYPE_NO_ET=1 \
    NIPYPE_CONFIG_DIR=/tmp/nipype \
    TEMPLATEFLOW_AUTOUPDATE=off \
    TEMPLATEFLOW_HOME=/resources/templateflow \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/tmp/cache \
    USER=fmmtc \
    LOGNAME=fmmtc

RUN pip check && bids_fmmtc-fetch --version
WORKDIR /tmp
ENTRYPOINT ["bids_fmmtc"]
