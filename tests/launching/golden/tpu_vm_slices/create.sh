#!/usr/bin/env bash
# Asks for 2 x v6e:16x16 for hat-7b. Rendered by `hat launch tpu-vm`.
set -euo pipefail
cd "$(dirname "$0")"
exec gcloud compute tpus queued-resources create hat-7b \
  --project=p \
  --zone=z \
  --node-count=2 \
  --node-prefix=hat-7b \
  --accelerator-type=v6e-256 \
  --runtime-version=image \
  --service-account=a@b.c \
  --scopes=https://www.googleapis.com/auth/cloud-platform \
  --metadata-from-file=startup-script=startup.sh \
  --quiet \
  --async
