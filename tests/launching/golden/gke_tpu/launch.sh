#!/usr/bin/env bash
# Starts hat-7b on GKE, or goes on with it. Rendered by `hat launch gke`.
set -euo pipefail
cd "$(dirname "$0")"
cluster=(--project=my-project --location=us-east5-a)
gcloud container clusters get-credentials pods "${cluster[@]}"
jobset=(--namespace=default jobset/hat-7b)
ended=$(kubectl get --ignore-not-found "${jobset[@]}" -o 'jsonpath={.status.terminalState}')
if [ -n "$ended" ]; then
  echo "the last JobSet of this name has ended ($ended); making a new one" >&2
  kubectl delete --wait "${jobset[@]}"
fi
kubectl apply -f jobset.json
echo "kubectl logs -f --namespace=default -c train -l" \
  "jobset.sigs.k8s.io/jobset-name=hat-7b,batch.kubernetes.io/job-completion-index=0"
