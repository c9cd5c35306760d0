"""Metrics: FLOPs against a count by hand and against the parameters, known peaks, and records that survive a kill."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from jgpt import presets, runfolder
from jgpt.batch import RowLimits
from jgpt.config import ModelConfig
from jgpt.metrics import PEAK_FLOPS, MetricsWriter, flops_per_token, peak_flops
from jgpt.model import gpt

SMALL = ModelConfig(
    num_layers=2, embed_dim=8, num_heads=2, num_kv_heads=1, mlp="gelu", mlp_dim=32, context_length=10, vocab_size=16
)


def test_flops_equal_a_count_by_hand():
    # a layer: query 8x8, key 8x4, value 8x4, out 8x8, MLP 8x32 and 32x8; head 8x16
    matrices = 2 * (64 + 32 + 32 + 64 + 256 + 256) + 128
    # forward, a layer: scores and values, each 2 FLOPs x 2 heads x 4 channels x 5 keys (half of 10); backward twice
    attention = 2 * 3 * (2 * 2 * 2 * 4 * 5)
    assert flops_per_token(SMALL) == 6 * matrices + attention


def test_targets_without_weight_cost_no_logits():
    model = dataclasses.replace(SMALL, context_length=64)
    all_of_them, some = flops_per_token(model), flops_per_token(model, RowLimits(targets=20))
    assert all_of_them - some == 6 * 8 * 16 / 2  # logits of 32 of 64 targets, the next multiple of 32
    assert flops_per_token(SMALL, RowLimits(targets=9)) == flops_per_token(SMALL)


def test_window_counts_at_its_width_and_never_above_full_attention():
    full = flops_per_token(SMALL)
    narrow = flops_per_token(dataclasses.replace(SMALL, windows=(3, None)))
    assert full - narrow == 3 * (2 * 2 * 2 * 4) * (5 - 3)  # one layer of two sees 3 keys and not 5
    assert flops_per_token(dataclasses.replace(SMALL, windows=(10,))) == full


def test_patterns_count_what_they_let_a_query_see():
    full = flops_per_token(SMALL)
    sparse = dataclasses.replace(SMALL, patterns=("strided", "fixed"), pattern_stride=2)
    # strided: 2 in the row and 5 / 2 above, so 4.5 of 5; fixed: 1 in the block and 5 / 2 summaries, so 3.5
    assert full - flops_per_token(sparse) == 3 * (2 * 2 * 2 * 4) * (0.5 + 1.5)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_matrix_is_counted_once(name: str):
    """The count is 6 a matrix entry that a token meets, so it is checked on the parameters that `init` makes."""
    cfg = gpt.resolve(
        presets.PRESETS[name](num_layers=3, embed_dim=32, num_heads=4, num_kv_heads=2, context_length=8),
        vocab_size=40,
        backend="cpu",
    )
    shapes = jax.eval_shape(lambda key: gpt.init(cfg, key), jax.random.key(0))
    axes = gpt.param_axes(cfg)
    is_axes = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    sizes = [
        math.prod(shape.shape) * (2 / 8 if "experts" in where else 1)
        for where, shape in zip(jax.tree.leaves(axes, is_leaf=is_axes), jax.tree.leaves(shapes), strict=True)
        if "embed" in where
        and not {"position", "ngram"} & set(where)  # matrices; norms, biases and look-ups cost no product
    ]
    matrices = sum(sizes) if cfg.tie_embeddings else sum(sizes) - 40 * 32  # untied: the table is only looked up
    attention = 12 * 3 * 4 * 8 * 4  # layers, heads, width of a head, half of the context
    assert flops_per_token(cfg) == 6 * matrices + attention


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("TPU7x", 1153.5),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA GH200 480GB", 989),
    ],
)
def test_known_devices_have_their_peak(kind: str, teraflops: float):
    assert peak_flops(kind) == teraflops * 1e12


def test_unknown_devices_have_none():
    assert all(peak_flops(kind) is None for kind in ("cpu", "NVIDIA B900", "NVIDIA L400", "NVIDIA H2000"))


def test_no_peak_hides_behind_an_earlier_one():
    for index, (name, _) in enumerate(PEAK_FLOPS):
        assert not any(earlier in name for earlier, _ in PEAK_FLOPS[:index])


def test_each_record_is_a_line_on_disk_at_once(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path, tmp_path / "board") as writer:
        for step in range(1, 4):
            writer.write(step, {"loss": 1 / step, "text/sample": "a\nb"})
            records = [json.loads(line) for line in path.read_text().splitlines()]
            assert records[-1] == {"step": step, "loss": 1 / step, "text/sample": "a\nb"} and len(records) == step
        for shape in ((4, 6), (4, 6, 3)):
            writer.write_picture(3, "digits", np.zeros(shape, np.uint8))
    assert list((tmp_path / "board").iterdir())


def test_resumed_run_writes_what_an_uninterrupted_one_would(tmp_path: Path):
    def steps(path: Path, first: int, last: int) -> None:
        with MetricsWriter(path, tmp_path / "board") as writer:
            for step in range(first, last + 1):
                writer.write(step, {"loss": 1 / step})

    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    steps(whole, 1, 8)
    steps(cut, 1, 5)
    cut.write_text(cut.read_text()[:-7])  # killed in the middle of step 5; the checkpoint is of step 3
    runfolder.truncate_metrics(cut, 3)
    steps(cut, 4, 8)
    assert cut.read_text() == whole.read_text()
