#!/usr/bin/env bash
# Asks for 1 x v5p:8x8x8 for hat-7b. Rendered by `hat launch tpu-vm`.
set -euo pipefail
cd "$(dirname "$0")"
exec gcloud compute tpus queued-resources create hat-7b \
  --project=my-project \
  --zone=us-east5-a \
  --node-id=hat-7b \
  --accelerator-type=v5p-1024 \
  --runtime-version=v2-alpha-tpuv5 \
  --spot \
  --scopes=https://www.googleapis.com/auth/cloud-platform \
  --metadata-from-file=startup-script=startup.sh \
  --quiet \
  --async
