#!/usr/bin/env bash
# hat-7b: 2 nodes of 4 GPUs, one process for each gpu.
# Rendered by `hat launch slurm`; change the run description, not this file.
#SBATCH --job-name=hat-7b
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --time=7-00:00:00
#SBATCH --dependency=singleton
#SBATCH --signal=TERM@300
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/hat-7b/slurm.log
#SBATCH --exclusive
#SBATCH --requeue
set -euo pipefail
cd /shared/hat
export PATH="$PWD/.venv/bin:$PATH"
export XLA_FLAGS='--xla_gpu_enable_latency_hiding_scheduler=true --xla_gpu_enable_pipelined_all_gather=true --xla_gpu_enable_pipelined_reduce_scatter=true --xla_gpu_enable_pipelined_all_reduce=true --xla_gpu_enable_while_loop_double_buffering=true --xla_gpu_all_gather_combine_threshold_bytes=268435456 --xla_gpu_reduce_scatter_combine_threshold_bytes=268435456 --xla_gpu_all_reduce_combine_threshold_bytes=268435456'
export JAX_COMPILATION_CACHE_DIR=/shared/runs/xla-cache

# The first node coordinates, on a port that two jobs of one node are unlikely to share.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
HAT_COORDINATOR="${nodes%%$'\n'*}:$((20000 + SLURM_JOB_ID % 20000))"
export HAT_COORDINATOR HAT_NUM_PROCESSES=8

# JAX would give each task the GPU of its local number, and no other, so it is told which.
# shellcheck disable=SC2016  # expanded by each task
task='export HAT_PROCESS_ID="$SLURM_PROCID" JAX_LOCAL_DEVICE_IDS="$SLURM_LOCALID"; exec "$@"'

for ((attempt = 0; attempt <= 3; attempt++)); do
  # One process that dies takes the others with it: they would wait for it for ever.
  if srun --kill-on-bad-exit=1 bash -c "$task" task hat train configs/tfree_hat_7b.py \
      --out /shared/runs/hat-7b \
      --set training.batch_size=512 \
      --expect-processes 8 \
      --expect-devices 8; then
    if [ -e /shared/runs/hat-7b/result.json ]; then
      exit 0
    fi
    echo "saved, not finished: requeued" >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  echo "attempt $attempt failed; at most 3 restarts" >&2
  sleep 10
done
exit 1
