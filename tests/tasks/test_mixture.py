"""The mixture: what a run saves is enough to sample it, held-out data trains nothing, and misfits are named."""

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jgpt.config import AugmentConfig, Config, DataConfig, EvalConfig, ModelConfig, TaskConfig, TokenizerConfig
from jgpt.data import sources
from jgpt.data.examples import Conversation, Message, Picture, QuestionAnswer, Splits, TokenStream
from jgpt.data.loader import eval_batches
from jgpt.tasks import mixture

CONTEXT = 16
PICTURE = Picture(np.array([[0, 85], [170, 255]], np.uint8), "sq")
DATA = {
    "text": Splits(["a sentence, and another one. " * 3, "short"], ["sentence another"]),
    "qa": Splits([QuestionAnswer("is it?", "no"), QuestionAnswer("a?", "b")], [QuestionAnswer("it?", "on")]),
    "image": Splits([PICTURE, PICTURE], [PICTURE]),
}
KINDS = {"text": "text", "qa": "qa", "image": "image"}


@pytest.fixture(autouse=True)
def tiny_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, splits in DATA.items():
        monkeypatch.setitem(sources.SOURCES, name, lambda seed, fraction, splits=splits: splits)


def config(*names: str, text: str = "bytes", image: str | None = None, context: int = CONTEXT, **fields: Any) -> Config:
    image = image or ("grey" if "image" in (names or DATA) else "auto")
    tasks = {name: TaskConfig(kind=KINDS[name], source=name, **fields) for name in names or DATA}
    return Config(
        model=ModelConfig(context_length=context, windows=(None,)),
        tokenizer=TokenizerConfig(text=text, image=image, image_levels=4, bpe_vocab_size=270),
        data=DataConfig(tasks=tasks),
    )


def serve(monkeypatch: pytest.MonkeyPatch, name: str, **parts: Any) -> None:
    """Let a source return `DATA` with some of its parts replaced."""
    splits = dataclasses.replace(DATA[name], **parts)
    monkeypatch.setitem(sources.SOURCES, name, lambda seed, fraction: splits)


@pytest.mark.parametrize("image", ["grey", "palette"])
@pytest.mark.parametrize("text", ["bytes", "characters", "bpe"])
def test_saved_mixture_encodes_and_prompts_as_before(text: str, image: str, tmp_path: Path):
    data = mixture.build(config(text=text, image=image))
    mixture.save(data, tmp_path / "tokenizer")
    vocabulary, tasks = mixture.load(tmp_path / "tokenizer")
    assert vocabulary.size == data.vocabulary.size
    assert list(tasks) == list(data.tasks)
    for name, task_data in data.tasks.items():
        for example in [*task_data.splits.train, *task_data.splits.validation]:
            for old, new in zip(task_data.task.encode(example), tasks[name].encode(example), strict=True):
                np.testing.assert_array_equal(new, old)
        request = {"text": "a ", "qa": "it?", "image": "sq"}[name]
        assert repr(tasks[name].prompt(request)) == repr(task_data.task.prompt(request))
        ids = task_data.task.encode(task_data.splits.validation[0]).tokens[-5:-1].tolist()
        np.testing.assert_array_equal(tasks[name].decode(ids), task_data.task.decode(ids))


def test_folder_without_a_mixture_says_what_to_do(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no tokenizer.*train.py"):
        mixture.load(tmp_path)


def test_batches_hold_ids_of_the_vocabulary_and_held_out_targets_once():
    data = mixture.build(config())
    for task_data in data.tasks.values():
        documents = [task_data.task.encode(example) for example in task_data.splits.validation]
        batches = list(eval_batches(task_data.validation, batch_size=3))
        assert max(batch.tokens_BS.max() for batch in batches) < data.vocabulary.size
        weight = sum(float(batch.weights_BS.sum()) for batch in batches)
        assert weight == sum(len(d.tokens) - 1 if d.weights is None else float(d.weights[1:].sum()) for d in documents)


def test_loss_weight_scales_training_and_leaves_scores_alone():
    one = mixture.build(config("qa")).tasks["qa"]
    three = mixture.build(config("qa", loss_weight=3.0)).tasks["qa"]
    np.testing.assert_array_equal(three.train[0].weights_BS, 3 * one.train[0].weights_BS)
    np.testing.assert_array_equal(three.validation[0].weights_BS, one.validation[0].weights_BS)


def test_text_is_cut_and_questions_are_not():
    data = mixture.build(config())
    assert len(data.tasks["text"].train) > 1
    for row in data.tasks["qa"].train:
        for segment in range(1, row.segments_BS.max() + 1):
            first = row.tokens_BS[row.segments_BS == segment][0]
            assert first == data.vocabulary.special("<|question|>")


@pytest.mark.parametrize("text", ["characters", "bpe"])
def test_vocabulary_is_learned_from_training_text_alone(text: str, monkeypatch: pytest.MonkeyPatch):
    before = mixture.build(config("text", text=text)).vocabulary.text.to_json()
    serve(monkeypatch, "text", validation=["sentence " * 50])
    assert mixture.build(config("text", text=text)).vocabulary.text.to_json() == before


def test_character_that_training_lacks_is_named(monkeypatch: pytest.MonkeyPatch):
    serve(monkeypatch, "text", validation=["naïve"])
    with pytest.raises(ValueError, match=r"'ï' \(U\+00EF\).*--tokenizer.text bytes"):
        mixture.build(config("text", text="characters"))


def test_an_answer_that_no_token_can_express_is_quoted_or_left_out(monkeypatch: pytest.MonkeyPatch):
    odd, plain = QuestionAnswer("here?", "Ą"), QuestionAnswer("where?", "here")
    serve(monkeypatch, "qa", train=[plain], validation=[plain, odd, plain])
    with pytest.raises(ValueError) as caught:
        mixture.build(config("qa", text="characters"))
    for word in ("data.tasks.qa, validation split", "begins 'here?'", "'Ą' (U+0104)", "--data.on-bad-record skip"):
        assert word in str(caught.value)
    skipping = config("qa", text="characters")
    skipping = dataclasses.replace(skipping, data=dataclasses.replace(skipping.data, on_bad_record="skip"))
    data = mixture.build(skipping).tasks["qa"]
    assert list(data.splits.validation) == [plain, plain] and data.left_out == {"left_out_not_encodable": 1}
    assert (
        "1 bad record(s) skipped that cannot be encoded" in data.splits.notes[-1] and "'here?'" in data.splits.notes[-1]
    )


def test_every_record_that_is_skipped_is_listed_in_a_file(tmp_path: Path):
    lines = [json.dumps({"question": f"{i}?", "answer": "here"}) for i in range(20)] + ["{"] * 12
    lines.append(json.dumps({"question": "odd?", "answer": ""}))
    (tmp_path / "qa.jsonl").write_text("\n".join(lines))
    base = config("qa")
    source = dataclasses.replace(base.data, path=str(tmp_path / "qa.jsonl"), on_bad_record="skip")
    mixture.list_skipped(mixture.build(dataclasses.replace(base, data=source)), tmp_path / "skipped.txt")
    listed = (tmp_path / "skipped.txt").read_text().splitlines()
    assert len(listed) == 13 and all(line.startswith("qa: ") for line in listed)
    assert [f"qa.jsonl, line {21 + i}" in line for i, line in enumerate(listed)] == [True] * 13
    mixture.list_skipped(mixture.build(config("qa")), tmp_path / "skipped.txt")
    assert not (tmp_path / "skipped.txt").exists()  # the data have been mended


@pytest.mark.parametrize(
    "changes", [{"image_mode": "grey"}, {"image_background": "black"}, {"image_threshold": 128}], ids=str
)
def test_what_is_set_for_pictures_is_refused_without_any(changes: dict):
    plain = config("text")
    with pytest.raises(ValueError, match=f"data.{next(iter(changes))} is .* no task of the run has pictures"):
        mixture.build(dataclasses.replace(plain, data=dataclasses.replace(plain.data, **changes)))


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("name", DATA)
def test_empty_split_is_named(name: str, part: str, monkeypatch: pytest.MonkeyPatch):
    serve(monkeypatch, name, **{part: []})
    with pytest.raises(ValueError) as caught:
        mixture.build(config(name))
    for word in (f"data.tasks.{name}", f"the {part} split", f"{name!r}", "validation_fraction"):
        assert word in str(caught.value)


def test_text_shorter_than_a_window_is_refused_and_one_window_is_enough(monkeypatch: pytest.MonkeyPatch):
    serve(monkeypatch, "text", train=["x" * (CONTEXT - 2)])  # start, text and end: one pair too few
    with pytest.raises(ValueError) as caught:
        mixture.build(config("text"))
    for word in ("data.tasks.text", f"{CONTEXT - 1} training tokens", f"model.context_length {CONTEXT}", "lower"):
        assert word in str(caught.value)
    serve(monkeypatch, "text", train=["x" * (CONTEXT - 1)])
    assert len(mixture.build(config("text")).tasks["text"].train) == 1


@pytest.mark.parametrize("part", ["train", "validation"])
def test_question_too_long_for_the_context_is_refused(part: str, monkeypatch: pytest.MonkeyPatch):
    long = QuestionAnswer("why " * 10 + "?", "so")
    serve(monkeypatch, "qa", **{part: [DATA["qa"].train[0], long]})
    with pytest.raises(ValueError) as caught:
        mixture.build(config("qa"))
    words = (
        f"data.tasks.qa, {part} split",
        "the example that begins 'why why ",
        "46 tokens",
        "--data.tasks.NAME.on-long skip",
    )
    for word in (*words, f"a row holds {CONTEXT + 1}", "model.context_length"):
        assert word in str(caught.value)
    assert mixture.build(config("qa", context=45)).tasks


def test_a_question_fits_where_its_longest_choice_does(monkeypatch: pytest.MonkeyPatch):
    choices = QuestionAnswer("a?", "no", choices=("no", "x" * CONTEXT))
    serve(monkeypatch, "qa", validation=[choices])
    with pytest.raises(ValueError, match=f"validation split.*it has {CONTEXT + 5} tokens"):  # two markers and an end
        mixture.build(config("qa", show_choices=False))
    assert mixture.build(config("qa", show_choices=False, context=CONTEXT + 4)).tasks


def test_a_choice_that_no_token_expresses_is_named_before_training(monkeypatch: pytest.MonkeyPatch):
    serve(monkeypatch, "qa", validation=[QuestionAnswer("a?", "no", choices=("no", "Ω"))])
    with pytest.raises(ValueError, match="validation split, the example that begins 'a.'.*'Ω'"):
        mixture.build(config("qa", text="characters", show_choices=False))


def test_one_source_is_split_in_one_way(monkeypatch: pytest.MonkeyPatch):
    same = {name: TaskConfig(kind="qa", source="qa", validation_fraction=0.2) for name in ("a", "b")}
    base = config("qa")
    assert mixture.build(dataclasses.replace(base, data=DataConfig(tasks=same))).tasks
    other = same | {"b": TaskConfig(kind="qa", source="qa", validation_fraction=0.1)}
    with pytest.raises(ValueError, match="data.tasks.a and data.tasks.b read 'qa'.*0.2 and 0.1"):
        mixture.build(dataclasses.replace(base, data=DataConfig(tasks=other)))
    paths = {"a": ("d.jsonl", 0.1), "b": ("./x/../d.jsonl", 0.2)}
    other = {n: TaskConfig(kind="qa", source="path", path=p, validation_fraction=f) for n, (p, f) in paths.items()}
    with pytest.raises(ValueError, match="data.tasks.a and data.tasks.b read './x/../d.jsonl'.*0.1 and 0.2"):
        mixture.build(dataclasses.replace(base, data=DataConfig(tasks=other)))


def test_held_out_captions_that_training_lacks_are_noted(monkeypatch: pytest.MonkeyPatch):
    strange = dataclasses.replace(PICTURE, caption="circle")
    serve(monkeypatch, "image", validation=[PICTURE, strange])
    notes = mixture.build(config("image")).tasks["image"].splits.notes
    assert notes == ("1 held-out picture of captions that training lacks, scored all the same: 'circle'",)


def test_examples_longer_than_the_context_can_be_left_out_and_are_counted(monkeypatch: pytest.MonkeyPatch):
    long, short = QuestionAnswer("long" * CONTEXT, "no"), QuestionAnswer("a?", "no")
    serve(monkeypatch, "qa", train=[long, short, long], validation=[short, long])
    data = mixture.build(config("qa", on_long="skip")).tasks["qa"]
    assert data.left_out == {"left_out_too_long": 1}
    assert (list(data.splits.train), list(data.splits.validation)) == ([short], [short])
    assert "2 of 3 examples to train, 1 of 2 held out" in data.splits.notes[-1]
    assert len(data.splits.skipped) == 3 and all("begins 'longlong" in entry for entry in data.splits.skipped)
    serve(monkeypatch, "qa", validation=[long])
    with pytest.raises(ValueError, match=r"validation split holds no target to predict \(1 of 1 examples are longer"):
        mixture.build(config("qa", on_long="skip"))


@pytest.mark.parametrize("skipped", [False, True])
def test_an_answer_that_no_token_expresses_is_named_by_file_and_line(skipped: bool, tmp_path: Path):
    for part, asked, answers in (("train", "is it", "no"), ("valid", "is", "nö")):
        lines = (json.dumps({"question": f"{asked} {answer}?", "answer": answer}) + "\n" for answer in answers)
        (tmp_path / f"{part}.jsonl").write_text("".join(lines))
    task = {"own": TaskConfig(kind="qa", source="path")}
    data = DataConfig(path=str(tmp_path), tasks=task, on_bad_record="skip" if skipped else "error")
    run = dataclasses.replace(config("qa", text="characters"), data=data)
    said = r"validation split, .*valid\.jsonl, line 2, the example that begins 'is ö\?': character 'ö' .*bytes"
    if skipped:
        assert re.search(said, mixture.build(run).tasks["own"].splits.notes[-1])
    else:
        with pytest.raises(ValueError, match=said):
            mixture.build(run)


def test_ids_from_elsewhere_must_belong_to_the_vocabulary(monkeypatch: pytest.MonkeyPatch):
    ids = np.arange(100, dtype=np.uint16)
    serve(monkeypatch, "text", train=[TokenStream(ids)], validation=[TokenStream(ids)])
    assert mixture.build(config("text")).tasks
    serve(monkeypatch, "text", train=[TokenStream(ids + np.uint16(200))], validation=[TokenStream(ids)])
    with pytest.raises(ValueError) as caught:
        mixture.build(config("text"))
    for word in ("data.tasks.text", "299", "256", "tokenizer"):
        assert word in str(caught.value)


def test_held_out_part_without_a_target_is_refused(monkeypatch: pytest.MonkeyPatch):
    ids = np.arange(100, dtype=np.uint16)
    serve(monkeypatch, "text", train=[TokenStream(ids)], validation=[TokenStream(ids[:1])])
    with pytest.raises(ValueError, match="data.tasks.text.*validation"):
        mixture.build(config("text"))


def test_characters_of_follow_up_questions_are_learned(monkeypatch: pytest.MonkeyPatch):
    serve(
        monkeypatch,
        "qa",
        train=[QuestionAnswer("a?", "no", more=(QuestionAnswer("x?", "yz"),))],
        validation=[QuestionAnswer("a?", "no")],
    )
    text = mixture.build(config("qa", text="characters")).vocabulary.text
    assert set("xyz") <= set(text.decode(range(text.size)))


def test_characters_of_conversations_are_learned_and_their_kind_is_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    talk = Conversation((Message("user", "ab"), Message("assistant", "yz")))
    monkeypatch.setitem(sources.SOURCES, "talk", lambda seed, fraction: Splits([talk], [talk], kind="chat"))
    tasks = {"talk": TaskConfig(kind="auto", source="talk")}
    built = mixture.build(dataclasses.replace(config("qa", text="characters"), data=DataConfig(tasks=tasks)))
    assert built.vocabulary.text.decode(range(4)) == "abyz"
    mixture.save(built, tmp_path)
    again = mixture.load(tmp_path)[1]["talk"]
    assert again.kind == "chat" and repr(again.prompt("ba")) == repr(built.tasks["talk"].task.prompt("ba"))


def test_choices_are_shown_as_the_config_of_the_task_says(monkeypatch: pytest.MonkeyPatch):
    question = QuestionAnswer("a?", "b", choices=("b", "c"))
    serve(monkeypatch, "qa", train=[question], validation=[question])
    shown, hidden = (mixture.build(config("qa", show_choices=show)).tasks["qa"].task for show in (True, False))
    assert len(shown.prompt(question).tokens) == len(hidden.prompt(question).tokens) + 4


def test_steps_are_used_where_the_config_asks_and_else_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch):
    question = QuestionAnswer("a", "b", steps=("c",), more=(QuestionAnswer("b", "a", steps=("b",)),))
    serve(monkeypatch, "qa", train=[question], validation=[question])
    used, unused = (mixture.build(config("qa", steps=on)).tasks["qa"] for on in (True, False))
    assert used.splits.train == [question] and not used.splits.notes
    bare = dataclasses.replace(question, steps=(), more=(QuestionAnswer("b", "a"),))
    assert unused.splits.train == unused.splits.validation == [bare]
    assert unused.splits.notes == ("1 of 1 answers have steps, which are not used: --data.tasks.qa.steps trains them",)
    assert sum(unused.train.sizes) < sum(used.train.sizes)


def test_categories_that_leave_nothing_to_train_are_refused(monkeypatch: pytest.MonkeyPatch):
    train, held = (QuestionAnswer("a", "b", category=name) for name in ("x", "new"))
    serve(monkeypatch, "qa", train=[train], validation=[held])
    with pytest.raises(ValueError, match="data.tasks.qa: the train split of 'qa' is empty"):
        mixture.build(config("qa", categories=("new",)))


def test_config_without_tasks_is_refused():
    with pytest.raises(ValueError, match="data.tasks is empty.*at least one task"):
        mixture.build(Config())


@pytest.mark.parametrize("image", ["grey", "palette", "rgb"])
def test_ids_of_pictures_without_pictures_are_refused(image: str, monkeypatch: pytest.MonkeyPatch):
    serve(monkeypatch, "text", kind="text")
    with pytest.raises(ValueError, match=f"tokenizer.image is '{image}'.*no task of the config has pictures"):
        mixture.build(config("text", image=image))


def test_what_no_task_would_heed_is_refused(monkeypatch: pytest.MonkeyPatch):
    serve(monkeypatch, "text", kind="text")
    asked = dataclasses.replace(config("qa"), eval=EvalConfig(stride=8))
    with pytest.raises(ValueError, match="eval.stride is 8.*no task of the run has text"):
        mixture.build(asked)
    mixture.build(dataclasses.replace(config("qa", "text"), eval=EvalConfig(stride=8)))
    found = dataclasses.replace(TaskConfig(kind="auto", source="text"), show_choices=False)
    by_content = dataclasses.replace(config("text"), data=DataConfig(tasks={"text": found}))
    with pytest.raises(ValueError, match="data.tasks.text.show_choices is off.*'text'"):
        mixture.build(by_content)
    led = dataclasses.replace(TaskConfig(kind="auto", source="text"), steps=True)
    with pytest.raises(ValueError, match="data.tasks.text.steps is on.*'text'"):
        mixture.build(dataclasses.replace(config("text"), data=DataConfig(tasks={"text": led})))


def test_missing_tokenizer_file_is_named(tmp_path: Path):
    cfg = config("text", text="bpe")
    cfg = dataclasses.replace(cfg, tokenizer=dataclasses.replace(cfg.tokenizer, path=str(tmp_path / "no.json")))
    with pytest.raises(FileNotFoundError, match="tokenizer.path '.*no.json' is not a file: give a tokenizer.json"):
        mixture.build(cfg)


def test_given_tokenizer_is_used_instead_of_training_one(tmp_path: Path):
    trained = mixture.build(config("text", text="bpe")).vocabulary
    (tmp_path / "t.json").write_text(trained.text.to_json())
    cfg = config("qa", text="bpe")
    cfg = dataclasses.replace(cfg, tokenizer=dataclasses.replace(cfg.tokenizer, path=str(tmp_path / "t.json")))
    assert mixture.build(cfg).vocabulary.text.to_json() == trained.text.to_json()


def test_two_builds_are_alike():
    first, second = (
        mixture.build(config(text="bpe", image="palette")),
        mixture.build(config(text="bpe", image="palette")),
    )
    for name in DATA:
        for a, b in itertools.zip_longest(first.tasks[name].train, second.tasks[name].train):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)


def test_a_run_whose_data_now_give_other_ids_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wanted = config("text", text="characters")
    built = mixture.build(wanted)
    mixture.check_saved(built, tmp_path)  # a new run has nothing to compare
    mixture.save(built, tmp_path)
    mixture.check_saved(mixture.build(wanted), tmp_path)
    changed = Splits([DATA["text"].train[0] + "Z", "short"], DATA["text"].validation)
    monkeypatch.setitem(sources.SOURCES, "text", lambda seed, fraction: changed)
    with pytest.raises(ValueError, match="the data have changed since the run began.*another --run.dir"):
        mixture.check_saved(mixture.build(wanted), tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1"])
def test_broken_tokenizer_file_is_named(tmp_path: Path, content: str):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    wanted = dataclasses.replace(config("text"), tokenizer=TokenizerConfig(text="bpe", path=str(path)))
    with pytest.raises(ValueError, match="tokenizer.json' is not a tokenizer.json of a BPE"):
        mixture.build(wanted)


def test_pictures_vary_in_training_alone_and_switches_off_change_nothing():
    plain = mixture.build(config("image")).tasks["image"]
    settings = config("image", condition_dropout=0.5)
    moved = dataclasses.replace(settings.data, augment=AugmentConfig(crop=1, flip=True))
    varied = mixture.build(dataclasses.replace(settings, data=moved)).tasks["image"]
    assert plain.train.refresh is None and varied.validation.refresh is None
    for old, new in zip(plain.train.at(0, 0, 3), plain.train[0], strict=True):
        np.testing.assert_array_equal(new, old)
    for old, new in zip(plain.validation[0], varied.validation.at(0, 0, 3), strict=True):
        np.testing.assert_array_equal(new, old)
    seen = {varied.train.at(0, 0, epoch).tokens_BS.tobytes() for epoch in range(10)}
    assert len(seen) > 3
    assert varied.task.prompt("").tokens.tolist() == [varied.task.caption, varied.task.image]
    with pytest.raises(ValueError, match="never saw a picture without"):
        plain.task.prompt("")


def test_switches_for_pictures_are_refused_without_pictures(monkeypatch: pytest.MonkeyPatch):
    data = dataclasses.replace(config("qa").data, augment=AugmentConfig(flip=True))
    with pytest.raises(ValueError, match="data.augment is .*no task of the config has pictures"):
        mixture.build(dataclasses.replace(config("qa"), data=data))
    serve(monkeypatch, "qa", kind="qa")
    tasks = {"mine": TaskConfig(kind="auto", source="qa", condition_dropout=0.1)}
    with pytest.raises(ValueError, match="data.tasks.mine.condition_dropout is 0.1, but the task is of kind 'qa'"):
        mixture.build(dataclasses.replace(config("qa"), data=DataConfig(tasks=tasks)))


def test_a_dialogue_that_ends_unanswered_is_said(monkeypatch: pytest.MonkeyPatch):
    talk = Conversation((Message("user", "hi"), Message("assistant", "yo")))
    cut = Conversation((*talk.messages, Message("user", "and?")))
    monkeypatch.setitem(sources.SOURCES, "talk", lambda seed, fraction: Splits([talk, cut], [talk], kind="chat"))
    tasks = {"talk": TaskConfig(kind="auto", source="talk")}
    data = mixture.build(dataclasses.replace(config("qa"), data=DataConfig(tasks=tasks))).tasks["talk"]
    said = "1 conversations end with turns that nobody answers: those train nothing, and are left out"
    assert data.splits.notes == (said,)


def test_what_utf8_cannot_express_is_listed_as_an_escape(tmp_path: Path):
    lines = [{"question": f"{i}?", "answer": "here"} for i in range(9)] + [{"question": ["\ud83d"], "answer": "x"}]
    (tmp_path / "qa.jsonl").write_text("\n".join(map(json.dumps, lines)))
    base = config("qa")
    source = dataclasses.replace(base.data, path=str(tmp_path / "qa.jsonl"), on_bad_record="skip")
    mixture.list_skipped(mixture.build(dataclasses.replace(base, data=source)), tmp_path / "skipped.txt")
    assert "\\ud83d" in (tmp_path / "skipped.txt").read_text()


def test_what_cannot_be_saved_whole_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data, folder, write = mixture.build(config("qa")), tmp_path / "tokenizer", Path.write_text
    assert not mixture.check_saved(data, folder)

    def full(path: Path, text: str, **options: Any) -> int:
        if path.name == "tasks.json":
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    for kept in (False, True):
        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            mixture.save(data, folder)
        monkeypatch.setattr(Path, "write_text", write)
        assert mixture.check_saved(data, folder) == kept
        mixture.save(data, folder)
        assert mixture.check_saved(data, folder) and not folder.with_name("tokenizer.tmp").exists()
