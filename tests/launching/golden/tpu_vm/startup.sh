#!/usr/bin/env bash
# hat-7b on one host of 1 x v5p:8x8x8. Runs as root at every boot.
# Rendered by `hat launch tpu-vm`; change the run description, not this file.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
stopping=
trap 'stopping=1' TERM # from the system as it goes down; hat train gets its own, and saves

# Tells babysit.sh, which then gives the slice back instead of paying for it.
give_up() {
  gcloud storage cp - gs://my-bucket/runs/hat-7b/launch-failed.txt <<<"$(hostname): $1; see /var/log/hat.log there"
  exit 1
}

# A network that is not up yet, or a server that is busy, is no reason to lose the slice.
retry() {
  for wait in 5 10 20 40 80 0; do
    "$@" && return
    sleep "$wait"
  done
  return 1
}

install() {
  retry apt-get update -q
  retry apt-get install -yq git curl fuse3 python3.11-venv
  if ! command -v gcsfuse; then
    deb=gcsfuse_3.11.1_amd64.deb
    retry curl -fsSLo "/tmp/$deb" \
      "https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v3.11.1/$deb"
    apt-get install -yq "/tmp/$deb"
  fi
  rm -rf /opt/hat
  git init -q /opt/hat
  retry git -C /opt/hat fetch -q --depth=1 https://example.org/hat.git 0123456789abcdef
  git -C /opt/hat checkout -q FETCH_HEAD
  python3.11 -m venv /opt/hat/.venv
  cd /opt/hat
  retry .venv/bin/pip install -q -c constraints.txt -e '.[tpu]'
  touch installed
}
# In a shell of its own, where -e holds: it does not left of ||.
if [ "${1:-}" = install ]; then
  install
  exit
fi
exec > >(tee -a /var/log/hat.log) 2>&1
[ -e /opt/hat/installed ] || bash "$0" install || give_up "cannot install hat"

mkdir -p /gcs/my-bucket
mountpoint -q /gcs/my-bucket ||
  retry gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 my-bucket /gcs/my-bucket ||
  give_up "cannot mount my-bucket"

cd /opt/hat
export PATH="$PWD/.venv/bin:$PATH"
export LIBTPU_INIT_ARGS='--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true'
export JAX_COMPILATION_CACHE_DIR=/gcs/my-bucket/runs/xla-cache
export HAT_CONNECT_SECONDS=1800
export HAT_DISTRIBUTED=auto

failures=0
until [ -e /gcs/my-bucket/runs/hat-7b/result.json ]; do
  if ! hat train configs/tfree_hat_7b.py \
      --out /gcs/my-bucket/runs/hat-7b \
      --set training.batch_size=512 \
      --expect-processes 128 \
      --expect-devices 512; then
    failures=$((failures + 1))
  fi
  [ -z "$stopping" ] || exit 0 # the next boot, or the next slice, goes on
  if [ "$failures" -gt 3 ]; then
    give_up "failed $failures times"
  fi
  sleep 10
done
