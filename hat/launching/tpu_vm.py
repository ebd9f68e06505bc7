"""Cloud TPU VMs: slices asked for by queued resources, and asked for again when they are lost.

    startup.sh   every host runs it at every boot: installs, mounts the bucket, trains
    create.sh    asks for the slices once
    babysit.sh   keeps a request alive until the run has finished or has failed too often
"""

from __future__ import annotations

import shlex

from hat.launching import flags, shell
from hat.launching.description import Launch
from hat.launching.topologies import GENERATIONS

GCSFUSE_VERSION = "3.11.1"
POLL_SECONDS = 60
CHECKOUT = "/opt/hat"
LOG = "/var/log/hat.log"


def render(launch: Launch) -> dict[str, str]:
    """File name -> content. UserError: the description lacks what TPU VMs need."""
    launch.section("tpu_vm", "tpu-vm")
    launch.section("tpu", "tpu-vm")
    return {
        "startup.sh": _startup(launch),
        "create.sh": _create(launch),
        "babysit.sh": _babysit(launch),
    }


def _startup(launch: Launch) -> str:
    tpu, vm = launch.tpu, launch.tpu_vm
    bucket = shell.bucket_of(launch, "tpu-vm")
    folder = shell.mounted(launch.folder)
    variables = shell.environment(
        launch,
        flags.tpu_environment(tpu.slice.generation),
        shell.compile_cache(shell.mounted(launch.out)),
        shell.PATIENCE,
    ) | {"HAT_DISTRIBUTED": "auto"}
    words = shell.train_words(launch, folder, tpu.processes, tpu.devices)
    fetch = shlex.join(["git", "-C", CHECKOUT, "fetch", "-q", "--depth=1", vm.repository, vm.ref])
    return f"""\
#!/usr/bin/env bash
# {launch.name} on one host of {tpu.slices} x {tpu.topology}. Runs as root at every boot.
# Rendered by `hat launch tpu-vm`; change the run description, not this file.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
stopping=
trap 'stopping=1' TERM # from the system as it goes down; hat train gets its own, and saves

# Tells babysit.sh, which then gives the slice back instead of paying for it.
give_up() {{
  gcloud storage cp - {launch.folder}/launch-failed.txt <<<"$(hostname): $1; see {LOG} there"
  exit 1
}}

# A network that is not up yet, or a server that is busy, is no reason to lose the slice.
retry() {{
  for wait in 5 10 20 40 80 0; do
    "$@" && return
    sleep "$wait"
  done
  return 1
}}

install() {{
  retry apt-get update -q
  retry apt-get install -yq git curl fuse3 python3.11-venv
  if ! command -v gcsfuse; then
    deb=gcsfuse_{GCSFUSE_VERSION}_amd64.deb
    retry curl -fsSLo "/tmp/$deb" \\
      "https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v{GCSFUSE_VERSION}/$deb"
    apt-get install -yq "/tmp/$deb"
  fi
  rm -rf {CHECKOUT}
  git init -q {CHECKOUT}
  retry {fetch}
  git -C {CHECKOUT} checkout -q FETCH_HEAD
  python3.11 -m venv {CHECKOUT}/.venv
  cd {CHECKOUT}
  retry .venv/bin/pip install -q -c constraints.txt -e '.[tpu]'
  touch installed
}}
# In a shell of its own, where -e holds: it does not left of ||.
if [ "${{1:-}}" = install ]; then
  install
  exit
fi
exec > >(tee -a {LOG}) 2>&1
[ -e {CHECKOUT}/installed ] || bash "$0" install || give_up "cannot install hat"

mkdir -p {shell.MOUNT}/{bucket}
mountpoint -q {shell.MOUNT}/{bucket} ||
  retry gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 {bucket} {shell.MOUNT}/{bucket} ||
  give_up "cannot mount {bucket}"

cd {CHECKOUT}
export PATH="$PWD/.venv/bin:$PATH"
{shell.exports(variables)}\

failures=0
until [ -e {folder}/{shell.RESULT} ]; do
  if ! {shell.command(words, "    ")}; then
    failures=$((failures + 1))
  fi
  [ -z "$stopping" ] || exit 0 # the next boot, or the next slice, goes on
  if [ "$failures" -gt {launch.restarts} ]; then
    give_up "failed $failures times"
  fi
  sleep 10
done
"""


def _create(launch: Launch) -> str:
    tpu, vm = launch.tpu, launch.tpu_vm
    generation = GENERATIONS[tpu.slice.generation]
    nodes = (
        [f"--node-id={launch.name}"] if tpu.slices == 1
        else [f"--node-count={tpu.slices}", f"--node-prefix={launch.name}"]
    )  # fmt: skip
    capacity = {"spot": ["--spot"], "reserved": ["--reserved"], "on-demand": []}[vm.capacity]
    account = [f"--service-account={vm.service_account}"] if vm.service_account else []
    words = [
        "gcloud", "compute", "tpus", "queued-resources", "create", launch.name,
        f"--project={vm.project}", f"--zone={vm.zone}", *nodes,
        f"--accelerator-type={tpu.slice.accelerator_type}",
        f"--runtime-version={vm.runtime_version or generation.runtime_version}", *capacity,
        *account, "--scopes=https://www.googleapis.com/auth/cloud-platform",
        "--metadata-from-file=startup-script=startup.sh", "--quiet", "--async",
    ]  # fmt: skip
    return f"""\
#!/usr/bin/env bash
# Asks for {tpu.slices} x {tpu.topology} for {launch.name}. Rendered by `hat launch tpu-vm`.
set -euo pipefail
cd "$(dirname "$0")"
exec {shell.command(words)}
"""


def _babysit(launch: Launch) -> str:
    vm, slices = launch.tpu_vm, launch.tpu.slices
    nodes = [launch.name] if slices == 1 else [f"{launch.name}-{i}" for i in range(slices)]
    return f"""\
#!/usr/bin/env bash
# Keeps slices for {launch.name} until it has finished: status 0, or has failed on some host more
# than {launch.restarts} times: status 1. Stop it and start it again at any time, from any machine.
# Rendered by `hat launch tpu-vm`; change the run description, not this file.
set -euo pipefail
cd "$(dirname "$0")"
name={launch.name}
out={launch.folder}
nodes=({" ".join(nodes)})
where=(--project={vm.project} --zone={vm.zone})
tpus=(gcloud compute tpus)

say() {{ echo "$(date -u +%FT%TZ) $name: $*" >&2; }}

exists() {{ gcloud storage ls "$1" >/dev/null 2>&1; }}

# The state of the request, ABSENT, or UNKNOWN where the service does not answer.
state() {{
  local answer
  if answer=$("${{tpus[@]}}" queued-resources describe "$name" "${{where[@]}}" \\
    --format='value(state.state)' 2>&1); then
    echo "${{answer:-UNKNOWN}}"
  elif [[ $answer == *NOT_FOUND* || $answer == *"not found"* ]]; then
    echo ABSENT
  else
    echo "$answer" >&2
    echo UNKNOWN
  fi
}}

# Whether some host of an active request has gone: a preempted slice may keep its request.
lost() {{
  local node answer
  for node in "${{nodes[@]}}"; do
    answer=$("${{tpus[@]}}" tpu-vm describe "$node" "${{where[@]}}" --format='value(state)' 2>&1) ||
      [[ $answer == *NOT_FOUND* || $answer == *"not found"* ]] || continue
    case $answer in READY | CREATING | STARTING | RESTARTING | REPAIRING) ;; *) return 0 ;; esac
  done
  return 1
}}

delete() {{
  "${{tpus[@]}}" queued-resources delete "$name" "${{where[@]}}" --force --quiet ||
    say "could not delete the request; trying again"
}}

gcloud storage rm "$out/launch-failed.txt" >/dev/null 2>&1 || true # of an earlier launch
while :; do
  state=$(state)
  if exists "$out/{shell.RESULT}"; then
    ended=0
  elif exists "$out/launch-failed.txt"; then
    ended=1
  else
    ended=
  fi
  if [ -n "$ended" ]; then
    if [ "$state" = ABSENT ]; then
      [ "$ended" -eq 1 ] || {{ say finished; exit 0; }}
      gcloud storage cat "$out/launch-failed.txt" >&2
      exit 1
    fi
    say "the run has ended, the request is $state: deleting it"
    delete
  else
    case $state in
    ABSENT)
      say "asking for {slices} x {launch.tpu.topology}"
      bash create.sh
      ;;
    SUSPENDED | FAILED)
      say "the request is $state: deleting it, to ask again"
      delete
      ;;
    ACTIVE)
      if lost; then
        say "a slice was preempted: deleting the request, to ask again"
        delete
      fi
      ;;
    *) say "the request is $state" ;;
    esac
  fi
  sleep "${{POLL_SECONDS:-{POLL_SECONDS}}}"
done
"""
