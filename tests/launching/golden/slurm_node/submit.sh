#!/usr/bin/env bash
# Submits hat-7b. Rendered by `hat launch slurm`.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p /shared/runs/hat-7b
exec sbatch job.sh
