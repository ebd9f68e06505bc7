#!/usr/bin/env bash
# Keeps slices for hat-7b until it has finished: status 0, or has failed on some host more
# than 3 times: status 1. Stop it and start it again at any time, from any machine.
# Rendered by `hat launch tpu-vm`; change the run description, not this file.
set -euo pipefail
cd "$(dirname "$0")"
name=hat-7b
out=gs://my-bucket/runs/hat-7b
nodes=(hat-7b-0 hat-7b-1)
where=(--project=p --zone=z)
tpus=(gcloud compute tpus)

say() { echo "$(date -u +%FT%TZ) $name: $*" >&2; }

exists() { gcloud storage ls "$1" >/dev/null 2>&1; }

# The state of the request, ABSENT, or UNKNOWN where the service does not answer.
state() {
  local answer
  if answer=$("${tpus[@]}" queued-resources describe "$name" "${where[@]}" \
    --format='value(state.state)' 2>&1); then
    echo "${answer:-UNKNOWN}"
  elif [[ $answer == *NOT_FOUND* || $answer == *"not found"* ]]; then
    echo ABSENT
  else
    echo "$answer" >&2
    echo UNKNOWN
  fi
}

# Whether some host of an active request has gone: a preempted slice may keep its request.
lost() {
  local node answer
  for node in "${nodes[@]}"; do
    answer=$("${tpus[@]}" tpu-vm describe "$node" "${where[@]}" --format='value(state)' 2>&1) ||
      [[ $answer == *NOT_FOUND* || $answer == *"not found"* ]] || continue
    case $answer in READY | CREATING | STARTING | RESTARTING | REPAIRING) ;; *) return 0 ;; esac
  done
  return 1
}

delete() {
  "${tpus[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet ||
    say "could not delete the request; trying again"
}

gcloud storage rm "$out/launch-failed.txt" >/dev/null 2>&1 || true # of an earlier launch
while :; do
  state=$(state)
  if exists "$out/result.json"; then
    ended=0
  elif exists "$out/launch-failed.txt"; then
    ended=1
  else
    ended=
  fi
  if [ -n "$ended" ]; then
    if [ "$state" = ABSENT ]; then
      [ "$ended" -eq 1 ] || { say finished; exit 0; }
      gcloud storage cat "$out/launch-failed.txt" >&2
      exit 1
    fi
    say "the run has ended, the request is $state: deleting it"
    delete
  else
    case $state in
    ABSENT)
      say "asking for 2 x v6e:16x16"
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
  sleep "${POLL_SECONDS:-60}"
done
