"""An outside witness: the gpt2 preset computes what Hugging Face's GPT-2 computes, from the same random weights."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt import presets
from jgpt.interop import from_gpt2
from jgpt.loss import cross_entropy
from jgpt.model import gpt

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install torch transformers", exc_type=ImportError
)
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install torch transformers"
)

PARITY = 1e-4  # f32, the two libraries sum in different orders
ZERO = 1e-7  # a key's bias shifts all scores of a query alike, so its gradient is 0: both libraries give rounding noise
LAYERS, WIDTH, HEADS, CONTEXT, VOCAB = 3, 48, 4, 20, 64


@pytest.fixture(scope="module")
def both():
    """Return (their model, our config, our parameters) with equal weights."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=LAYERS, n_embd=WIDTH, n_head=HEADS, n_positions=CONTEXT, vocab_size=VOCAB,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.2)
    cfg = presets.gpt2(num_layers=LAYERS, embed_dim=WIDTH, num_heads=HEADS, context_length=CONTEXT)
    cfg = gpt.resolve(cfg, vocab_size=VOCAB, backend="cpu")
    return (
        theirs,
        cfg,
        jax.tree.map(jnp.asarray, from_gpt2(cfg, {n: p.detach().numpy() for n, p in theirs.named_parameters()})),
    )


def tokens():
    return np.random.default_rng(0).integers(0, VOCAB, (2, CONTEXT)).astype(np.int32)


def test_logits(both):
    theirs, cfg, params = both
    positions = jnp.tile(jnp.arange(CONTEXT, dtype=jnp.int32)[None], (2, 1))
    ours = gpt.apply(cfg, params, jnp.asarray(tokens()), positions)[0]
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens().astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(ours, expected, atol=PARITY * np.abs(expected).max(), rtol=0)


def test_loss_and_gradients(both):
    theirs, cfg, params = both
    ids = tokens()
    theirs.zero_grad()
    expected = theirs(torch.tensor(ids.astype(np.int64)), labels=torch.tensor(ids.astype(np.int64))).loss
    expected.backward()
    positions = jnp.tile(jnp.arange(CONTEXT - 1, dtype=jnp.int32)[None], (2, 1))

    def loss(params):
        x_BSD, *_ = gpt.features(cfg, params, jnp.asarray(ids[:, :-1]), positions)
        weights = jnp.ones((2, CONTEXT - 1))
        output = gpt.output_matrix(cfg, params)
        objective, sums = cross_entropy(
            lambda x, w: gpt.logits(cfg, x, w), x_BSD, output, jnp.asarray(ids[:, 1:]), weights
        )
        return objective / sums.weight

    ours, gradient = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(ours, expected.item(), rtol=PARITY)
    witness = from_gpt2(cfg, {name: p.grad.numpy() for name, p in theirs.named_parameters()})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=PARITY * np.abs(b).max() + ZERO, rtol=PARITY),
        gradient,
        witness,
    )
