"""The engine: a job writes what the sampler writes, whoever runs beside it; who leaves frees a slot; nothing compiles."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from jgpt.config import ModelConfig
from jgpt.data.examples import Message, QuestionAnswer
from jgpt.sampling import Sampling
from jgpt.serve.errors import RefusedError
from jgpt.serve.job import Job, Update
from jgpt.serve.planning import Order, Planner
from jgpt.serve.slots import Row
from jgpt.tasks.qa import QATask
from jgpt.tokenizers.text import tokenizer_class
from jgpt.tokenizers.vocabulary import Vocabulary

GREEDY = Sampling(temperature=0.0)
SECONDS = 60.0
CLOSE = 1e-4  # nats: f32 sums in another order, over other shapes


class Inbox:
    """What a job delivered."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.first, self.last = threading.Event(), threading.Event()

    def __call__(self, _: int, update: Update) -> None:
        self.updates.append(update)
        self.first.set()
        if update.last:
            self.last.set()

    @property
    def text(self) -> str:
        assert self.last.wait(SECONDS)
        assert self.updates[-1].error is None, self.updates[-1].error
        return "".join(update.text for update in self.updates)

    @property
    def error(self) -> RefusedError:
        assert self.last.wait(SECONDS)
        error = self.updates[-1].error
        assert isinstance(error, RefusedError)
        return error


def send(running: SimpleNamespace, kind: str, request, order: Order) -> tuple[Inbox, list[Job]]:
    inbox = Inbox()
    jobs = getattr(running.planner, kind)(request, order, inbox)
    running.engine.submit(jobs)
    return inbox, jobs


def idle(running: SimpleNamespace) -> None:
    end = time.monotonic() + SECONDS
    while running.engine.busy or running.engine.waiting:
        assert time.monotonic() < end
        time.sleep(0.005)


REQUESTS = [
    ("a", GREEDY, 24, 0),
    ("some words that go on and on for a whil", GREEDY, 20, 0),
    ("hello", Sampling(temperature=0.9), 23, 3),
    ("b c d", Sampling(top_k=4, top_p=0.9, min_p=0.01), 19, 4),
    ("e e e e e", Sampling(repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2), 24, 5),
    ("f", Sampling(typical_p=0.7, min_new_tokens=9), 22, 6),
    ("h i", Sampling(temperature=1.5), 1, 2**32 - 1),
]


def text_of(running: SimpleNamespace, ids: np.ndarray) -> str:
    return running.gpt.tokenizer.decode_text(ids)


def test_all_at_once_and_one_by_one_write_what_each_writes_alone(running: SimpleNamespace, expect) -> None:
    """More jobs than slots, of different lengths and settings, so that they join and leave while others run."""
    samples = expect("prose", [(text, sampling) for text, sampling, _, _ in REQUESTS], [each[3] for each in REQUESTS])
    wanted = [text_of(running, ids[: each[2]]) for ids, each in zip(samples.tokens, REQUESTS, strict=True)]
    orders = [(text, Order(sampling, seed=seed, max_tokens=new)) for text, sampling, new, seed in REQUESTS]
    together = [send(running, "complete", *each)[0] for each in orders]
    assert [inbox.text for inbox in together] == wanted
    alone = [send(running, "complete", *each)[0].text for each in reversed(orders)]
    assert alone[::-1] == wanted
    assert len(set(wanted)) == len(wanted)


def test_samples_of_one_request_share_their_prefill_and_differ(running: SimpleNamespace, expect) -> None:
    """Sample i is what `complete` draws as its row i."""
    inbox, hot = {0: "", 1: "", 2: ""}, Sampling(temperature=4.0)
    left = threading.Semaphore(0)

    def take(index: int, update: Update) -> None:
        inbox[index] += update.text
        if update.last:
            left.release()

    jobs = running.planner.complete("word", Order(hot, n=3, seed=11, max_tokens=20), take)
    assert len({id(job.row.prompt) for job in jobs}) == 1
    running.engine.submit(jobs)
    assert all(left.acquire(timeout=SECONDS) for _ in jobs)
    wanted = [text_of(running, ids[:20]) for ids in expect("prose", [("word", hot)] * 3, 11).tokens]
    assert list(inbox.values()) == wanted and len(set(wanted)) == 3


def test_logprobs_and_top_are_those_of_the_sampler(running: SimpleNamespace, expect) -> None:
    inbox, (job,) = send(running, "complete", "abc", Order(GREEDY, max_tokens=15, top=4))
    assert inbox.text
    wanted = expect("prose", [("abc", GREEDY)], [0])
    new = len(job.ids)
    got = [pair for update in inbox.updates for pair in update.top]
    np.testing.assert_allclose([v for u in inbox.updates for v in u.logprobs], wanted.logprobs[0][:new], atol=CLOSE)
    np.testing.assert_array_equal([ids for ids, _ in got], wanted.top[0][0][:new])
    np.testing.assert_allclose([values for _, values in got], wanted.top[0][1][:new], atol=CLOSE)


def test_a_stop_string_ends_text_and_row_at_the_token_that_makes_it_whole(running: SimpleNamespace, expect) -> None:
    (ids,) = expect("prose", [("stop", GREEDY)], [0]).tokens
    whole = text_of(running, ids)
    stop = whole[14:17]
    inbox, (job,) = send(running, "complete", "stop", Order(GREEDY, max_tokens=60, stops=(stop,)))
    assert inbox.text == whole[: whole.index(stop)]
    assert inbox.updates[-1].finished == "stop"
    assert job.ids == ids[: whole.index(stop) + len(stop)].tolist()  # here every character is a token


def test_turns_are_answered_and_pictures_drawn_as_by_the_model_itself(running: SimpleNamespace, expect) -> None:
    turns = [Message("system", "be kind"), Message("user", "hello")]
    inbox, _ = send(running, "reply", turns, Order(GREEDY))
    (ids,) = expect("talk", [(turns, GREEDY)], [0]).tokens
    assert inbox.text == text_of(running, ids[:12]) and inbox.text
    inbox, (job,) = send(running, "draw", "seven", Order(Sampling(), seed=5))
    assert inbox.text == ""
    drawn = running.gpt.tasks["digits"].decode(job.ids)
    np.testing.assert_array_equal(drawn, running.gpt.draw("seven", seed=5).array[0])


def test_who_leaves_frees_the_slot_and_who_is_late_is_told(running: SimpleNamespace) -> None:
    idle(running)
    before = dict(running.engine.counts)
    long = Order(Sampling(logit_bias=((2, -100.0),)), max_tokens=60)
    inbox, (job,) = send(running, "complete", "x", long)
    assert inbox.first.wait(SECONDS)
    job.cancel()
    late = Inbox()
    (slow,) = running.planner.complete("x", long, late)
    slow.deadline = time.monotonic() - 1
    running.engine.submit([slow])
    assert late.error.status == 504 and "--timeout" in late.error.message
    idle(running)
    counts = running.engine.counts
    assert counts["timed_out"] == before["timed_out"] + 1
    assert counts["cancelled"] + counts["finished"] == before["cancelled"] + before["finished"] + 1


def test_a_full_line_refuses_all_of_a_request_and_says_when_to_come_back(running: SimpleNamespace) -> None:
    idle(running)
    order = Order(GREEDY, n=running.engine.queue + running.engine.slots.size + 1, max_tokens=2)
    with pytest.raises(RefusedError, match="try again") as caught:
        send(running, "complete", "x", order)
    assert caught.value.status == 429 and (caught.value.retry_after or 0) >= 1
    assert running.engine.waiting == 0


def test_an_answer_is_told_without_the_steps_to_it() -> None:
    """The text that clients get is the task's, which knows where the answer begins."""
    words = Vocabulary("bytes", tokenizer_class("bytes").train([], 0))
    task = QATask(words, 20, steps=True)
    model = SimpleNamespace(
        model=ModelConfig(vocab_size=words.size, compute_dtype="float32"), tokenizer=words, tasks={"q": task},
        prepared={}, cache=None,
    )  # fmt: skip
    asked = QuestionAnswer("why?", "so", steps=("a", "b"))
    (job,) = Planner(model, "led").reply([Message("user", "why?")], Order(GREEDY), lambda _, update: None)
    said = task.encode(asked).tokens[len(task.prompt("why?").tokens) : -1]
    assert job.decode is not None and job.decode(said) == "so"


def test_nothing_is_compiled_once_the_slots_are_warm(running: SimpleNamespace) -> None:
    idle(running)
    before = running.engine.programs.count
    orders = [(text, Order(sampling, seed=seed, max_tokens=new, top=2)) for text, sampling, new, seed in REQUESTS]
    inboxes = [send(running, "complete", *each)[0] for each in orders]
    send(running, "draw", "two", Order(Sampling(temperature=0.3)))
    assert all(inbox.text is not None for inbox in inboxes)
    assert send(running, "complete", "alone again", Order(GREEDY, max_tokens=50))[0].text
    idle(running)
    assert running.engine.programs.count == before


@pytest.mark.slow  # test_sampler has the server's cache grow as well
def test_the_cache_is_as_long_as_the_longest_row_needs(running: SimpleNamespace, expect, monkeypatch) -> None:
    """Short rows run in a short cache, a long one that joins them has it grow, and later it shrinks; nobody's text changes."""
    from jgpt.compiled import Programs
    from jgpt.serve import slots as module
    from jgpt.serve.engine import Engine

    monkeypatch.setattr(module, "SHORTEST", 32)
    monkeypatch.setattr(module, "PATIENCE", 2)
    slots = running.planner.make_slots(2)
    assert slots.lengths[0] == 32 < slots.lengths[-1] == slots.decoder.context_length
    for _ in slots.warm_up():
        pass
    seen = []
    advance = slots.advance
    monkeypatch.setattr(slots, "advance", lambda most: (advance(most), seen.append(slots.length)))
    texts, news = ["abc", "abcdefghijklmnopqrstuvwxyz!?", "xyz"], [20, 24, 20]
    wanted = expect("prose", [(text, GREEDY) for text in texts], [0] * 3).tokens
    with Engine(slots, queue=9) as engine, Programs() as programs:
        own = SimpleNamespace(planner=running.planner, engine=engine, gpt=running.gpt)
        for order in ((0,), (0, 1), (2,), (2,)):
            inboxes = [send(own, "complete", texts[i], Order(GREEDY, max_tokens=news[i]))[0] for i in order]
            for i, inbox in zip(order, inboxes, strict=True):
                assert inbox.text == text_of(running, wanted[i][: news[i]])
    assert programs.count == 0
    assert seen[0] == 32 and seen[-1] == 32 and max(seen) == slots.decoder.context_length


def test_prompts_of_every_length_are_fed_in_pieces(running: SimpleNamespace, expect, monkeypatch) -> None:
    """Pieces of 8 tokens: the first is padded, the others are whole, and the result is that of one prefill."""
    idle(running)
    monkeypatch.setattr(running.engine.slots, "piece", 8)
    monkeypatch.setattr(running.engine.slots, "buckets", (8,))
    texts = ["abcdefghijklmnopqrstuvwxyz!?"[:n] for n in (6, 7, 8, 23, 26)]
    wanted = expect("prose", [(text, GREEDY) for text in texts], [0] * len(texts)).tokens
    for text, ids in zip(texts, wanted, strict=True):
        inbox, _ = send(running, "complete", text, Order(GREEDY, max_tokens=5))
        assert inbox.text == text_of(running, ids[:5])


def test_a_device_error_fails_its_jobs_and_the_engine_goes_on(running: SimpleNamespace, monkeypatch) -> None:
    before = send(running, "complete", "x", Order(GREEDY, max_tokens=9))[0].text

    def broken(most: int) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(running.engine.slots, "advance", broken)
    idle(running)
    inbox, _ = send(running, "complete", "x", Order(GREEDY, max_tokens=9))
    assert inbox.error.status == 500 and "out of memory" in inbox.error.message
    monkeypatch.undo()
    idle(running)
    assert send(running, "complete", "x", Order(GREEDY, max_tokens=9))[0].text == before


def test_half_a_character_and_half_a_stop_string_are_held_back() -> None:
    """By the text alone; no device is needed."""
    inbox = Inbox()
    row = Row(np.zeros(1, np.int32), np.zeros(1, np.int32), GREEDY, 0, 0, 99)
    job = Job(
        row,
        lambda update: inbox(0, update),
        decode=lambda ids: bytes(map(int, ids)).decode(errors="replace"),
        stops=("END",),
    )
    told = []
    for piece in ("é".encode()[:1], "é".encode()[1:], b"aE", b"N", b"Db", b"c"):
        if not job.ended:
            job.write(list(piece), [0.0] * len(piece), [], "")
            told.append(inbox.updates[-1].text)
    assert told == ["", "é", "a", "", ""]
    assert inbox.updates[-1].finished == "stop" and bytes(job.ids) == "éaEND".encode()
