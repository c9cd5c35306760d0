"""The launch files of docs/launch: valid, and run dry with stand-ins for the schedulers' programs."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jgpt.configio import from_arguments

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "docs" / "launch"


# Fields of JobSet v1alpha2, Job v1 and Pod v1 that a launch file may use; an unknown one is dropped or refused by the cluster.
NAMES: dict[str, Any] = {"*": None}  # any key, with a plain value
POD = {
    "restartPolicy": None,
    "terminationGracePeriodSeconds": None,
    "nodeSelector": NAMES,
    "containers": {
        "name": None,
        "image": None,
        "workingDir": None,
        "command": None,
        "env": {"name": None, "value": None},
        "resources": {"requests": NAMES, "limits": NAMES},
        "volumeMounts": {"name": None, "mountPath": None, "readOnly": None},
    },
    "volumes": {"name": None, "persistentVolumeClaim": {"claimName": None}},
}
JOB = {
    "parallelism": None,
    "completions": None,
    "completionMode": None,
    "backoffLimit": None,
    "podFailurePolicy": {
        "rules": {"action": None, "onExitCodes": {"containerName": None, "operator": None, "values": None}}
    },
    "template": {"metadata": {"labels": NAMES}, "spec": POD},
}
FIELDS = {
    "apiVersion": None,
    "kind": None,
    "metadata": {"name": None},
    "spec": {
        "failurePolicy": {"maxRestarts": None, "rules": {"name": None, "action": None, "onJobFailureReasons": None}},
        "replicatedJobs": {"name": None, "replicas": None, "template": {"spec": JOB}},
    },
}


def unknown_fields(value: Any, fields: dict[str, Any] | None, at: str = "") -> list[str]:
    """Return where a manifest has fields that `fields` does not; of lists, those of their items."""
    if isinstance(value, list):
        return [name for item in value for name in unknown_fields(item, fields, at)]
    if not isinstance(value, dict):
        return []
    if fields is None:
        return [at]
    found = []
    for key, inner in value.items():
        path = f"{at}.{key}".lstrip(".")
        known = "*" if "*" in fields else key
        found += unknown_fields(inner, fields[known], path) if known in fields else [path]
    return found


def dry(
    script: str, folder: Path, programs: dict[str, str], *words: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with stand-ins: `programs` are bodies of shell scripts by their names."""
    for name, body in programs.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"} | variables
    command = ["bash", str(LAUNCH / script), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=30)


@pytest.mark.parametrize(
    ("status", "again"), [(0, False), (1, False), (2, False), (75, True), (137, True), (143, True)]
)
def test_slurm_queues_again_what_was_lost_and_not_what_would_fail_again(
    tmp_path: Path, status: int, again: bool
) -> None:
    programs = {"srun": f'echo "srun $*"; exit {status}', "scontrol": 'echo "scontrol $*"'}
    done = dry("slurm.sbatch", tmp_path, programs, "configs/own.py", "--data.path", "a b", SLURM_JOB_ID="7")
    assert done.returncode == status
    assert "srun --kill-on-bad-exit=0 python train.py configs/own.py --data.path a b" in done.stdout
    assert ("scontrol requeue 7" in done.stdout) == again
    often = dry("slurm.sbatch", tmp_path, programs, "configs/own.py", SLURM_JOB_ID="7", SLURM_RESTART_COUNT="20")
    assert often.returncode == status and "scontrol" not in often.stdout


def test_tpu_vms_are_told_their_places(tmp_path: Path) -> None:
    gcloud = 'if [[ "$*" == *describe* ]]; then echo "10.0.0.1;10.0.0.2"; else echo "gcloud $*"; fi'
    words = ["pod", "zone", "/mnt/runs/x", "configs/own.py", "--data.path", "a b"]
    done = dry("tpu_vm.sh", tmp_path, {"gcloud": gcloud}, *words, JGPT_REPOSITORY="https://example.org/jgpt")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert (
        "--worker=all" in last and "JGPT_COORDINATOR=10.0.0.1:8476 JGPT_NUM_PROCESSES=2 JGPT_PROCESS_ID=$(curl" in last
    )
    assert last.endswith("python train.py configs/own.py --run.dir /mnt/runs/x --data.path a\\ b ")
    assert dry("tpu_vm.sh", tmp_path, {"gcloud": gcloud}, "pod").returncode != 0


def test_the_jobset_is_whole_and_its_command_is_one(monkeypatch) -> None:
    jobs = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert not unknown_fields(jobs, FIELDS)
    jobs["spec"]["replicatedJobs"][0]["template"]["spec"]["paralelism"] = 4
    assert unknown_fields(jobs, FIELDS) == ["spec.replicatedJobs.template.spec.paralelism"]
    assert (jobs["apiVersion"], jobs["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobs["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 4  # 4 hosts of 4 chips: the 4x4 of the node selector
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [1, 2]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    program, script, card, *words = container["command"]
    assert (program, script) == ("python", "train.py")
    monkeypatch.chdir(ROOT)
    assert from_arguments(card, words, "", "").run.dir == "/runs/own"
