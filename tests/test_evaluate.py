"""Scores of whole splits: their names, sliding windows beside plain rows, tables by category, other files."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from test_gallery import task_data

from jgpt import evaluate, loss, sharding, step
from jgpt.config import Config, DataConfig, EvalConfig, MeshConfig, ModelConfig, TaskConfig
from jgpt.data import sources
from jgpt.data.examples import Conversation, Message, Picture, QuestionAnswer, Splits
from jgpt.data.sliding import SlidingRows
from jgpt.likelihood import token_nats
from jgpt.loaded import GPT
from jgpt.model import gpt
from jgpt.tasks import mixture
from jgpt.tasks.image import ImageTask
from jgpt.tokenizers.image_palette import Palette
from jgpt.tokenizers.text import ByteTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

CONTEXT = 32
ROWS = 4
CLOSE = 1e-4  # f32 sums in another order
HELD = [
    QuestionAnswer("1+1=", "2", choices=("2", "3"), category="qa2"),
    QuestionAnswer("1+2=", "3", choices=("2", "3"), category="qa2"),
    QuestionAnswer("who?", "I", category="qa10"),
]
TALK = Conversation((Message("user", "Hi"), Message("assistant", "Yo")))
DATA = {
    "qa": Splits(HELD, HELD),
    "chat": Splits([TALK], [TALK], baselines={"zlib": 1.5}),
    "text": Splits(["some text " * 20], ["another text " * 9, "short one"]),
}
CONFIG = Config(
    model=ModelConfig(num_layers=1, embed_dim=32, num_heads=2, context_length=CONTEXT, init="gpt2"),
    data=DataConfig(tasks={name: TaskConfig(kind=name, source=name) for name in DATA}),  # type: ignore[arg-type]
)


@pytest.fixture(scope="module")
def run() -> tuple[GPT, mixture.Mixture, Any, Any]:
    """Return an untrained model, its mixture, and what likelihoods need."""
    with pytest.MonkeyPatch.context() as patch:
        for name, splits in DATA.items():
            patch.setitem(sources.SOURCES, name, lambda seed, fraction, splits=splits: splits)
        data = mixture.build(CONFIG)
    words = data.vocabulary
    cfg = gpt.resolve(CONFIG.model, vocab_size=words.size, backend="cpu", text_end=words.text_ids.stop)
    params = jax.tree.map(lambda leaf: leaf * 4, jax.jit(gpt.init, static_argnums=0)(cfg, jax.random.key(0)))
    mesh = sharding.make_mesh(MeshConfig(data=1))
    tasks = {name: task_data.task for name, task_data in data.tasks.items()}
    return GPT(params, CONFIG, cfg, words, tasks, 0), data, step.compile_eval_step(cfg, CONFIG.train, mesh), mesh


def final(run: tuple, **settings: Any) -> tuple[dict[str, float], dict]:
    model, data, eval_step, mesh = run
    config = dataclasses.replace(CONFIG, eval=EvalConfig(**settings))
    return evaluate.final_scores(model.params, eval_step, data, mesh, ROWS, config.eval, model)


def test_every_score_has_its_name_and_they_agree(run: tuple):
    scores, answered = final(run)
    kinds = ("exact_match", "f1", "accuracy", "accuracy_length_normalised")
    assert [key.removeprefix("qa/") for key in scores if key.startswith("qa/")] == [
        "nats_per_token",
        *kinds,
        *(f"{kind}_category_mean" for kind in kinds),
        "questions",
    ]
    kinds = ("nats_per_token", "perplexity", "bits_per_byte", "zlib")
    assert [key for key in scores if key.startswith("chat/")] == [f"chat/{kind}" for kind in kinds]
    assert scores["chat/bits_per_byte"] == pytest.approx(scores["chat/nats_per_token"] * 3 / math.log(2) / 2)  # Y o end
    assert scores["chat/perplexity"] == pytest.approx(math.exp(scores["chat/nats_per_token"]))
    bits = scores["text/nats_per_token"] / math.log(2)
    documents = run[1].tasks["text"].validation.documents
    tokens, size = sum(len(d.tokens) - 1 for d in documents), sum(len(t) for t in DATA["text"].validation)
    assert scores["text/bits_per_byte"] == pytest.approx(bits * tokens / size)
    assert scores["qa/accuracy"] == np.mean([item.scores["accuracy"] for item in answered["qa"][:2]])
    assert not any("sliding" in key for key in scores)


@pytest.mark.parametrize("stride", [None, 8])
def test_logits_of_prompts_are_left_out_of_the_scores_and_no_target_is(run: tuple, stride: int | None, monkeypatch):
    """Where a mixture has no text, by a count below the length of a row; where it has, as sliding windows need it."""
    monkeypatch.setattr(loss, "TARGETS_STEP", 1)
    model, data, eval_step, mesh = run
    for names in (("qa", "chat"), ("qa", "chat", "text")):
        some = mixture.Mixture(data.vocabulary, {name: data.tasks[name] for name in names})
        limits = some.held_out_limits()
        assert (limits.targets == CONTEXT) == ("text" in names)
        fewer = step.compile_eval_step(model.model, CONFIG.train, mesh, limits)
        got, expected = (
            evaluate.final_scores(model.params, of, some, mesh, ROWS, EvalConfig(stride=stride), None)[0]
            for of in (fewer, eval_step)
        )
        assert got == pytest.approx(expected, rel=CLOSE)


def test_categories_are_tabled_and_count_alike(run: tuple):
    scores, answered = final(run)
    table = evaluate.by_category(answered)
    assert list(table) == ["qa"] and list(table["qa"]) == ["qa2", "qa10"]
    assert [table["qa"][name]["questions"] for name in table["qa"]] == [2, 1]
    assert "accuracy" not in table["qa"]["qa10"]
    assert scores["qa/f1_category_mean"] == (table["qa"]["qa2"]["f1"] + table["qa"]["qa10"]["f1"]) / 2


def test_a_sample_of_the_questions_is_asked_and_said(run: tuple):
    scores, answered = final(run, max_questions=2)
    assert len(answered["qa"]) == scores["qa/questions"] == 2
    assert scores["qa/questions_held_out"] == len(HELD)
    scores, _ = final(run)
    assert scores["qa/questions"] == len(HELD) and "qa/questions_held_out" not in scores


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_share_the_questions_and_all_know_the_answers(run: tuple, processes: int, monkeypatch):
    """Of three questions some processes get none; choices and scores are those of one process."""
    model, data = run[:2]
    alone = evaluate.answer_held_out(model, data, None, batch_size=ROWS)["qa"]
    said: list[str] = []
    monkeypatch.setattr(evaluate.jax, "process_count", lambda: processes)
    monkeypatch.setattr(evaluate.distributed, "gathered", lambda words: said.append(words) or ["[]"] * processes)
    for number in range(processes):
        monkeypatch.setattr(evaluate.jax, "process_index", lambda number=number: number)
        with pytest.raises(ValueError, match="zip"):  # nobody has said anything
            evaluate.answer_held_out(model, data, None, batch_size=ROWS)
    monkeypatch.setattr(evaluate.distributed, "gathered", lambda words: said)
    together = evaluate.answer_held_out(model, data, None, batch_size=ROWS)["qa"]
    for one, other in zip(alone, together, strict=True):
        assert (one.example, one.answer, one.correct, one.scores) == (
            other.example,
            other.answer,
            other.correct,
            other.scores,
        )
        assert (one.choice is None) == (other.choice is None)
        if one.choice is not None and other.choice is not None:
            np.testing.assert_allclose(one.choice.nats, other.choice.nats, rtol=CLOSE)
            assert one.choice.num_bytes == other.choice.num_bytes


@pytest.mark.parametrize("stride", [8, CONTEXT])
def test_sliding_scores_stand_beside_the_plain_ones(run: tuple, stride: int):
    model, data, *_ = run
    scores, _ = final(run, stride=stride)
    rows = SlidingRows(data.tasks["text"].validation.documents, CONTEXT, stride)
    nats = sum(float(n.sum()) for n in token_nats(model.model, model.params, rows, batch_size=ROWS))
    size = sum(len(text) for text in DATA["text"].validation)
    assert scores["text/bits_per_byte_sliding"] == pytest.approx(nats / math.log(2) / size, rel=CLOSE)
    assert scores["text/perplexity_sliding"] == pytest.approx(math.exp(scores["text/nats_per_token_sliding"]))
    assert scores["text/bits_per_byte"] != scores["text/bits_per_byte_sliding"]
    assert not any(key.endswith("_sliding") for key in scores if not key.startswith("text/"))


def test_another_file_is_scored_whole(run: tuple, tmp_path: Path):
    model, _, eval_step, mesh = run
    text = "A file of its own.\n" * 7
    (tmp_path / "own.txt").write_text(text)
    data = evaluate.from_path(model, str(tmp_path / "own.txt"), "text")
    assert list(data.tasks) == ["text"] and data.tasks["text"].splits.validation == [text]
    scores, answered = evaluate.final_scores(model.params, eval_step, data, mesh, ROWS, model.config.eval, model)
    assert set(scores) == {"text/nats_per_token", "text/perplexity", "text/bits_per_byte"} and not answered


def test_bytes_are_those_of_the_text_as_read(run: tuple, tmp_path: Path):
    scores = []
    for name, raw in (("plain", b"one\ntwo\n" * 9), ("dos", b"\xef\xbb\xbf" + b"one\r\ntwo\r\n" * 9)):
        (tmp_path / name).write_bytes(raw)
        data = evaluate.from_path(run[0], str(tmp_path / name), "text")
        scores.append(evaluate.likelihoods(run[0].params, run[2], data, run[3], ROWS))
    assert scores[0] == scores[1]


def test_a_single_question_is_scored(run: tuple, tmp_path: Path):
    (tmp_path / "one.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n')
    task_data = evaluate.from_path(run[0], str(tmp_path / "one.jsonl"), "qa").tasks["qa"]
    assert [(example.question, example.answer) for example in task_data.splits.validation] == [("1+1=", "2")]
    assert list(task_data.splits.train) == []


def test_texts_stay_documents_and_no_part_is_dropped(run: tuple, tmp_path: Path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("the same text")
    task_data = evaluate.from_path(run[0], str(tmp_path), "text").tasks["text"]
    assert task_data.splits.validation == ["the same text"] * 3
    assert len(task_data.validation.documents) == 3


def test_data_of_another_kind_name_the_task_that_could_read_them(run: tuple, tmp_path: Path):
    (tmp_path / "own.txt").write_text("some text, and some more of it")
    says = r"for a task of kind 'text', but the task 'qa' .* --task NAME; there are .*text \(text\)"
    with pytest.raises(ValueError, match=says) as caught:
        evaluate.from_path(run[0], str(tmp_path / "own.txt"), "qa")
    assert "--data." not in str(caught.value)  # an option of train.py


def test_questions_too_long_are_left_out_and_counted(run: tuple, tmp_path: Path):
    model, _, eval_step, mesh = run
    lines = [f'{{"question": "{question}", "answer": "2"}}\n' for question in ("1+1=", "x" * CONTEXT)]
    (tmp_path / "two.jsonl").write_text("".join(lines))
    with pytest.raises(ValueError, match="data.tasks.qa"):
        evaluate.from_path(model, str(tmp_path / "two.jsonl"), "qa")
    tasks = CONFIG.data.tasks | {"qa": dataclasses.replace(CONFIG.data.tasks["qa"], on_long="skip")}
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, tasks=tasks))
    model = dataclasses.replace(model, config=config)
    data = evaluate.from_path(model, str(tmp_path / "two.jsonl"), "qa")
    scores, _ = evaluate.final_scores(model.params, eval_step, data, mesh, ROWS, model.config.eval, model)
    assert scores["qa/left_out_too_long"] == 1 and len(data.tasks["qa"].splits.validation) == 1
    assert "left out: 1 of 2 examples" in data.tasks["qa"].splits.notes[-1]


def test_stories_are_scored_question_by_question(run: tuple, tmp_path: Path):
    story = "1 A fact.\n2 Who?\tI\t1\n3 What?\tit\t1\n"
    (tmp_path / "qa1_kind_train.txt").write_text(story)
    held = evaluate.from_path(run[0], str(tmp_path), "qa").tasks["qa"].splits.validation
    assert [(example.context, example.question, example.more) for example in held] == [
        ("A fact.", "Who?", ()),
        ("A fact.", "What?", ()),
    ]


def test_another_file_is_scored_whole_and_says_so(run: tuple, tmp_path: Path):
    (tmp_path / "two.jsonl").write_text("".join(f'{{"question": "{q}", "answer": "2"}}\n' for q in ("1+1=", "2+0=")))
    tasks = CONFIG.data.tasks | {"qa": dataclasses.replace(CONFIG.data.tasks["qa"], categories=("qa2",))}
    model = dataclasses.replace(
        run[0], config=dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, tasks=tasks))
    )
    found = evaluate.from_path(model, str(tmp_path / "two.jsonl"), "qa").tasks["qa"].splits
    assert len(found.validation) == 2
    assert "every category is scored, where the task trains on 'qa2' alone" in found.notes


def test_pictures_take_their_folder_for_their_class(tmp_path: Path):
    picture = Picture(np.zeros((2, 2), np.uint8))
    classes = ImageTask(task_data([picture], [picture]).task.vocabulary, (2, 2), ("cat", "dog"))
    (tmp_path / "cat").mkdir()
    for path in (tmp_path / "cat", tmp_path / "cat" / "a.png"):
        found = evaluate._with_captions(Splits([], [picture]), str(path), classes, skip=False)
        assert found.validation[0].caption == "cat"
    with pytest.raises(ValueError, match="without a caption.*cat, dog.*folders named after their class"):
        evaluate._with_captions(Splits([], [picture]), str(tmp_path), classes, skip=False)


def test_pictures_without_a_caption_are_not_scored_by_a_run_that_saw_none(tmp_path: Path):
    bare, named = Picture(np.zeros((2, 2), np.uint8), place="b.png"), Picture(np.zeros((2, 2), np.uint8), "a cat")
    free = ImageTask(task_data([named], [named]).task.vocabulary, (2, 2), ("a cat", "a dog"), free=True)
    both, path = Splits([], [bare, named]), str(tmp_path)
    alone = evaluate._with_captions(Splits([], [named]), path, free, skip=False)
    assert (alone.validation, alone.notes) == ([named], ())
    with pytest.raises(ValueError, match="has 1 of 2 pictures without a caption, such as b.png,.*draws from captions"):
        evaluate._with_captions(both, path, free, skip=False)
    kept = evaluate._with_captions(both, path, free, skip=True)
    assert kept.validation == [named] and kept.skipped == ("b.png: no caption",)
    assert kept.notes == ("left out, having no caption: 1 picture",)
    with pytest.raises(ValueError, match="has 1 of 1 pictures without"):
        evaluate._with_captions(Splits([], [bare]), path, free, skip=True)


def test_the_task_of_another_file_must_be_clear(run: tuple):
    with pytest.raises(ValueError, match="this run has 3 tasks \\(qa, chat, text\\).*--task NAME"):
        evaluate.from_path(run[0], "x.txt", None)
    with pytest.raises(ValueError, match="unknown task of this run 'texts'.*Did you mean 'text'"):
        evaluate.from_path(run[0], "x.txt", "texts")


def test_grey_pictures_are_scored_by_a_run_of_coloured_ones_and_not_the_other_way(tmp_path: Path):
    grey, colour = np.full((2, 2), 7, np.uint8), np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for name, pixels in (("grey", grey), ("colour", colour)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")

    def scored(trained: np.ndarray, name: str) -> np.ndarray:
        code = Palette.fit([trained], 16, seed=0, fewer=True)
        task = ImageTask(Vocabulary("bytes", ByteTokenizer(), code), trained.shape, ("",), unconditional=True)
        config = Config(data=DataConfig(tasks={"p": TaskConfig(kind="image", source="path", path="x")}))
        model = GPT({}, config, ModelConfig(context_length=64), task.vocabulary, {"p": task}, 0)
        return evaluate.from_path(model, str(tmp_path / f"{name}.png"), None).tasks["p"].splits.validation[0].pixels

    np.testing.assert_array_equal(scored(colour, "grey"), np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(scored(colour, "colour"), colour)
    with pytest.raises(ValueError, match="this run draws uint8 of shape"):
        scored(grey, "colour")
