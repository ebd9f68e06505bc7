#!/usr/bin/env bash
# Rendered by `hat launch local --print`.
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 HAT_COORDINATOR=localhost:12345 HAT_NUM_PROCESSES=2 HAT_PROCESS_ID=0 \
  python -m hat train configs/tfree_hat_7b.py --out runs/hat-7b --set training.batch_size=512 --expect-processes 2 --expect-devices 8 &
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 HAT_COORDINATOR=localhost:12345 HAT_NUM_PROCESSES=2 HAT_PROCESS_ID=1 \
  python -m hat train configs/tfree_hat_7b.py --out runs/hat-7b --set training.batch_size=512 --expect-processes 2 --expect-devices 8 &
wait
