"""Exchange with GPT-2: names, shapes, and the way there and back."""

import dataclasses

import jax
import numpy as np
import pytest

from jgpt import presets
from jgpt.config import ModelConfig
from jgpt.interop import from_gpt2, to_gpt2
from jgpt.model import gpt

SIZES = dict(num_layers=2, embed_dim=12, num_heads=3, context_length=8)


@pytest.mark.parametrize("use_bias", [True, False])
def test_there_and_back(use_bias):
    cfg = gpt.resolve(presets.gpt2(**SIZES, use_bias=use_bias), vocab_size=16, backend="cpu")
    shapes = jax.eval_shape(lambda: gpt.init(cfg, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    tensors = to_gpt2(cfg, params)
    assert tensors["transformer.h.1.attn.c_attn.weight"].shape == (12, 36)
    assert ("transformer.h.0.ln_1.bias" in tensors) == use_bias
    jax.tree.map(np.testing.assert_array_equal, from_gpt2(cfg, tensors), params)
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    jax.tree.map(np.testing.assert_array_equal, from_gpt2(cfg, bare), params)


@pytest.mark.parametrize("name", ["transformer.wte.weight", "transformer.h.1.ln_2.bias"])
def test_a_missing_tensor_is_named(name):
    cfg = gpt.resolve(presets.gpt2(**SIZES), vocab_size=16, backend="cpu")
    shapes = jax.eval_shape(lambda: gpt.init(cfg, jax.random.key(0)))
    tensors = to_gpt2(cfg, jax.tree.map(lambda s: np.zeros(s.shape), shapes))
    del tensors[name]
    with pytest.raises(ValueError, match=name.removeprefix("transformer.")):
        from_gpt2(cfg, tensors)


PARTS = (
    dict(loops=2), dict(norm="rmsnorm"), dict(positions="rotary"), dict(embedding_conv=4), dict(ngrams=(2,)), dict(mlp="relu2"),
    dict(num_experts=2), dict(qk_norm=True), dict(attention_gates=True), dict(embedding_skips=True), dict(windows=(4,)),
    dict(patterns=("fixed",)), dict(attention_softcap=30.0), dict(logit_softcap=15.0), dict(tie_embeddings=False),
    dict(num_kv_heads=1), dict(head_dim=6),
)  # fmt: skip
SIZES_OR_HOW = {
    "num_layers", "embed_dim", "num_heads", "mlp_dim", "context_length", "norm_epsilon", "use_bias", "dropout", "init",
    "attention", "scan_layers", "remat", "compute_dtype", "vocab_multiple", "vocab_size",
}  # fmt: skip
BESIDE_A_PART = {
    "rope_base", "rotary_fraction", "ngram_rows", "ngram_ids", "experts_per_token", "expert_capacity", "pattern_stride",
    "pattern_summary", "image_start_id", "picture_width", "picture_cells", "tokens_per_cell",
}  # fmt: skip


def test_every_option_is_a_size_or_a_part():
    names = {name for part in PARTS for name in part} | SIZES_OR_HOW | BESIDE_A_PART
    assert names == {field.name for field in dataclasses.fields(ModelConfig)}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: next(iter(part)))
def test_parts_that_gpt2_has_not_are_refused(part):
    cfg = presets.gpt2(**SIZES, **part)
    for convert in (from_gpt2, to_gpt2):
        with pytest.raises(ValueError, match=f"model.{next(iter(part))} is"):
            convert(cfg, {})
