"""Many questions at once: the same answers as one by one, few shapes, bounded memory, and scores by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt import sampler, sampler_batch
from jgpt.choices import Choice, choose
from jgpt.config import Config, ModelConfig
from jgpt.data.examples import Conversation, Message, QuestionAnswer
from jgpt.data.sliding import SlidingRows
from jgpt.likelihood import token_nats
from jgpt.loaded import GPT
from jgpt.model import gpt
from jgpt.questions import ask, drawn, judge, turns
from jgpt.tasks.chat import ChatTask
from jgpt.tasks.qa import QATask
from jgpt.tasks.text import TextTask
from jgpt.tokenizers.text import ByteTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

CONTEXT = 48
WORDS = Vocabulary("bytes", ByteTokenizer())
TALK = Conversation((Message("user", "Hi"), Message("assistant", "Hello")))
QUESTION = QuestionAnswer("2+3=", "five", choices=("four", "five", "six hundred"), category="sums")
FORWARD = jax.jit(gpt.apply, static_argnums=0)
CLOSE = 1e-4  # f32 sums of logits in other shapes


@pytest.fixture(scope="module")
def model() -> GPT:
    """Return a model with random weights and a task of each kind that answers."""
    cfg = ModelConfig(num_layers=1, embed_dim=32, num_heads=2, context_length=CONTEXT, init="gpt2")
    cfg = gpt.resolve(cfg, vocab_size=WORDS.size, backend="cpu", text_end=WORDS.text_ids.stop)
    params = jax.tree.map(
        lambda leaf: leaf * 5, jax.jit(gpt.init, static_argnums=0)(cfg, jax.random.key(0))
    )  # far from uniform
    tasks = {"qa": QATask.fit(WORDS, [QUESTION]), "chat": ChatTask.fit(WORDS, [TALK]), "text": TextTask(WORDS)}
    return GPT(params, Config(model=cfg), cfg, WORDS, tasks, 0)


def nats_of(model: GPT, tokens: np.ndarray, given: int) -> float:
    """Return the nats of the tokens from `given` on, from the logits of one plain forward pass."""
    row = jnp.zeros((1, CONTEXT), jnp.int32).at[0, : len(tokens) - 1].set(tokens[:-1])  # one shape for all
    logits, _ = FORWARD(model.model, model.params, row, jnp.arange(CONTEXT)[None])
    log_p = np.asarray(jax.nn.log_softmax(logits[0], axis=-1))
    return -sum(float(log_p[i - 1, tokens[i]]) for i in range(given, len(tokens)))


def test_choices_are_scored_as_a_plain_forward_pass_does(model: GPT):
    task = model.tasks["qa"]
    assert isinstance(task, QATask)
    examples = [QUESTION, QuestionAnswer("who?", "I", choices=("I", "you")), QUESTION]
    found = choose(model.model, model.params, task, examples, batch_size=2)
    for example, choice in zip(examples, found, strict=True):
        given = len(task.prompt(example).tokens)
        expected = [nats_of(model, document.tokens, given) for document in task.candidates(example)]
        np.testing.assert_allclose(choice.nats, expected, rtol=CLOSE)
        assert choice.num_bytes == tuple(len(text) for text in example.choices)


def test_the_two_readings_of_most_probable():
    choice = Choice(nats=(4.0, 5.0, 4.0), num_bytes=(1, 10, 2))
    assert choice.summed == 0 and choice.normalised == 1


def test_a_choice_that_does_not_fit_is_never_chosen(model: GPT):
    task = QATask(WORDS, 10, show_choices=False)
    example = QuestionAnswer("q", "a", choices=("x" * CONTEXT, "a"))
    (choice,) = choose(model.model, model.params, task, [example], batch_size=1)
    assert choice.nats[0] == np.inf and choice.summed == choice.normalised == 1


def test_scores_of_a_question_by_hand():
    wrong = judge(QUESTION, "It is four.", Choice((1.0, 2.0, 9.0), (4, 4, 11)))
    assert wrong.scores == {"exact_match": 0, "f1": 0, "accuracy": 0, "accuracy_length_normalised": 0}
    normalised = judge(QUESTION, "Five!", Choice((3.0, 2.0, 2.5), (4, 4, 11)))
    assert normalised.correct
    assert normalised.scores == {"exact_match": 1, "f1": 1, "accuracy": 1, "accuracy_length_normalised": 0}
    several = judge(QuestionAnswer("q", "a cat", references=("a cat", "big dog")), "dog", None)
    assert several.scores == {"exact_match": 0, "f1": pytest.approx(2 / 3)}


def test_many_questions_are_answered_as_each_alone(model: GPT):
    lengths = [30, CONTEXT - 4, 31, CONTEXT - 4] * 2  # the longest leave room for two tokens
    examples = [QuestionAnswer(chr(97 + i) * n, "ab") for i, n in enumerate(lengths)]
    answers = [item.answer for item in ask(model, "qa", examples, batch_size=2)]
    for i in (0, 3, 6):
        assert answers[i] == model.answer(examples[i].question)
    assert len(set(answers)) > 1


CFG = ModelConfig(num_layers=2, embed_dim=64, num_heads=4, context_length=640)


@given(st.lists(st.integers(1, 639), min_size=1, max_size=400), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_turns_ask_everything_once_and_fit_context_and_memory(sizes: list[int], max_new: int):
    numbers = 2**22
    seen = []
    for turn in turns(sizes, max_new, CFG, numbers):
        seen += turn
        longest = max(sizes[i] for i in turn)
        most = min(longest + max_new, CFG.context_length)
        assert len(turn) == 1 or len(turn) * 4 * longest * most <= numbers
    assert sorted(seen) == list(range(len(sizes)))


@pytest.mark.parametrize("longest, max_new, few", [(600, 30, 8), (640, 200, 12)])
def test_twenty_thousand_questions_take_few_shapes(longest: int, max_new: int, few: int):
    """Also where most answers have less room in the context than the longest could need."""
    sizes = np.random.default_rng(0).integers(5, longest, 20_000).tolist()
    shapes, largest = set(), 0
    for turn in turns(sizes, max_new, CFG, 2**26):
        new = max(min(max_new, CFG.context_length - sizes[i]) for i in turn)
        rows = sampler_batch.bucket(len(turn), 1, sampler.MAX_ROWS)
        prompt = sampler_batch.bucket(max(sizes[i] for i in turn), sampler_batch.SMALLEST_BUCKET, CFG.context_length)
        shapes.add((rows, prompt, sampler_batch.bucket(new, sampler_batch.SMALLEST_BUCKET, CFG.context_length)))
        largest = max(largest, rows * CFG.num_heads * prompt * min(prompt + max_new, CFG.context_length))
    assert len(shapes) <= few and largest <= 2**27


def test_questions_are_drawn_from_all_and_by_the_seed():
    examples = [QuestionAnswer(str(i), "a") for i in range(100)]
    some = drawn(examples, 20, 0)
    assert some == drawn(examples, 20, 0) != drawn(examples, 20, 1)
    numbers = [int(example.question) for example in some]
    assert len(some) == 20 and numbers == sorted(set(numbers)) and max(numbers) > 50
    assert drawn(examples, None, 0) == drawn(examples, 200, 0) == examples


def test_choices_in_python_return_the_most_probable(model: GPT):
    found = model.choose("2+3=", ["four", "five"])
    assert model.answer("2+3=", choices=["four", "five"]) == ["four", "five"][found.summed]
    with pytest.raises(ValueError, match="choices are compared, not drawn: leave out seed"):
        model.answer("2+3=", choices=["four", "five"], seed=1)
    with pytest.raises(ValueError, match="with no choice does the question fit"):
        model.choose("q" * CONTEXT, ["a", "b"])


def test_an_answer_ends_where_the_context_does(model: GPT):
    assert isinstance(model.answer("q" * (CONTEXT - 3)), str)  # room for one token alone
    with pytest.raises(ValueError, match="model.context_length is 48: shorten it"):
        model.answer("q" * CONTEXT)


def test_chat_takes_a_string_or_the_turns_so_far(model: GPT):
    assert model.chat("Hi") == model.chat([{"role": "user", "content": "Hi"}])
    assert isinstance(model.chat([*TALK.messages, Message("user", "And?")]), str)


def test_score_is_the_nats_of_a_plain_forward_pass(model: GPT):
    text = "naïve"
    tokens = model.tasks["text"].prompt(text).tokens
    found = model.score(text)
    assert found.nats == pytest.approx(nats_of(model, tokens, 1), rel=CLOSE)
    assert found.tokens == found.bytes == 6 and len(found.per_token) == 6
    assert found.bits_per_byte == pytest.approx(found.nats / np.log(2) / 6)
    assert found.perplexity == pytest.approx(np.exp(found.nats / 6))
    assert [token for token, _ in found.per_token if token.isascii()] == ["n", "a", "v", "e"]
    assert sum(nats for _, nats in found.per_token) == pytest.approx(found.nats, rel=CLOSE)


def test_a_long_text_is_scored_in_windows(model: GPT):
    text = "abcdefg hijk " * 12
    tokens = model.tasks["text"].prompt(text).tokens
    found = model.score(text, stride=16)
    stop = CONTEXT + 1  # pairs of the first window
    nats = nats_of(model, tokens[:stop], 1)
    while stop < len(tokens):
        before, stop = stop, min(stop + 16, len(tokens))
        window = tokens[stop - CONTEXT - 1 : stop]
        nats += nats_of(model, window, len(window) - (stop - before))
    assert found.nats == pytest.approx(nats, rel=CLOSE)
    with pytest.raises(ValueError, match="the text is ''"):
        model.score("")
    with pytest.raises(ValueError, match="0"):
        model.score(text, stride=0)


def test_tokens_come_back_to_their_documents(model: GPT):
    task = model.tasks["text"]
    documents = [task.encode(text) for text in ("one", "another one", "x" * 100, "a")]
    rows = SlidingRows(documents, CONTEXT, 8)
    for document, nats in zip(documents[:2], token_nats(model.model, model.params, rows, batch_size=3), strict=False):
        expected = [nats_of(model, document.tokens[: i + 1], i) for i in range(1, len(document.tokens))]
        np.testing.assert_allclose(nats, expected, rtol=CLOSE, atol=CLOSE)
