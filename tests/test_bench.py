"""The benchmarks: those of training that need no peer run from their one command and leave their figures."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
QUESTIONS = "".join(json.dumps({"question": f"What follows {i}?", "answer": str(i + 1)}) + "\n" for i in range(400))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("limits", "--rounds 2"),
        ("loss", "--rounds 1"),
        ("attention", "--rounds 1"),
        ("where", "--rounds 3 --sizes small"),
        ("input", "--rounds 2 --data text.txt --stretch 12"),
        ("ablation", "--rounds 1 --data text.txt --steps 40 --only GELU"),
        ("prompts", "configs/own.py --data.path questions.jsonl --tokenizer.bpe-vocab-size 300 --steps 1 --rounds 2"),
        ("predicted", "--rounds 2 --steps 2 --sizes 'modern 4L/128, 12 x 64'"),
    ],
)
def test_a_benchmark_runs(name: str, options: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{i} follows {i - 1}. " for i in range(3000)))
    (tmp_path / "questions.jsonl").write_text(QUESTIONS)
    words = [str(tmp_path / word) if (tmp_path / word).is_file() else word for word in shlex.split(options)]
    done = subprocess.run(
        [sys.executable, str(BENCH / f"{name}.py"), *words],
        env={**os.environ, "XLA_FLAGS": "", "JGPT_BENCH_RESULTS": str(tmp_path), "PYTHONPATH": str(BENCH.parent)},
        cwd=BENCH.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = tmp_path.glob("*/*.json")
    assert written.stem.startswith(name) and {"date", "machine"} < json.loads(written.read_text()).keys()


def test_moments_are_divided_among_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    from where import Event, shares

    assert shares([Event("a", 0, 4), Event("b", 2, 6), Event("a", 8, 9)]) == ({"a": 4.0, "b": 3.0}, 7.0)
    assert shares([]) == ({}, 0.0)


COMPILED = """HloModule step

%multiplied (p: f32[8,4], q: f32[4,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %q = f32[4,4]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,4]{1,0} dot(%p, %q), metadata={op_name="jit(step)/transpose(jvp(Block))/mlp/up/dot_general"}
}

ENTRY %main (a: f32[8,4], b: f32[4,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4,4]{1,0} parameter(1)
  %c = f32[8,4]{1,0} fusion(%a, %b), kind=kCustom, calls=%multiplied, metadata={op_name="jit(step)/jvp(Head)/norm/mul"}
  %d = f32[8,4]{1,0} exponential(%c), metadata={op_name="jit(step)/jvp(Block)/attention/exp"}
  ROOT %e = f32[8,4]{1,0} add(%d, %c), metadata={op_name="jit(step)/add"}
}
"""


def test_instructions_are_told_by_what_they_multiply_and_by_their_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    from where import OTHER, parts

    of = parts(COMPILED)
    assert [of[name] for name in "cde"] == ["MLP, backward, products", "attention, forward, the rest", OTHER]
