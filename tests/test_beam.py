"""Beam search: equal to a plain one in Python, to greedy decoding with one beam, and to trying everything with enough."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from test_automaton import LETTERS, STOP, texts_of
from test_sampler import GREEDY, LOGPROB_CLOSE, NUM_IDS, prompts_of
from test_speculative import CONFIGS, WIDTH, model, table_decoder

from jgpt.automaton import automaton_for
from jgpt.beam import length_penalty, search
from jgpt.decoder import Decoder
from jgpt.model import gpt
from jgpt.sampler import sample
from jgpt.sampler_check import forward_logprobs
from jgpt.sampling import Allowed, Sampling

STOPS = (4, 5)
Text = tuple[float, tuple[int, ...], bool]  # score, ids without the end, whether it has ended


def place_decoder() -> Decoder:
    """Return a decoder of tables [position, last token, next token]: with one table, texts of the same pairs would tie."""

    def apply(tables_SVV, tokens_BS, positions_BS, cache, index_B):
        at_B1 = index_B[:, None]
        token_B, position_B = (jnp.take_along_axis(a, at_B1, axis=1)[:, 0] for a in (tokens_BS, positions_BS))
        return tables_SVV[position_B, token_B], cache

    return Decoder(apply, lambda batch, length: (), WIDTH, 64)


PLACES = place_decoder()


def tables(seed: int, spread: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (16, WIDTH, WIDTH)).astype(np.float32)


def log_softmax(logits: np.ndarray, allowed: list[int]) -> np.ndarray:
    out = np.full(len(logits), -np.inf)
    out[allowed] = logits[allowed] - np.log(np.exp(logits[allowed].astype(np.float64)).sum())
    return out


def plain_search(
    table: np.ndarray, prompt: list[int], beams: int, longest: int, alpha: float, phases: list[list[int]]
) -> list[Text]:
    """Return the best texts, by lists: no early end, so that a wrong one shows."""
    live, ended = [(0.0, ())], []
    for step in range(longest):
        allowed = phases[min(step, len(phases) - 1)]
        ways = [
            (total + log_softmax(table[len(prompt) + step - 1, [*prompt, *ids][-1]], allowed)[i], (*ids, i))
            for total, ids in live
            for i in allowed
        ]
        ways.sort(key=lambda way: -way[0])
        ended += [(t / length_penalty(step + 1, alpha), ids[:-1], True) for t, ids in ways[:beams] if ids[-1] in STOPS]
        live = [way for way in ways if way[1][-1] not in STOPS][:beams]
    ended += [(t / length_penalty(longest, alpha), ids, False) for t, ids in live]
    return sorted(ended, key=lambda text: -text[0])


@pytest.mark.parametrize(("beams", "alpha"), [(3, 0.0), (3, 1.0), pytest.param(4, 2.5, marks=pytest.mark.slow)])
def test_the_best_texts_are_those_of_a_plain_search(beams: int, alpha: float) -> None:
    """Random tables, ragged prompts, two stop ids, a first token without them, and as many texts as there are beams."""
    phases = [[0, 1, 2, 3], [0, 2, 3, 4, 5]]
    allowed = Allowed.phases([(phases[0], 1), (phases[1], None)], WIDTH)
    for seed in range(6):
        table = tables(seed, 1.5)
        prompts = [[1], [2, 3, 0], [5, 5, 5, 5, 2]]
        options = {"beams": beams, "alpha": alpha, "max_new_tokens": 6, "stop_ids": STOPS, "allowed": allowed}
        got = search(PLACES, jnp.asarray(table), [p for p in prompts for _ in range(beams)], **options)
        for k, prompt in enumerate(prompts):
            wanted = plain_search(table, prompt, beams, 6, alpha, phases)[:beams]
            for i, (_, ids, over) in enumerate(wanted):
                at = k * beams + i
                assert tuple(got.tokens[at].tolist()) == ids, (seed, prompt, i)
                assert got.finished[at] == ("stop" if over else "length")
                before = [prompt[-1], *ids[:-1]]
                each = [
                    log_softmax(table[len(prompt) + n - 1, b], phases[min(n, 1)])[t]
                    for n, (b, t) in enumerate(zip(before, ids, strict=True))
                ]
                np.testing.assert_allclose(got.logprobs[at], each, atol=LOGPROB_CLOSE)


def test_with_enough_beams_it_tries_everything() -> None:
    """The five best of all texts of up to four ids, where 200 beams keep every beginning."""
    table, all_ids = tables(9, 1.0), list(range(WIDTH))
    every: list[Text] = []
    for n in range(1, 5):
        for ids in itertools.product(range(WIDTH), repeat=n):
            if any(i in STOPS for i in ids[:-1]) or (n < 4 and ids[-1] not in STOPS):
                continue
            pairs = zip([0, *ids[:-1]], ids, strict=True)
            total = sum(log_softmax(table[place, a], all_ids)[b] for place, (a, b) in enumerate(pairs))
            over = ids[-1] in STOPS
            every.append((total / length_penalty(n, 1.5), ids[:-1] if over else ids, over))
    every.sort(key=lambda text: -text[0])
    got = search(PLACES, jnp.asarray(table), [[0]] * 5, beams=200, alpha=1.5, max_new_tokens=4, stop_ids=STOPS)
    assert [tuple(ids.tolist()) for ids in got.tokens] == [ids for _, ids, _ in every[:5]]


@pytest.mark.slow
def test_one_beam_is_greedy_and_more_are_no_worse_in_a_cached_model() -> None:
    """In a model with windows and n-grams, whose cache rows move with the beams: log-probabilities stay those of the texts."""
    params, decoder = model("target")
    prompts = prompts_of(3, 20, 9)
    options = {"max_new_tokens": 16, "stop_ids": (4,)}
    greedy = sample(decoder, params, prompts, sampling=GREEDY, **options)
    one = search(decoder, params, prompts, beams=1, **options)
    for a, b in zip(greedy.tokens, one.tokens, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.finished == greedy.finished
    found = search(decoder, params, prompts, beams=4, max_new_tokens=16)
    cfg = gpt.resolve(CONFIGS["target"], vocab_size=NUM_IDS, backend="cpu")
    told = forward_logprobs(cfg, params, NUM_IDS, [np.asarray(prompt) for prompt in prompts], found)
    for expected_TV, ids, logprobs in zip(told, found.tokens, found.logprobs, strict=True):
        assert len(ids) == 16
        np.testing.assert_allclose(logprobs, expected_TV[np.arange(16), ids], atol=LOGPROB_CLOSE)


def test_beams_follow_a_pattern() -> None:
    """The best of a finite set of texts is found, and nothing outside of it."""
    table = np.random.default_rng(3).normal(0, 1.5, (24, 24)).astype(np.float32)
    decoder = dataclasses.replace(table_decoder(24), num_ids=LETTERS.size)
    pattern = "(ab|b0){1,2}1"
    count = len(texts_of(pattern))
    options = {"max_new_tokens": 8, "stop_ids": (STOP,), "automata": automaton_for(LETTERS, (STOP,), pattern=pattern)}
    got = search(decoder, jnp.asarray(table), [[1]] * count, beams=16, **options)
    assert {LETTERS.decode_text(ids) for ids in got.tokens} == texts_of(pattern)
    with pytest.raises(ValueError, match=f"{count + 1} texts are asked of a prompt that allows {count}"):
        search(decoder, jnp.asarray(table), [[1]] * (count + 1), beams=16, **options)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"beams": 0}, "beams is 0"),
        ({"beams": 300}, "beams is 300"),
        ({"alpha": -1.0}, "length_penalty is -1.0"),
        ({"beams": 1}, "2 texts are asked of one prompt and beams is 1"),
        ({"sampling": Sampling(temperature=0.7)}, "draws nothing"),
        ({"sampling": Sampling(top_k=3)}, "draws nothing"),
        ({"sampling": Sampling(repetition_penalty=1.2)}, "draws nothing"),
        ({"sampling": Sampling(guidance=2.0)}, "draws nothing"),
        ({"max_new_tokens": 80}, "model.context_length is 64"),
        ({"allowed": Allowed(np.ones((1, WIDTH), bool), np.zeros((2, 1), int))}, "one row a prompt"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict, value: str) -> None:
    with pytest.raises(ValueError) as error:
        search(table_decoder(), jnp.eye(WIDTH), [[1], [1]], **{"beams": 2, "max_new_tokens": 3, **options})
    assert value in str(error.value)


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(FloatingPointError, match="earlier checkpoint"):
        search(table_decoder(), jnp.full((WIDTH, WIDTH), jnp.nan), [[1]], beams=2, max_new_tokens=3)
