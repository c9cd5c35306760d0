"""Checkpoints come back bit for bit, survive kills, damage and full disks, and say which step was skipped and why."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from jgpt import checkpoint, manifest
from jgpt.checkpoint import Checkpoints, kept

ROOT = Path(__file__).resolve().parents[1]
RECORD: dict[str, Any] = {"position": {"next_index": 12}, "config": {"a": [1, None]}, "tokenizer": {"vocab": "é\n"}}


class State(NamedTuple):
    """A train state in miniature: every kind of leaf and container that a real one has."""

    step: Any
    params: Any
    opt_state: Any
    key: Any


def make_state(seed: int = 0, width: int = 16) -> State:
    """Return a state of float32, bfloat16, int32 and uint32 leaves in tuples, lists, dicts and optax's classes."""
    params = {
        "embed": jax.random.normal(jax.random.key(seed), (2 * width, width)),
        "blocks": [{"w": jnp.full((8, width), seed + i, jnp.bfloat16) * 1.1} for i in range(2)],
        "odd/name": jnp.arange(5),
    }
    moments = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(params)
    return State(jnp.int32(seed), params, moments, jax.random.key_data(jax.random.key(seed)))


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def require_same_bits(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def opened(folder: Path, keep_latest: int = 10, keep_best: int = 0) -> Checkpoints:
    return Checkpoints(folder, every_steps=5, keep_latest=keep_latest, keep_best=keep_best)


def saved(folder: Path, *steps: int) -> Path:
    """Save `make_state(step)` for every step, and return the folder."""
    with opened(folder) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), **RECORD)
    return folder


def array_file(step: Path) -> Path:
    """Return the largest file of a step: the array data."""
    return max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 0x10
    file.write_bytes(data)


def test_round_trip_is_bitwise_and_carries_the_record(tmp_path: Path) -> None:
    state = make_state(3)
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(7, state, **RECORD, validation_loss=1.5)
    restored = opened(tmp_path / "c").restore(abstract(state))
    assert restored is not None
    require_same_bits(state, restored.state)
    assert restored._replace(state=None) == (7, None, {"next_index": 12}, {"a": [1, None]}, {"vocab": "é\n"}, 1.5)


def test_empty_folder_restores_nothing_and_is_not_created(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path / "c")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.restore(abstract(make_state())) is None
    assert checkpoints.steps() == [] and not (tmp_path / "c").exists()
    with pytest.raises(FileNotFoundError, match=r"train first \(python train.py"):
        checkpoints.restore(abstract(make_state()), required=True)


def test_due_at_multiples_of_the_interval(tmp_path: Path) -> None:
    assert [step for step in range(12) if opened(tmp_path).due(step)] == [0, 5, 10]
    for keep_best in (0, 1):  # a step that was validated may be the best, where those are kept
        checkpoints = Checkpoints(tmp_path, every_steps=5, keep_latest=1, keep_best=keep_best)
        assert checkpoints.due(3, validated=True) == (keep_best == 1) and checkpoints.due(5, validated=False)


def test_no_save_is_skipped_however_fast_they_come(tmp_path: Path) -> None:
    assert opened(saved(tmp_path / "c", *range(8))).steps() == list(range(8))


def test_saved_bits_are_those_of_the_call_though_the_arrays_are_donated(tmp_path: Path) -> None:
    advance = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    state = {f"w{i}": jnp.zeros((300, 1000)) for i in range(4)}
    shapes = abstract(state)
    with opened(tmp_path / "c") as checkpoints:
        for step in range(5):
            checkpoints.save(step, state, **RECORD)
            for _ in range(10):
                state = advance(state)
        for step in range(5):
            restored = checkpoints.restore(shapes, step=step)
            assert restored is not None
            for leaf in jax.tree.leaves(restored.state):
                np.testing.assert_array_equal(leaf, 10.0 * step)


def test_saving_a_step_again_changes_nothing(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", 1, 2)
    before = (folder / "2" / manifest.NAME).stat().st_mtime_ns
    saved(folder, 2)
    assert opened(folder).steps() == [1, 2]
    assert (folder / "2" / manifest.NAME).stat().st_mtime_ns == before


def test_part_of_the_state_is_restored_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", 4)
    state = make_state(4)
    restored = opened(folder).restore({"params": abstract(state.params)}, partial=True)
    assert restored is not None
    require_same_bits({"params": state.params}, restored.state)


def test_another_config_is_refused_with_names_and_both_shapes(tmp_path: Path) -> None:
    checkpoints = opened(saved(tmp_path / "c", 4))
    with pytest.raises(ValueError, match="another config") as wide:
        checkpoints.restore(abstract(make_state(4, width=24)))
    assert r"params/embed: saved float32[32, 16], config asks for float32[48, 24]" in str(wide.value)
    assert "9 of 15 arrays differ" in str(wide.value) and "and 4 more" in str(wide.value)
    state = make_state(4)
    with pytest.raises(ValueError, match=r"key: saved uint32\[2\], config asks for nothing"):
        checkpoints.restore(abstract({"params": state.params}))
    with pytest.raises(ValueError, match=r"step: saved int32\[\], config asks for float32\[\]"):
        checkpoints.restore(abstract(state._replace(step=jnp.float32(4))))
    with pytest.raises(ValueError, match=r"ema: saved nothing, config asks for float32\[3\]"):
        checkpoints.restore(abstract({"ema": jnp.zeros(3)}), partial=True)


def test_record_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "c") as checkpoints, pytest.raises(ValueError, match="step 3 must be JSON.*ArrayImpl"):
        checkpoints.save(3, make_state(), position={"i": jnp.int32(3)}, config={}, tokenizer={})


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.4, 0.6, 0.8, 0.999])
def test_flipped_byte_in_the_arrays_falls_back(tmp_path: Path, share: float) -> None:
    folder = saved(tmp_path / "c", 1, 2)
    file = array_file(folder / "2")
    flip(file, int(share * file.stat().st_size))
    name = file.relative_to(folder / "2")
    with pytest.warns(UserWarning, match=rf"c/2 is skipped: {name} holds other bytes.*continuing from step 1 instead"):
        restored = opened(folder).restore(abstract(make_state()))
    assert restored is not None and restored.step == 1
    require_same_bits(make_state(1), restored.state)


@pytest.mark.parametrize("name", ["record/data.json", "_CHECKPOINT_METADATA", "state/_METADATA", "manifest.json"])
@pytest.mark.parametrize("damage", ["delete", "truncate", "overwrite"])
def test_damage_to_any_file_falls_back(tmp_path: Path, name: str, damage: str) -> None:
    folder = saved(tmp_path / "c", 1, 2)
    file = folder / "2" / name
    if damage == "delete":
        file.unlink()
    elif damage == "truncate":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.warns(UserWarning, match=rf"c/2 is skipped: {name} .*continuing from step 1 instead"):
        restored = opened(folder).restore(abstract(make_state()))
    assert restored is not None and restored.step == 1


def test_nothing_whole_starts_anew_or_raises_where_required(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", 1, 2)
    for step in (1, 2):
        (folder / str(step) / manifest.NAME).unlink()
    with pytest.warns(UserWarning, match="starting anew") as caught:
        assert opened(folder).restore(abstract(make_state())) is None
    assert len(caught) == 2
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"every checkpoint.*steps \[1, 2\].*again"):
        opened(folder).restore(abstract(make_state()), required=True)


def test_named_step_is_never_replaced_by_another(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", 1, 2)
    restored = opened(folder).restore(abstract(make_state()), step=1)
    assert restored is not None and restored.step == 1
    with pytest.raises(ValueError, match=r"no checkpoint of step 9 .* there are \[1, 2\]"):
        opened(folder).restore(abstract(make_state()), step=9)
    flip(array_file(folder / "2"), 5)
    with pytest.raises(ValueError, match="c/2 is damaged: state/"):
        opened(folder).restore(abstract(make_state()), step=2)


def test_damaged_step_is_replaced_when_saved_again(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", 1, 2, 3)
    flip(array_file(folder / "2"), 5)
    (folder / "3" / manifest.NAME).unlink()
    with opened(folder) as checkpoints:
        with pytest.warns(UserWarning):
            restored = checkpoints.restore(abstract(make_state()))
        assert restored is not None and restored.step == 1
        checkpoints.save(2, make_state(2), **RECORD)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
        assert not (folder / "3").exists()  # found damaged and newer: gone once something newer than step 1 is safe
        checkpoints.save(3, make_state(3), **RECORD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = opened(folder).restore(abstract(make_state()))
    assert restored is not None and restored.step == 3


def test_readers_change_nothing_on_disk(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", 1, 2)
    flip(array_file(folder / "2"), 5)
    (folder / "3.orbax-checkpoint-tmp").mkdir()  # a training that runs beside the reader is writing it
    before = sorted(folder.rglob("*"))
    with opened(folder, keep_latest=1) as checkpoints, pytest.warns(UserWarning):
        checkpoints.restore(abstract(make_state()))
    assert sorted(folder.rglob("*")) == before


def test_step_deleted_while_it_is_read_gives_way_to_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "c", 1)
    reader = opened(folder)
    whole = reader._newest_whole

    def slow() -> int:
        chosen = whole()
        monkeypatch.undo()
        with opened(folder, keep_latest=1) as writer:
            writer.save(2, make_state(2), **RECORD)
        return chosen

    monkeypatch.setattr(reader, "_newest_whole", slow)
    restored = reader.restore(abstract(make_state()))
    assert restored is not None and restored.step == 2


@pytest.mark.parametrize("part", [".", "_CHECKPOINT_METADATA", "record", "state", "state/_METADATA", "state/d"])
def test_step_of_which_any_part_is_deleted_first_gives_way_to_a_newer_one(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "c", 1)
    load, read = checkpoint._load, checkpoint._read_record

    def loses(path: Path, *arguments: Any) -> Any:
        gone = path / part
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        try:
            load(path, *arguments)
            read(path)
        finally:  # it has met the hole, and raises what it makes of it
            monkeypatch.undo()
            with opened(folder, keep_latest=1) as writer:
                writer.save(2, make_state(2), **RECORD)
            shutil.rmtree(path, ignore_errors=True)
        raise AssertionError("nothing was missed")

    monkeypatch.setattr(checkpoint, "_load", loses)
    restored = opened(folder).restore(abstract(make_state()))
    assert restored is not None and restored.step == 2


@pytest.mark.parametrize(("latest", "best"), [(1, 0), (2, 1)])
def test_step_deleted_while_it_is_checked_gives_way_to_the_newest(
    latest: int, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training beside a reader replaces what is being read; neither is it damage, nor is an old step an answer."""
    with opened(tmp_path / "c", keep_latest=latest, keep_best=best) as writer:
        for step in (1, 2):
            writer.save(step, make_state(step), **RECORD, validation_loss=float(step))
        writer.wait()
        damage = manifest.damage

        def slow(folder: Path) -> str | None:
            monkeypatch.undo()
            for step in (3, 4, 5):
                writer.save(step, make_state(step), **RECORD, validation_loss=9.0)
                writer.wait()
            return damage(folder)

        monkeypatch.setattr(manifest, "damage", slow)
        restored = opened(tmp_path / "c").restore(abstract(make_state()))
    assert restored is not None and restored.step == 5


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: float("nan"), 6: 5.0, 7: None}
    with opened(tmp_path / "c", keep_latest=2, keep_best=1) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, make_state(step), **RECORD, validation_loss=loss)
            checkpoints.wait()
            assert checkpoints.steps()[-1] == step
    assert opened(tmp_path / "c").steps() == [2, 6, 7]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "6", "7"]


def test_kept_counts_only_finite_losses_and_prefers_the_newer() -> None:
    losses = {1: 2.0, 2: 2.0, 3: None, 4: float("nan"), 5: float("inf"), 6: 3.0}
    assert kept(losses, latest=1, best=0) == {6}
    assert kept(losses, latest=1, best=1) == {2, 6}
    assert kept(losses, latest=2, best=2) == {1, 2, 5, 6}
    assert kept(losses, latest=9, best=9) == set(losses)
    assert kept({3: None}, latest=1, best=3) == {3}


def test_failed_save_is_raised_by_the_next_call_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "c", 1)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    checkpoints = opened(folder)
    monkeypatch.setattr(manifest, "write", full)
    checkpoints.save(2, make_state(2), **RECORD)
    with pytest.raises(OSError, match=r"step 2 could not.*No space left.*\[1\]; nothing earlier.*same command again"):
        checkpoints.save(3, make_state(3), **RECORD)
    monkeypatch.undo()
    checkpoints.save(2, make_state(2), **RECORD)  # said once: the space is there again, and the run goes on
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]


def test_error_on_its_way_is_not_replaced_by_that_of_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "write", lambda _: (_ for _ in ()).throw(OSError("full")))

    def train(error: Exception | None) -> None:
        with opened(tmp_path) as checkpoints:
            checkpoints.save(2, make_state(2), **RECORD)
            if error:
                raise error

    with pytest.warns(RuntimeWarning, match="full"), pytest.raises(FloatingPointError, match="loss is nan"):
        train(FloatingPointError("loss is nan"))
    with pytest.raises(OSError, match="full"):
        train(None)


def test_file_size_limit_is_a_clear_error(tmp_path: Path) -> None:
    """A real failing write inside Orbax, in a process of its own since the limit cannot be lifted again."""
    output = run(
        f"""
        import resource
        import jax
        from jgpt.checkpoint import Checkpoints
        record = dict(position={{}}, config={{}}, tokenizer={{}})
        checkpoints = Checkpoints({str(tmp_path)!r}, every_steps=1, keep_latest=3, keep_best=0)
        large = {{"w": jax.random.normal(jax.random.key(0), (1000, 500))}}
        checkpoints.save(1, large, **record)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        checkpoints.save(2, large, **record)
        try:
            checkpoints.close()
        except OSError as error:
            print("MESSAGE", error)
        """
    )
    assert "MESSAGE the checkpoint of step 2 could not be written" in output and "File too large" in output
    assert "Complete there: [1]" in output and "Traceback" not in output
    assert [path.name for path in tmp_path.iterdir()] == ["1"]  # the failed step leaves nothing that fills the disk


def test_full_disk_loses_nothing_and_recovers(tmp_path: Path) -> None:
    """A real full file system: a tmpfs of 3 MB, where mounting is allowed."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        state = {"w": jax.random.normal(jax.random.key(0), (1000, 250))}
        checkpoints = opened(tmp_path / "c")
        with pytest.raises(OSError, match=r"(?i)no space left.*nothing earlier is lost"):
            for step in range(1, 6):
                checkpoints.save(step, state, **RECORD)
        newest = len(checkpoints.steps())
        assert newest >= 2 and checkpoints.steps() == list(range(1, newest + 1))
        restored = checkpoints.restore(abstract(state))
        assert restored is not None and restored.step == newest
        require_same_bits(state, restored.state)
        shutil.rmtree(tmp_path / "c" / "1")  # the user frees space and runs the same command again
        with opened(tmp_path / "c", keep_latest=1) as again:
            again.save(newest + 1, state, **RECORD)
        assert again.steps() == [newest + 1]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_restores_onto_another_mesh(tmp_path: Path) -> None:
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices (XLA_FLAGS=--xla_force_host_platform_device_count=8)")

    def mesh(rows: int, columns: int) -> jax.sharding.Mesh:
        return jax.make_mesh((rows, columns), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def split(tree: Any, rows: int, columns: int) -> Any:
        specs = {2: PartitionSpec("fsdp", "tensor"), 1: PartitionSpec(), 0: PartitionSpec()}
        return jax.tree.map(lambda leaf: NamedSharding(mesh(rows, columns), specs[leaf.ndim]), tree)

    state = make_state(5)
    sharded = jax.device_put(state, split(state, 4, 2))
    with opened(tmp_path) as checkpoints:
        checkpoints.save(5, sharded, **RECORD)
    for shape in ((4, 2), (2, 4), (8, 1), (1, 8)):
        wanted = abstract(jax.device_put(state, split(state, *shape)))
        restored = opened(tmp_path).restore(wanted)
        assert restored is not None
        require_same_bits(state, restored.state)
        jax.tree.map(lambda leaf, want: require_sharding(leaf, want.sharding), restored.state, wanted)
    bare = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    restored = opened(tmp_path).restore(bare)
    assert restored is not None
    require_sharding(restored.state.params["embed"], SingleDeviceSharding(jax.devices()[0]))


def require_sharding(leaf: jax.Array, sharding: jax.sharding.Sharding) -> None:
    assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def environment(devices: int = 1) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def run(script: str) -> str:
    """Return what a script printed, errors included."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


SAVE_UNTIL_KILLED = """
    import os, signal, sys
    import jax, jax.numpy as jnp
    from jgpt import manifest
    from jgpt.checkpoint import Checkpoints

    folder, kill_at = sys.argv[1], int(sys.argv[2])
    write = manifest.write

    def killed_before_the_manifest(path):
        if int(path.name) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path)

    manifest.write = killed_before_the_manifest
    checkpoints = Checkpoints(folder, every_steps=1, keep_latest=2, keep_best=0)
    state = {"w": jnp.zeros((400, 1000)), "step": jnp.int32(0)}
    restored = checkpoints.restore(jax.eval_shape(lambda: state))
    step = restored.step if restored else 0
    state = restored.state if restored else state
    while True:
        step, state = step + 1, jax.tree.map(lambda leaf: leaf + 1, state)
        checkpoints.save(step, state, position={"next_index": step}, config={}, tokenizer={})
        print(step - 1, flush=True)  # `save` waited for the one before, so that one is safe
    """


def kill_while_saving(folder: Path, *, kill_at: int = -1, after: float = 60.0) -> int:
    """Run a process that saves every step, kill it, and return the last step it knew to be safe."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SAVE_UNTIL_KILLED), str(folder), str(kill_at)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    if kill_at < 0:
        time.sleep(after)
        process.kill()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    lines += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    return int(lines[-1])


def require_step_of_the_loop(folder: Path, at_least: int) -> int:
    state = {"w": jnp.zeros((400, 1000)), "step": jnp.int32(0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a step without a manifest is expected here
        restored = opened(folder).restore(abstract(state))
    assert restored is not None and restored.step >= at_least
    assert restored.position == {"next_index": restored.step} and int(restored.state["step"]) == restored.step
    np.testing.assert_array_equal(restored.state["w"], float(restored.step))
    return restored.step


def test_kill_at_any_moment_loses_at_most_the_save_under_way(tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(4):
        safe = kill_while_saving(tmp_path, after=chance.uniform(0.0, 0.5))
        require_step_of_the_loop(tmp_path, at_least=safe)


def test_kill_between_rename_and_manifest_falls_back_one_step(tmp_path: Path) -> None:
    kill_while_saving(tmp_path, kill_at=3)
    assert (tmp_path / "3").is_dir() and opened(tmp_path).steps() == [1, 2]
    assert require_step_of_the_loop(tmp_path, at_least=2) == 2
    kill_while_saving(tmp_path, kill_at=5)  # the next process replaces step 3 and goes on
    assert opened(tmp_path).steps() == [3, 4]


def test_two_processes_agree_on_the_step(tmp_path: Path) -> None:
    """Both processes save one sharded array and fall back together, though only the first reads the manifest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = f"""
        import sys, warnings
        import jax, numpy as np
        from pathlib import Path
        jax.distributed.initialize("127.0.0.1:{port}", 2, int(sys.argv[1]))
        from jax.sharding import AxisType, NamedSharding, PartitionSpec
        from jgpt.checkpoint import Checkpoints
        mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
        sharding = NamedSharding(mesh, PartitionSpec("x"))
        full = np.arange(64.0, dtype=np.float32)
        state = {{"w": jax.make_array_from_callback((64,), sharding, lambda index: full[index])}}
        checkpoints = Checkpoints({str(tmp_path)!r}, every_steps=1, keep_latest=2, keep_best=0)
        for step in (1, 2, 2, 3):
            checkpoints.save(step, state, position={{}}, config={{}}, tokenizer={{}})
        checkpoints.wait()
        jax.experimental.multihost_utils.sync_global_devices("saved")
        if jax.process_index() == 0:
            (Path({str(tmp_path)!r}) / "3" / "manifest.json").unlink()
        warnings.simplefilter("ignore")
        abstract = {{"w": jax.ShapeDtypeStruct((64,), np.float32, sharding=sharding)}}
        restored = checkpoints.restore(abstract)
        for shard in restored.state["w"].addressable_shards:
            np.testing.assert_array_equal(shard.data, full[shard.index])
        checkpoints.save(3, state, position={{}}, config={{}}, tokenizer={{}})
        checkpoints.close()
        jax.experimental.multihost_utils.sync_global_devices("done")
        print("STEP", restored.step, checkpoints.steps())
        """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(index)],
            env=environment(devices=2),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
        assert "STEP 2 [2, 3]" in output
