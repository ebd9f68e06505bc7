"""GKE: a JobSet for kubectl, and the same run as a command line of XPK.

    jobset.json   one Job for each TPU slice, or one for all GPU nodes; a pod for each host
    launch.sh     applies it; a JobSet of that name that is there goes on or is made anew
    xpk.sh        TPUs only: the same run through XPK, for clusters that XPK made
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from hat.errors import UserError
from hat.launching import flags, shell
from hat.launching.description import Launch
from hat.launching.topologies import GENERATIONS

COORDINATOR_PORT = 8476
# A node that goes away gives its pods less (Spot: about 15 s); a planned drain gives this long.
GRACE_SECONDS = 120
GPU_LABELS = {
    "a100": "nvidia-tesla-a100",
    "a100-80gb": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h100-mega": "nvidia-h100-mega-80gb",
    "h200": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
}


def render(launch: Launch) -> dict[str, str]:
    """File name -> content. UserError: the description lacks what GKE needs."""
    manifest = json.dumps(jobset(launch), indent=2) + "\n"
    files = {"jobset.json": manifest, "launch.sh": _launch_script(launch)}
    return files | ({"xpk.sh": _xpk_script(launch)} if launch.tpu else {})


def jobset(launch: Launch) -> dict[str, Any]:
    """The JobSet (jobset.x-k8s.io/v1alpha2) of a run, as JSON objects."""
    gke = launch.section("gke", "gke")
    bucket = shell.bucket_of(launch, "gke")
    if launch.tpu:
        generation = GENERATIONS[launch.tpu.slice.generation]
        jobs, hosts = launch.tpu.slices, launch.tpu.slice.hosts
        per_host = {"google.com/tpu": str(launch.tpu.slice.chips // hosts)}
        selector = {
            "cloud.google.com/gke-tpu-accelerator": generation.gke,
            "cloud.google.com/gke-tpu-topology": launch.tpu.slice.shape,
        }
        # One slice is one node pool, and no other Job may take part of it.
        annotations = {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
        }
        volumes = {}
    else:
        if not launch.gpu:
            raise UserError(
                "the run description has neither [tpu] nor [gpu]; hat launch gke needs one of them"
            )
        gpu = launch.gpu
        if gpu.process_per == "gpu":
            raise UserError('gpu.process_per="gpu": a pod on GKE is a node; set it to "node"')
        jobs, hosts = 1, gpu.nodes
        per_host = {"nvidia.com/gpu": str(gpu.per_node)}
        selector = {"cloud.google.com/gke-accelerator": GPU_LABELS[gpu.model]}
        annotations = {}
        volumes = {"/dev/shm": {"emptyDir": {"medium": "Memory"}}}  # NCCL: 64 MB are too few
    if gke.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    options = "implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0"
    volumes[f"{shell.MOUNT}/{bucket}"] = {
        "csi": {
            "driver": "gcsfuse.csi.storage.gke.io",
            "volumeAttributes": {"bucketName": bucket, "mountOptions": options},
        }
    }
    container = {
        "name": "train",
        "image": gke.image,
        "command": ["bash", "-c", _literal(_pod_script(launch))],
        "env": [
            {"name": name, "value": _literal(value)} for name, value in _environment(launch).items()
        ],
        "resources": {"limits": per_host},
        "volumeMounts": [
            {"name": f"volume-{i}", "mountPath": path} for i, path in enumerate(volumes)
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": gke.service_account,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "nodeSelector": selector,
        "containers": [container],
        "volumes": [
            {"name": f"volume-{i}", **source} for i, source in enumerate(volumes.values())
        ],
    }
    job = {
        "completionMode": "Indexed",
        "parallelism": hosts,
        "completions": hosts,
        "backoffLimit": 0,  # one pod that fails ends the Job, and the JobSet starts all again
        "podFailurePolicy": {"rules": [
            {"action": "FailJob", "onPodConditions": [
                {"type": "DisruptionTarget", "status": "True"}
            ]},
            {"action": "FailJob", "onExitCodes": {
                "containerName": "train", "operator": "In", "values": [shell.DRAINED_STATUS]
            }},
        ]},
        "template": {
            "metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}},
            "spec": pod,
        },
    }  # fmt: skip
    metadata: dict[str, Any] = {"name": launch.name, "namespace": gke.namespace}
    if gke.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": gke.queue}
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {
                "maxRestarts": launch.restarts,
                # Losing a node is no failure of the run, and uses up none of its restarts.
                "rules": [{
                    "name": "disrupted",
                    "action": "RestartJobSetAndIgnoreMaxRestarts",
                    "onJobFailureReasons": ["PodFailurePolicy"],
                }],
            },
            "network": {"enableDNSHostnames": True},
            "replicatedJobs": [
                {"name": "workers", "replicas": jobs, "template": {"spec": job}}
            ],
        },
    }  # fmt: skip


def _literal(text: str) -> str:
    """`text` for a field in which Kubernetes expands $(NAME): it reads $$ as one $."""
    return text.replace("$", "$$")


def _environment(launch: Launch) -> dict[str, str]:
    if launch.tpu:
        table = flags.tpu_environment(launch.tpu.slice.generation)
        contract = {"HAT_DISTRIBUTED": "auto"}
    else:
        table = flags.gpu_environment()
        contract = {
            "HAT_COORDINATOR": f"{launch.name}-workers-0-0.{launch.name}:{COORDINATOR_PORT}",
            "HAT_NUM_PROCESSES": str(launch.gpu.processes),
        }
    cache = shell.compile_cache(shell.mounted(launch.out))
    return shell.environment(launch, table, cache, shell.PATIENCE) | contract


def _pod_script(launch: Launch) -> str:
    """What a pod runs, on one line. As the first process of a container, bash neither passes
    SIGTERM on nor dies of it."""
    hardware = launch.tpu or launch.gpu
    folder = shell.mounted(launch.folder)
    words = shell.train_words(launch, folder, hardware.processes, hardware.devices)
    index = "" if launch.tpu else 'export HAT_PROCESS_ID="$JOB_COMPLETION_INDEX"; '
    return (
        f"{index}{shlex.join(words)} & child=$!; trap 'kill -TERM \"$child\"' TERM; "
        # SIGTERM ends a wait early, and a child may be gone before the first one: bash keeps its
        # status for the last.
        'while kill -0 "$child" 2>/dev/null; do wait "$child"; done; wait "$child" || exit; '
        f"[ -e {folder}/{shell.RESULT} ] || exit {shell.DRAINED_STATUS}"
    )


def _launch_script(launch: Launch) -> str:
    gke = launch.gke
    return f"""\
#!/usr/bin/env bash
# Starts {launch.name} on GKE, or goes on with it. Rendered by `hat launch gke`.
set -euo pipefail
cd "$(dirname "$0")"
cluster=(--project={gke.project} --location={gke.zone})
gcloud container clusters get-credentials {gke.cluster} "${{cluster[@]}}"
jobset=(--namespace={gke.namespace} jobset/{launch.name})
ended=$(kubectl get --ignore-not-found "${{jobset[@]}}" -o 'jsonpath={{.status.terminalState}}')
if [ -n "$ended" ]; then
  echo "the last JobSet of this name has ended ($ended); making a new one" >&2
  kubectl delete --wait "${{jobset[@]}}"
fi
kubectl apply -f jobset.json
echo "kubectl logs -f --namespace={gke.namespace} -c train -l" \\
  "jobset.sigs.k8s.io/jobset-name={launch.name},batch.kubernetes.io/job-completion-index=0"
"""


def _xpk_script(launch: Launch) -> str:
    gke, bucket = launch.gke, shell.bucket_of(launch, "gke")
    assignments = "".join(
        f"export {name}={shlex.quote(value)}; " for name, value in _environment(launch).items()
    )
    where = [f"--project={gke.project}", f"--zone={gke.zone}", f"--cluster={gke.cluster}"]
    attach = [
        "xpk", "storage", "attach", bucket, *where, "--type=gcsfuse", f"--bucket={bucket}",
        f"--mount-point={shell.MOUNT}/{bucket}", "--readonly=false", "--auto-mount=true",
        "--size=1024",
    ]  # fmt: skip
    create = [
        "xpk", "workload", "create", *where, f"--workload={launch.name}",
        f"--tpu-type={launch.tpu.slice.accelerator_type}", f"--num-slices={launch.tpu.slices}",
        f"--docker-image={gke.image}", f"--max-restarts={launch.restarts}",
        f"--command={_literal(assignments + _pod_script(launch))}",
    ]  # fmt: skip
    return f"""\
#!/usr/bin/env bash
# Starts {launch.name} on a cluster made by XPK. Rendered by `hat launch gke`.
# Once for a cluster, so that its pods see the bucket:
#   {shlex.join(attach)}
set -euo pipefail
# shellcheck disable=SC2016  # the command is for the shell of the pods
exec {shell.command(create)}
"""
