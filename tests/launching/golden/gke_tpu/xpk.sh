#!/usr/bin/env bash
# Starts hat-7b on a cluster made by XPK. Rendered by `hat launch gke`.
# Once for a cluster, so that its pods see the bucket:
#   xpk storage attach my-bucket --project=my-project --zone=us-east5-a --cluster=pods --type=gcsfuse --bucket=my-bucket --mount-point=/gcs/my-bucket --readonly=false --auto-mount=true --size=1024
set -euo pipefail
# shellcheck disable=SC2016  # the command is for the shell of the pods
exec xpk workload create \
  --project=my-project \
  --zone=us-east5-a \
  --cluster=pods \
  --workload=hat-7b \
  --tpu-type=v5litepod-256 \
  --num-slices=2 \
  --docker-image=registry.example/hat:1 \
  --max-restarts=3 \
  '--command=export LIBTPU_INIT_ARGS='"'"'--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true'"'"'; export JAX_COMPILATION_CACHE_DIR=/gcs/my-bucket/runs/xla-cache; export HAT_CONNECT_SECONDS=1800; export HAT_DISTRIBUTED=auto; hat train configs/tfree_hat_7b.py --out /gcs/my-bucket/runs/hat-7b --set training.batch_size=512 --expect-processes 128 --expect-devices 512 & child=$$!; trap '"'"'kill -TERM "$$child"'"'"' TERM; while kill -0 "$$child" 2>/dev/null; do wait "$$child"; done; wait "$$child" || exit; [ -e /gcs/my-bucket/runs/hat-7b/result.json ] || exit 143'
