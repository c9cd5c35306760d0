#!/usr/bin/env bash
# A TPU pod slice of VMs: `docs/launch/tpu_vm.sh NAME ZONE BUCKET_FOLDER configs/own.py [--section.field value ...]`.
# The same command on all workers; each asks its own machine for its number, and worker 0 is where they meet. BUCKET_FOLDER is a
# path that all VMs have mounted (gcsfuse, say).
set -euo pipefail
name=${1:?name of the TPU}
zone=${2:?its zone}
folder=${3:?folder that all VMs share}
config=${4:?run card}
shift 4

on_all() {
    gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$1"
}

on_all "test -d jgpt || git clone ${JGPT_REPOSITORY:?where to clone jgpt from} jgpt"
on_all "cd jgpt && python3 -m venv .venv && .venv/bin/pip install -q 'jax[tpu]' && .venv/bin/pip install -q -e ."
addresses=$(gcloud compute tpus tpu-vm describe "$name" --zone "$zone" --format='value(networkEndpoints[].ipAddress)')
IFS=';' read -r -a workers <<<"$addresses"
number="curl -sf -H Metadata-Flavor:Google http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number"
place="JGPT_COORDINATOR=${workers[0]}:8476 JGPT_NUM_PROCESSES=${#workers[@]} JGPT_PROCESS_ID=\$($number)"
words=$(printf '%q ' "$config" --run.dir "$folder" "$@")
on_all "cd jgpt && $place .venv/bin/python train.py $words"
