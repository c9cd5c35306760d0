"""The benchmarks: each that needs no peer runs from its one command and leaves its figures."""

import json
import os
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
        ("limits", ""),
        ("loss", ""),
        ("attention", ""),
        ("input", "--data {text} --stretch 12"),
        ("ablation", "--data {text} --steps 10 --only GELU"),
        ("prompts", "configs/own.py --data.path {questions} --tokenizer.bpe-vocab-size 300 --steps 1"),
        ("predicted", "--sizes modern"),
    ],
)
def test_a_benchmark_runs(name: str, options: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{i} follows {i - 1}. " for i in range(3000)))
    (tmp_path / "questions.jsonl").write_text(QUESTIONS)
    words = options.format(text=tmp_path / "text.txt", questions=tmp_path / "questions.jsonl").split()
    words = ["modern 4L/128, 12 x 64" if word == "modern" else word for word in words]
    done = subprocess.run(
        [sys.executable, str(BENCH / f"{name}.py"), *words, "--rounds", "2"],
        env={**os.environ, "JGPT_BENCH_RESULTS": str(tmp_path), "PYTHONPATH": str(BENCH.parent)},
        cwd=BENCH.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = tmp_path.glob("*/*.json")
    assert written.stem == name and {"date", "machine"} < json.loads(written.read_text()).keys()
