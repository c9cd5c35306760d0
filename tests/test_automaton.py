"""Constrained decoding: every text matches, probabilities are those of the allowed ids, and rows do not feel each other."""

import functools
import itertools
import json
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_sampler import GREEDY, UNLIKELY, table_decoder

from jgpt.automaton import Automaton, automaton_for
from jgpt.config import Config, ModelConfig
from jgpt.decoder import Decoder
from jgpt.loaded import GPT
from jgpt.model import gpt
from jgpt.sampler import Samples, sample, stream
from jgpt.sampling import Allowed, Sampling
from jgpt.tasks.qa import QATask
from jgpt.tasks.text import TextTask
from jgpt.tokenizers.text import tokenizer_class
from jgpt.tokenizers.vocabulary import Vocabulary

TEXTS = ['the {"a": 12} import 🙂🙃 größer 0123456789', "abc [1, 2] null true false é\n"] * 3
LETTERS = Vocabulary("characters", tokenizer_class("characters").train(["ab01"], 0))
FIRST, STOP, WIDTH = LETTERS.text_ids.start, LETTERS.special("<|endoftext|>"), 24
PATTERN = "(ab|ba)*0|a(1|bb)?"


@functools.cache
def vocabulary(name: str) -> Vocabulary:
    return Vocabulary(name, tokenizer_class(name).train(TEXTS, 300))


@functools.cache
def texts_of(pattern: str, most: int = 8) -> frozenset[str]:
    """Return all texts of a, b, 0 and 1 up to a length that match, by trying them."""
    return frozenset(
        text
        for n in range(most + 1)
        for text in map("".join, itertools.product("ab01", repeat=n))
        if re.fullmatch(pattern, text)
    )


def allowed_after(pattern: str, text: str) -> list[int]:
    """Return the ids after which a match is still possible, and the end where there is one already."""
    ids = [FIRST + i for i, c in enumerate(LETTERS.text.decode(range(4)))
           if any(found.startswith(text + c) for found in texts_of(pattern))]  # fmt: skip
    return ids + [STOP] * (text in texts_of(pattern))


def table() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1.5, (WIDTH, WIDTH)).astype(np.float32)


@functools.cache
def decoder() -> Decoder:
    """Return one decoder, so that what is compiled is shared."""
    return table_decoder(WIDTH, num_ids=LETTERS.size)


def automaton_of(words: Vocabulary, stop: int, pattern: str) -> Automaton:
    found = automaton_for(words, (stop,), pattern=pattern)
    assert found is not None
    return found


def draw(prompts: list[list[int]], patterns: list[str | None], **options) -> Samples:
    automata = [automaton_for(LETTERS, (STOP,), pattern=pattern) for pattern in patterns]
    options = {"max_new_tokens": 6, "stop_ids": (STOP,), **options}
    return sample(decoder(), jnp.asarray(table()), prompts, automata=automata, **options)


@pytest.mark.parametrize("name", ["bytes", "characters", "bpe"])
@pytest.mark.parametrize("pattern", ["(größer|🙂.)+", r"[a-z]+ \d{2}", r'\{"a": \w+\}', "import|imp"])
def test_any_walk_over_ids_writes_a_match(name: str, pattern: str) -> None:
    """Whatever the tokenizer, ids the automaton allows decode to a text that matches where the end is allowed."""
    words, rng = vocabulary(name), np.random.default_rng(0)
    stop = words.special("<|endofanswer|>")
    automaton = automaton_of(words, stop, pattern)
    for _ in range(40):
        state, ids = 0, []
        while True:
            on = np.flatnonzero(automaton.next_MV[state] >= 0)
            chosen = stop if stop in on and rng.random() < 0.5 else int(rng.choice(on))
            if chosen == stop:
                break
            ids.append(chosen)
            state = automaton.next_MV[state, chosen]
            assert stop not in on or re.fullmatch(pattern, words.decode_text(ids[:-1]))
        assert re.fullmatch(pattern, words.decode_text(ids)), ids


def test_entries_that_cross_borders_are_used() -> None:
    """BPE entries of several characters may stand wherever their bytes fit, and each way to write a text is allowed."""
    words = vocabulary("bpe")
    entries = {i: words.decode_text([i]) for i in words.text_ids}
    long, text = max(entries.items(), key=lambda entry: len(entry[1]))
    assert len(text) > 2
    automaton = automaton_of(words, 2, f"({re.escape(text[0])}|{re.escape(text[1:])})+")
    state = 0
    for i in [j for c in text for j in words.encode_text(c)]:
        state = automaton.next_MV[state, i]
    assert state == automaton.next_MV[0, long] and automaton.next_MV[state, 2] >= 0


def test_log_probabilities_are_those_among_the_allowed_ids() -> None:
    """Each token's log-probability is the model's, renormalised over the ids that brute force allows."""
    got = draw([[1], [2, FIRST], [3]] * 16, [PATTERN] * 48, seeds=5)
    assert len({tuple(tokens) for tokens in got.tokens}) > 5
    for prompt, tokens, logprobs, finished in zip(
        [[1], [2, FIRST], [3]] * 16, *got[:1], got.logprobs, got.finished, strict=True
    ):
        last, text = prompt[-1], ""
        for token, logprob in zip(tokens, logprobs, strict=True):
            ids = allowed_after(PATTERN, text)
            logits = table()[last, ids].astype(np.float64)
            assert token in ids
            assert logprob == pytest.approx(table()[last, token] - np.log(np.exp(logits).sum()), abs=1e-5)
            last, text = int(token), text + LETTERS.decode_text([token])
        assert finished == "length" or text in texts_of(PATTERN)
        assert any(found.startswith(text) for found in texts_of(PATTERN))


def test_frequencies_follow_the_allowed_ids() -> None:
    """The second token after the forced "a" passes a chi-square test against the renormalised, filtered probabilities."""
    got = draw([[1]] * 1536, ["a[ab1]0"] * 1536, seeds=2, sampling=Sampling(temperature=1.3))
    counts = Counter(int(tokens[1]) for tokens in got.tokens)
    ids = [FIRST + "01ab".index(c) for c in "ab1"]
    weights = np.exp(table()[FIRST + 2, ids].astype(np.float64) / 1.3)
    assert set(counts) <= set(ids)
    assert scipy.stats.chisquare([counts[i] for i in ids], 1536 * weights / weights.sum()).pvalue > UNLIKELY


def test_greedy_rows_are_those_of_a_loop_in_numpy_and_each_keeps_its_own_pattern() -> None:
    """Rows with two patterns and one without, in one batch and alone."""
    patterns, prompts = [PATTERN, "(0|1){3,9}", None, "a*b"], [[1], [2], [3], [FIRST, 1]]
    together = draw(prompts, patterns, sampling=GREEDY)
    for i, (pattern, prompt) in enumerate(zip(patterns, prompts, strict=True)):
        last, tokens = prompt[-1], []
        while len(tokens) < 6:
            ids = list(range(LETTERS.size)) if pattern is None else allowed_after(pattern, LETTERS.decode_text(tokens))
            last = ids[int(table()[last, ids].argmax())]
            if last == STOP:
                break
            tokens.append(last)
        assert together.tokens[i].tolist() == tokens
        assert together.finished[i] == ("length" if len(tokens) == 6 else "stop")
    np.testing.assert_array_equal(draw(prompts[:1], [PATTERN], sampling=GREEDY).tokens[0], together.tokens[0])


def test_the_end_comes_exactly_where_the_text_is_whole() -> None:
    """Never before, always where nothing else may follow, and "length" where the room runs out first."""
    got = draw([[1]] * 8, ["(a|b){3}"] * 8, seeds=1)
    assert {len(tokens) for tokens in got.tokens} == {3} and set(got.finished) == {"stop"}
    short = draw([[1]] * 8, ["(a|b){3}"] * 8, max_new_tokens=2)
    assert short.finished == ["length"] * 8 and len(short.tokens[0]) == 2
    least = draw([[1]] * 8, ["a*"] * 8, sampling=Sampling(min_new_tokens=3, logit_bias=((STOP, 50.0),)))
    assert set(map(len, least.tokens)) == {3}


def test_a_stream_follows_the_pattern_and_penalties_do_not_leave_it() -> None:
    options = {"max_new_tokens": 6, "stop_ids": (STOP,), "automata": automaton_for(LETTERS, (STOP,), pattern=PATTERN)}
    options["sampling"] = Sampling(
        repetition_penalty=5.0, frequency_penalty=2.0, top_k=2, logit_bias=((FIRST + 1, 50.0),)
    )
    logits = jnp.asarray(table())
    whole = sample(decoder(), logits, [[1], [2]], **options)
    *_, last = stream(decoder(), logits, [[1], [2]], every=1, **options)
    for a, b in zip(whole.tokens, last.tokens, strict=True):
        np.testing.assert_array_equal(a, b)
        assert any(text.startswith(LETTERS.decode_text(a)) for text in texts_of(PATTERN))


def test_other_patterns_of_a_size_compile_nothing() -> None:
    traces: list = []
    counted, logits = table_decoder(WIDTH, num_ids=LETTERS.size, traces=traces), jnp.asarray(table())
    for i, pattern in enumerate(["a*b", "(0|1){3}a", PATTERN]):
        sample(counted, logits, [[1]], max_new_tokens=3, automata=automaton_for(LETTERS, (STOP,), pattern=pattern))
        assert len(traces) == 2, i


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"pattern": "a", "schema": {"type": "null"}}, "a text has one form"),
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": "x+"}, "no text that this run's tokenizer can write"),
        ({"schema": {"type": "null"}}, "no text that this run's tokenizer can write"),
        ({"schema": {"type": "what"}}, "the type 'what'"),
    ],
)
def test_mistakes_name_the_pattern(options: dict, value: str) -> None:
    with pytest.raises(ValueError, match=re.escape(value)):
        automaton_for(LETTERS, (STOP,), **options)


def test_automata_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = automaton_for(LETTERS, (STOP,), pattern="a*b")
    with pytest.raises(ValueError, match="automata has 1 entries for 2 prompts"):
        draw([[1], [2]], ["a"])
    with pytest.raises(ValueError, match=f"{LETTERS.size} ids wide, the vocabulary has {WIDTH}"):
        sample(table_decoder(WIDTH), jnp.asarray(table()), [[1]], max_new_tokens=2, automata=fine)
    with pytest.raises(ValueError, match="`allowed` rules out"):
        draw([[1]], ["a"], allowed=Allowed.phases([((FIRST,), None)], LETTERS.size))
    with pytest.raises(ValueError, match="needs an id that ends the text"):
        automaton_for(LETTERS, (), pattern="a")
    with pytest.raises(ValueError, match=r"allows no id in states \[1\]"):
        Automaton(np.array([[1, 0], [-1, -1]], np.int32))
    monkeypatch.setattr("jgpt.automaton.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="a table of more than 0 MiB: repeat less often"):
        automaton_for(LETTERS, (STOP,), pattern="(a|b){40}")


@functools.cache
def random_model(name: str = "bytes", context: int = 96) -> GPT:
    """Return a random model that writes texts and answers."""
    words = vocabulary(name)
    cfg = gpt.resolve(
        ModelConfig(num_layers=1, embed_dim=16, num_heads=2, context_length=context, init="gpt2"),
        vocab_size=words.size,
        backend="cpu",
    )
    params = jax.tree.map(lambda a: 5 * a, jax.jit(gpt.init, static_argnums=0)(cfg, jax.random.key(0)))
    tasks = {"prose": TextTask(words), "qa": QATask.from_json(words, {"max_new_tokens": 20})}
    return GPT(params, Config(), cfg, words, tasks, 0)


@pytest.mark.slow
def test_texts_and_answers_take_a_pattern_or_a_schema() -> None:
    """Through every call of the surface; a small list of cases is JSON that parses."""
    model = random_model()
    pattern, schema = (
        "(yes|no|größer)!?",
        {"type": "object", "properties": {"a": {"enum": ["é", 2]}}, "required": ["a"]},
    )
    found = model.generate("so", 1, pattern=pattern, max_new_tokens=24)
    assert all(re.fullmatch(pattern, text) for text in found)
    pieces = list(model.stream("so", pattern=pattern, max_new_tokens=24))
    assert "".join(pieces) == found[0]
    assert json.loads(model.generate("x", schema=schema, max_new_tokens=24)[0]) in ({"a": "é"}, {"a": 2})
    assert re.fullmatch(pattern, model.answer("why?", pattern=pattern))
    with pytest.raises(ValueError, match="would cut a text that is to match the pattern"):
        model.generate("x", pattern="a", stop=["b"])
