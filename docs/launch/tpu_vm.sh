#!/usr/bin/env bash
# A TPU pod slice of VMs: `docs/launch/tpu_vm.sh NAME ZONE BUCKET_FOLDER configs/own.py [--section.field value ...]`.
# The same command on all workers; jax finds their places. BUCKET_FOLDER is a path that all VMs have mounted (gcsfuse, say).
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
words=$(printf '%q ' "$config" --run.dir "$folder" "$@")
on_all "cd jgpt && .venv/bin/python train.py $words"
