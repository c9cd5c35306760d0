import functools

import numpy as np
import pytest

from jgpt.batch import Batch, Document
from jgpt.config import ModelConfig
from jgpt.data.loader import eval_batches
from jgpt.data.packing import pack
from jgpt.model import gpt
from jgpt.model.attention import Visibility
from jgpt.show import leaks

IDS = 24


@pytest.fixture(scope="module")
def batch() -> Batch:
    random = np.random.default_rng(0)
    documents = [Document(random.integers(0, IDS, n).astype(np.int32)) for n in (5, 9, 6, 14, 3, 8)]
    packed = pack(documents, "whole", 16)
    return next(eval_batches(packed, batch_size=len(packed)))


@functools.cache
def parameters(cfg: ModelConfig):
    return leaks.disturbed(cfg, 0)


def problems(batch: Batch, **fields) -> set[str]:
    cfg = ModelConfig(num_layers=1, embed_dim=16, num_heads=2, context_length=16, init="zero", **fields)
    cfg = gpt.resolve(cfg, vocab_size=IDS, backend="cpu")
    found = leaks.probe(cfg, parameters(cfg), batch, IDS)
    return {finding.rule for finding in found if finding.problem}


@pytest.mark.parametrize(
    "fields", [{}, {"attention": "einsum", "windows": (4,), "ngrams": (2, 3), "ngram_rows": 32, "embedding_conv": 4}]
)
def test_the_model_keeps_the_rules(batch, fields):
    assert not problems(batch, **fields)


def patched(monkeypatch, change):
    mask = Visibility.mask
    monkeypatch.setattr(Visibility, "mask", lambda self: change(self, mask))
    leaks._features.clear_cache()  # traced with the true rule


def test_a_model_that_sees_other_documents_is_found(batch, monkeypatch):
    patched(monkeypatch, lambda v, mask: mask(v._replace(q_segments_BS=None, kv_segments_BT=None)))
    found = problems(batch, attention="einsum")
    leaks._features.clear_cache()
    assert leaks.APART in found


def test_a_model_that_sees_the_future_is_found(batch, monkeypatch):
    patched(monkeypatch, lambda v, mask: mask(v) | mask(v).swapaxes(1, 2))
    found = problems(batch, attention="einsum")
    leaks._features.clear_cache()
    assert found == {leaks.PAST_ONLY}


def test_a_model_that_sees_nothing_is_found(batch, monkeypatch):
    patched(monkeypatch, lambda v, mask: mask(v._replace(window=1)))
    found = problems(batch, attention="einsum")
    leaks._features.clear_cache()
    assert found == {leaks.OWN}


def test_rows_of_one_document_try_nothing_between_documents(batch, monkeypatch):
    packed = pack([Document(np.arange(9, dtype=np.int32))] * 2, "whole", 8)
    single = next(eval_batches(packed, batch_size=len(packed)))
    cfg = gpt.resolve(
        ModelConfig(num_layers=1, embed_dim=16, num_heads=2, context_length=8), vocab_size=IDS, backend="cpu"
    )
    apart, *others = leaks.probe(cfg, parameters(cfg), single, IDS)
    assert (apart.rule, apart.problem, apart.untried) == (leaks.APART, None, "every row holds one document")
    assert all(finding.untried is None and finding.problem is None for finding in others)


def test_rows_with_nothing_to_try_are_refused(batch):
    empty = Batch(*(np.zeros_like(a) for a in batch))
    with pytest.raises(ValueError, match="no row holds a document of two tokens"):
        problems(empty)
