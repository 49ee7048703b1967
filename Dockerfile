# BiLLM on Debian with Mesa's software driver; files of the host are in /work:
#
#   docker build -t billm .
#   docker run --rm -v "$PWD:/work" billm quantize my-pipeline.yaml
#
# On a GPU of AMD or Intel, add --device /dev/dri. For NVIDIA's, install the NVIDIA Container Toolkit and add
# --gpus all -e NVIDIA_DRIVER_CAPABILITIES=all, which brings the Vulkan driver; `billm doctor` says whether it
# is found.
FROM denoland/deno:debian-2.9.6
RUN apt-get update && apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1 \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /billm
COPY . .
RUN deno install --frozen --entrypoint mod.ts tasks/*.ts
WORKDIR /work
ENTRYPOINT ["/billm/billm"]
