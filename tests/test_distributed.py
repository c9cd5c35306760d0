"""Several processes are one run: their place is found, and they compute, save, stop, die and resume as one process would."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_end_to_end import STEPS, card, last_step

import jgpt
from jgpt import distributed, runfolder
from jgpt.config import DistributedConfig
from jgpt.heartbeat import LOST
from jgpt.launchers import Place, find, settle
from jgpt.runtime import NO_TPU
from jgpt.simulated import Simulation, free_port

NONE = DistributedConfig()
MESH = ("--mesh.data", "2", "--mesh.fsdp", "2")
RUN_SECONDS = 280  # of a run of 12 steps, which takes a tenth of that: it hangs
SAME = 1e-5  # relative; f32, sums over devices in another order, over 12 steps


@pytest.mark.parametrize(
    ("config", "environment", "place"),
    [
        ({}, {}, None),
        (dict(coordinator="a:1", num_processes=2, process_id=1), {}, Place(None, "a:1", 2, 1)),
        ({}, dict(JGPT_COORDINATOR="a:1", JGPT_NUM_PROCESSES="2", JGPT_PROCESS_ID="0"), Place(None, "a:1", 2, 0)),
        (dict(process_id=1), dict(JGPT_COORDINATOR="a:1", JGPT_NUM_PROCESSES="2"), Place(None, "a:1", 2, 1)),
        (
            {},
            dict(SLURM_JOB_ID="7", SLURM_STEP_NODELIST="n[1-2]", SLURM_NTASKS="2", SLURM_PROCID="1"),
            Place("Slurm", None, 2, 1),
        ),
        ({}, dict(SLURM_JOB_ID="7", SLURM_STEP_NODELIST="n1", SLURM_NTASKS="1", SLURM_PROCID="0"), None),
        ({}, dict(SLURM_JOB_ID="7"), None),  # a shell on a login node
        ({}, dict(OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="3"), Place("Open MPI", None, 4, 3)),
        ({}, dict(TPU_WORKER_HOSTNAMES="a,b,c,d", TPU_WORKER_ID="2"), Place("TPU pod", None, 4, 2)),
        ({}, dict(TPU_WORKER_HOSTNAMES="localhost", TPU_WORKER_ID="0"), None),
        # where there is no TPU
        (dict(coordinator="a:1", num_processes=2, process_id=1), NO_TPU, Place(None, "a:1", 2, 1)),
        ({}, NO_TPU | dict(OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="3"), Place("Open MPI", None, 4, 3)),
        (
            {},
            dict(TPU_WORKER_HOSTNAMES="a,b,c,d", TPU_WORKER_ID="2", MEGASCALE_NUM_SLICES="3", MEGASCALE_SLICE_ID="2"),
            Place("TPU pod", None, 12, 10),
        ),
        (
            {},  # under GKE
            dict(TPU_WORKER_HOSTNAMES="a,b", TPU_WORKER_ID="1", KUBERNETES_SERVICE_HOST="x", JOB_COMPLETION_INDEX="1"),
            Place("TPU pod", None, 2, 1),
        ),
        (dict(process_id=5), dict(TPU_WORKER_HOSTNAMES="a,b", MEGASCALE_NUM_SLICES="3"), Place("TPU pod", None, 6, 5)),
        ({}, dict(KUBERNETES_SERVICE_HOST="x", JOB_COMPLETION_INDEX="5"), Place("Kubernetes", None, None, 5)),
        ({}, dict(KUBERNETES_SERVICE_HOST="x"), None),  # a notebook in a cluster
    ],
)
def test_a_place_is_found(config: dict, environment: dict, place: Place | None) -> None:
    assert find(DistributedConfig(**config), environment) == place


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (dict(JGPT_COORDINATOR="a:1"), "num_processes, process_id is not known"),
        (dict(JGPT_COORDINATOR="a:1", JGPT_NUM_PROCESSES="two", JGPT_PROCESS_ID="0"), "JGPT_NUM_PROCESSES is 'two'"),
        (dict(JGPT_COORDINATOR="a", JGPT_NUM_PROCESSES="2", JGPT_PROCESS_ID="0"), "must be HOST:PORT"),
        (dict(JGPT_COORDINATOR="a:1", JGPT_NUM_PROCESSES="2", JGPT_PROCESS_ID="2"), "process_id is 2 of 2"),
        (dict(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0", JGPT_PROCESS_ID="7"), "has number 7 of 2 (Open MPI)"),
    ],
)
def test_half_a_place_is_refused(environment: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        find(NONE, environment)


def test_slurm_tells_jax_where_the_first_process_is_and_whose_devices_are_whose(monkeypatch) -> None:
    told = dict(
        SLURM_JOB_ID="7",
        SLURM_STEP_NODELIST="gpu[03-05],x1",
        SLURM_NTASKS="8",
        SLURM_PROCID="5",
        SLURM_LOCALID="1",
        SLURM_STEP_NUM_NODES="4",
    )
    monkeypatch.setattr(os, "environ", told)
    place = find(NONE, told)
    assert place is not None
    known = settle(place, 1)
    assert known.coordinator is not None and known.coordinator.startswith("gpu03:")
    assert (known.processes, known.process, known.devices) == (8, 5, [1])


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            dict(OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="3"),
            "give --distributed.coordinator; unset",
        ),  # version 5
        (dict(KUBERNETES_SERVICE_HOST="x", JOB_COMPLETION_INDEX="5"), "pip install 'jax[k8s]', or give"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of jax, which says the same at length
def test_what_a_launcher_did_not_tell_is_named(environment: dict, words: str, monkeypatch) -> None:
    monkeypatch.setattr(os, "environ", environment)
    place = find(NONE, environment)
    assert place is not None
    with pytest.raises(ValueError, match=re.escape(words)):
        settle(place, 1)


def test_alone_nothing_changes(monkeypatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    params = {"a": np.zeros(3)}
    with distributed.joined(NONE) as heartbeat:
        assert (
            heartbeat is None and distributed.is_first() and distributed.stop_asked(3, signal.SIGTERM) == signal.SIGTERM
        )
        assert distributed.own_copy(params, jax.sharding.Mesh(jax.devices(), "x")) is params


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in runfolder.read_metrics(run / "metrics.jsonl") if "loss" in record]


def run_to_end(path: Path, processes: int, devices: int, *options: str) -> list[str]:
    """Return what the run said; one that hangs says where, and fails."""
    said: list[str] = []
    with Simulation([str(path), *options], processes, devices, said.append) as simulation:

        def end() -> None:
            simulation.signal(signal.SIGUSR1)
            time.sleep(5)
            simulation.signal(signal.SIGKILL)

        hangs = threading.Timer(RUN_SECONDS, end)
        hangs.start()
        status = simulation.wait(60)
        hangs.cancel()
        assert status == 0, "\n".join(said)
    return said


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("\n".join(p.read_text() for p in sorted(Path(__file__).parent.glob("test_*.py"))))
    return path


def make_card(folder: Path, text: Path) -> Path:
    folder.mkdir()
    return card(folder, text)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """Train in two processes of two devices, without a break; return the run card."""
    path = make_card(tmp_path_factory.mktemp("together") / "x", text)
    said = run_to_end(path, 2, 2, *MESH)
    assert any("[1] process 1 of 2: all are there; 4 devices (cpu), 2 of them here" in line for line in said)
    assert not [line for line in said if line.startswith("[1]") and "held out" in line], "process 0 speaks for all"
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_compute_what_one_does(together: Path, tmp_path: Path, text: Path) -> None:
    """The same mesh over two processes and over one: losses and every held-out score; the run's folder is whole."""
    alone = make_card(tmp_path / "alone", text)
    run_to_end(alone, 1, 4, *MESH)
    runs = [path.parent / "run" for path in (together, alone)]
    assert len(losses(runs[0])) == len(losses(runs[1])) == 7
    np.testing.assert_allclose(losses(runs[0]), losses(runs[1]), rtol=SAME)
    scores = [jgpt.configio.json.loads((run / "report.json").read_text())["scores"] for run in runs]
    assert scores[0].keys() == scores[1].keys()
    for name in scores[0]:  # answers too, of which each process gave its share
        assert scores[0][name] == pytest.approx(scores[1][name], rel=SAME), name
    assert not runfolder.RunFolder(runs[0]).shared_data.exists()
    assert jgpt.load(runs[0]).step == STEPS and (runs[0] / "plots" / "digits.png").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_process_ends_all_and_they_resume_to_the_bit(together: Path, tmp_path: Path, text: Path) -> None:
    """Kill one of two, by progress; the other names it within the heartbeat, and the end is that of an unbroken run."""
    path = make_card(tmp_path / "killed", text)
    options = (*MESH, "--distributed.heartbeat-seconds", "6")
    rng = random.Random(1)
    for victim, reached in ((1, 4), (0, 8)):
        said: list[str] = []
        with Simulation([str(path), *options], 2, 2, said.append) as simulation:
            child = simulation.children[victim].process
            while child.poll() is None and last_step(path.parent / "run" / "metrics.jsonl") < reached:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.3))
            assert child.poll() is None
            child.send_signal(signal.SIGKILL)
            begun = time.monotonic()
            assert simulation.wait(30) == LOST, "\n".join(said)  # whichever of them was killed
            assert time.monotonic() - begun < 6 + 4, said
        other = [line for line in said if line.startswith(f"[{1 - victim}]")]
        assert any(f"error: process {victim}" in line for line in other), "\n".join(said)
        assert any("last steps heard of, by process: 0: " in line for line in other)
    run_to_end(path, 2, 2, *MESH)
    a, b = (jgpt.load(p.parent / "run").params for p in (together, path))
    jax.tree.map(np.testing.assert_array_equal, a, b)


FAILS = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
from jgpt import distributed
from jgpt.config import DistributedConfig
from jgpt.progress import say
own, port, failing = map(int, sys.argv[1:4])
place = DistributedConfig(coordinator=f"127.0.0.1:{port}", num_processes=3, process_id=own, heartbeat_seconds=8)
with distributed.joined(place):
    distributed.wait("all have begun")
    if own == failing:
        if sys.argv[4] == "disk":
            raise OSError(28, "No space left on device")
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
        say("to nobody")
    distributed.wait("what never comes")
"""


@pytest.mark.parametrize(
    ("failing", "how", "why"),
    [
        (0, "disk", "[Errno 28] No space left"),
        (1, "disk", "[Errno 28] No space left"),
        (0, "pipe", "ended with status 1"),
    ],
)
def test_why_one_failed_is_said_by_all_whichever_it_is(failing: int, how: str, why: str) -> None:
    port = free_port()
    words = [sys.executable, "-c", FAILS]
    processes = [
        subprocess.Popen([*words, str(i), str(port), str(failing), how], stderr=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2, 2], "\n".join(said)
    for i, lines in enumerate(said):
        assert why in lines
        assert i == failing or f"error: process {failing} failed: {why}" in lines


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigterm_to_one_saves_on_all_and_another_number_of_processes_goes_on(
    together: Path, tmp_path: Path, text: Path
) -> None:
    path = make_card(tmp_path / "stopped", text)
    said: list[str] = []
    with Simulation([str(path), *MESH], 2, 2, said.append) as simulation:
        while last_step(path.parent / "run" / "metrics.jsonl") < 2:
            assert simulation.children[0].process.poll() is None, "\n".join(said)
            time.sleep(0.02)
        simulation.children[1].process.send_signal(signal.SIGTERM)
        assert simulation.wait(60) == 128 + signal.SIGTERM, "\n".join(said)
    assert any(re.search(r"saved step \d+ of 12", line) for line in said), "\n".join(said)
    said = run_to_end(path, 1, 1)
    assert any("continuing from step" in line for line in said)
    np.testing.assert_allclose(losses(path.parent / "run")[-1], losses(together.parent / "run")[-1], rtol=SAME)


FEW = "--train.steps 4 --optim.warmup-steps 1 --eval.every-steps 4 --checkpoint.every-steps 4 --train.log-every-steps 1"
FOUR = {
    "rows": ("--mesh.slice 2 --mesh.fsdp 2 --mesh.tensor 2", ""),
    # each row lies on two processes
    "experts": ("--mesh.expert 2 --mesh.context 4", "--model.context-length 136 --model.num-experts 4"),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FOUR)
def test_four_processes_of_two_devices_equal_one_device(name: str, tmp_path: Path, text: Path) -> None:
    """Losses of the steps, and every held-out likelihood behind them."""
    mesh, model = (words.split() for words in FOUR[name])
    four, one = make_card(tmp_path / "four", text), make_card(tmp_path / "one", text)
    run_to_end(four, 4, 2, *FEW.split(), *model, *mesh)
    run_to_end(one, 1, 1, *FEW.split(), *model)
    runs = [path.parent / "run" for path in (four, one)]
    assert len(losses(runs[1])) == 4
    np.testing.assert_allclose(losses(runs[0]), losses(runs[1]), rtol=SAME)
    scores = [jgpt.configio.json.loads((run / "report.json").read_text())["scores"] for run in runs]
    for score in (name for name in scores[1] if "nats" in name or "bits" in name):
        assert scores[0][score] == pytest.approx(scores[1][score], rel=SAME), score


PROCESS = """
import sys
import jax, numpy as np
from jgpt import distributed, sharding
from jgpt.config import DistributedConfig, MeshConfig
from jax.sharding import NamedSharding, PartitionSpec

place = DistributedConfig(coordinator=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]), start_seconds=60)
with distributed.joined(place) as heartbeat:
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=2, tensor=2))
    whole = {"matrix": np.arange(24.0).reshape(4, 6), "odd": np.arange(3.0), "scalar": np.float32(7)}
    specs = {"matrix": PartitionSpec("fsdp", "tensor"), "odd": PartitionSpec(), "scalar": PartitionSpec()}
    params = {
        name: jax.make_array_from_callback(np.shape(value), NamedSharding(mesh, specs[name]), lambda at, v=value: v[at])
        for name, value in whole.items()
    }
    own = distributed.own_copy(params, mesh)
    for name, value in whole.items():
        assert own[name].sharding.device_set == set(jax.local_devices()), name
        np.testing.assert_array_equal(np.asarray(own[name]), value)
    assert len(own["matrix"].addressable_shards[0].data) == 2  # half of it on each of the process's devices
    mine = "é" * 3 * distributed.is_first()
    assert distributed.gathered(mine) == ["ééé", ""]
    assert distributed.made_by_first("number", lambda: 7 // distributed.is_first()) == 7  # process 1 would divide by zero
    print("done", distributed.is_first(), heartbeat is not None, distributed.stop_asked(1, 0))
"""


def test_processes_share_parameters_words_and_what_the_first_makes() -> None:
    """Two processes of two devices; parameters that are split over all four come to each process's two, whole."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(i)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for i in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    for number, (process, words) in enumerate(zip(processes, said, strict=True)):
        assert process.returncode == 0 and f"done {number == 0} True 0" in words, words
