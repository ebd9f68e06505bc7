"""SLURM clusters with GPUs: a batch job that runs, restarts and requeues itself.

    job.sh      the job: one process for each node or for each GPU
    submit.sh   submits it; again, while it runs, queues the same run behind itself
"""

from __future__ import annotations

from hat.errors import UserError
from hat.launching import flags, shell
from hat.launching.description import Launch

# Before the time limit every process gets SIGTERM this early, saves, and the job is requeued.
NOTICE_SECONDS = 300


def render(launch: Launch) -> dict[str, str]:
    """File name -> content. UserError: the description lacks what a SLURM job needs."""
    slurm = launch.section("slurm", "slurm")
    gpu = launch.section("gpu", "slurm")
    if not launch.out.startswith("/"):
        raise UserError(
            f"out={launch.out!r}: SLURM nodes share a file system; give an absolute path on it"
        )
    if gpu.process_per == "gpu":
        local_devices = "$SLURM_LOCALID"
    else:
        local_devices = ",".join(map(str, range(gpu.per_node)))
    options = {
        "job-name": launch.name,
        "nodes": gpu.nodes,
        "ntasks-per-node": gpu.processes // gpu.nodes,
        "gres": f"gpu:{gpu.per_node}",
        "time": slurm.time,
        "partition": slurm.partition,
        "account": slurm.account,
        # Two jobs of one name never run at once: they would be two runs in one folder.
        "dependency": "singleton",
        "signal": f"TERM@{NOTICE_SECONDS}",
        "open-mode": "append",
        "output": f"{launch.folder}/slurm.log",
    }
    directives = "".join(
        f"#SBATCH --{name}={value}\n" for name, value in options.items() if value is not None
    )
    variables = shell.environment(
        launch, flags.gpu_environment(), shell.compile_cache(launch.out)
    )
    words = shell.train_words(launch, launch.folder, gpu.processes, gpu.devices)
    job = f"""\
#!/usr/bin/env bash
# {launch.name}: {gpu.nodes} nodes of {gpu.per_node} GPUs, one process for each {gpu.process_per}.
# Rendered by `hat launch slurm`; change the run description, not this file.
{directives}#SBATCH --exclusive
#SBATCH --requeue
set -euo pipefail
cd {slurm.folder}
export PATH="$PWD/.venv/bin:$PATH"
{shell.exports(variables)}\

# The first node coordinates, on a port that two jobs of one node are unlikely to share.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
HAT_COORDINATOR="${{nodes%%$'\\n'*}}:$((20000 + SLURM_JOB_ID % 20000))"
export HAT_COORDINATOR HAT_NUM_PROCESSES={gpu.processes}

# JAX would give each task the GPU of its local number, and no other, so it is told which.
# shellcheck disable=SC2016  # expanded by each task
task='export HAT_PROCESS_ID="$SLURM_PROCID" JAX_LOCAL_DEVICE_IDS="{local_devices}"; exec "$@"'

for ((attempt = 0; attempt <= {launch.restarts}; attempt++)); do
  # One process that dies takes the others with it: they would wait for it for ever.
  if srun --kill-on-bad-exit=1 bash -c "$task" task {shell.command(words, "    ")}; then
    if [ -e {launch.folder}/{shell.RESULT} ]; then
      exit 0
    fi
    echo "saved, not finished: requeued" >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  echo "attempt $attempt failed; at most {launch.restarts} restarts" >&2
  sleep 10
done
exit 1
"""
    submit = f"""\
#!/usr/bin/env bash
# Submits {launch.name}. Rendered by `hat launch slurm`.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p {launch.folder}
exec sbatch job.sh
"""
    return {"job.sh": job, "submit.sh": submit}
