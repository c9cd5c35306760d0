"""Every rule of the configuration refuses what breaks it, and names the field, the value and the way out."""

import dataclasses
import typing

import pytest

from jgpt.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvalConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    TaskConfig,
    TokenizerConfig,
    TrainConfig,
)

TEXT = TaskConfig(kind="text", source="python_english")
IMAGE = TaskConfig(kind="image", source="sklearn_digits")
SECTIONS = {field.name: field.default for field in dataclasses.fields(Config)}


def task(**fields: typing.Any) -> TaskConfig:
    return TaskConfig(kind="text", source="python_english", **fields)


# (what to build, its fields, words the message must hold: the dotted field, the value, the fix)
BROKEN = [
    (ModelConfig, dict(num_layers=0), ["model.num_layers", "0", "at least 1"]),
    (ModelConfig, dict(embed_dim=100, num_heads=3), ["model.embed_dim 100", "model.num_heads 3", "model.head_dim"]),
    (ModelConfig, dict(num_heads=4, num_kv_heads=3), ["model.num_kv_heads 3", "model.num_heads 4", "divide"]),
    (ModelConfig, dict(num_heads=4, num_kv_heads=0), ["model.num_kv_heads 0", "divide"]),
    (ModelConfig, dict(head_dim=33), ["model.head_dim 33", "odd", "even"]),
    (ModelConfig, dict(windows=()), ["model.windows", "empty", "(None,)"]),
    (ModelConfig, dict(windows=(None, 0)), ["model.windows", "0", "None"]),
    (ModelConfig, dict(windows=(257,), context_length=256), ["model.windows", "257", "model.context_length 256"]),
    (ModelConfig, dict(positions="rotary_2d", head_dim=33), ["model.head_dim 33", "odd", "even"]),
    (ModelConfig, dict(positions="rotary_2d", head_dim=2), ["model.head_dim 2", "turns 1 pairs", "wider heads"]),
    (ModelConfig, dict(picture_width=3), ["model.picture_width", "3", "'rotary_2d'", "leave it out"]),
    (ModelConfig, dict(positions="rotary_2d", tokens_per_cell=0), ["model.tokens_per_cell", "0", "at least 1"]),
    (
        ModelConfig,
        dict(positions="rotary_2d", picture_width=4, picture_cells=10),
        ["model.picture_cells 10", "model.picture_width 4", "whole rows"],
    ),
    (ModelConfig, dict(patterns=()), ["model.patterns", "empty", "('full',)"]),
    (
        ModelConfig,
        dict(patterns=("full", "strided"), windows=(8,)),
        ["layer 1", "model.patterns 'strided'", "model.windows 8", "None"],
    ),
    (ModelConfig, dict(pattern_stride=8), ["model.pattern_stride", "8", "name a sparse pattern"]),
    (ModelConfig, dict(patterns=("strided",), pattern_stride=0), ["model.pattern_stride", "0", "between 1"]),
    (ModelConfig, dict(patterns=("strided",), pattern_summary=2), ["model.pattern_summary", "2", "leave it at 1"]),
    (
        ModelConfig,
        dict(patterns=("fixed",), pattern_stride=4, pattern_summary=5),
        ["model.pattern_summary", "5", "model.pattern_stride 4"],
    ),
    (ModelConfig, dict(ngrams=(2, 1)), ["model.ngrams", "1", "2 to 16"]),
    (ModelConfig, dict(embedding_conv=0), ["model.embedding_conv", "0", "between 1 (off) and 16"]),
    (ModelConfig, dict(ngram_rows=1), ["model.ngram_rows", "1", "at least 2"]),
    (ModelConfig, dict(head_dim=0), ["model.head_dim", "0", "positive"]),
    (ModelConfig, dict(mlp_dim=-5), ["model.mlp_dim", "-5", "positive"]),
    (ModelConfig, dict(rope_base=0.0), ["model.rope_base", "0.0", "positive"]),
    (ModelConfig, dict(norm_epsilon=-1.0), ["model.norm_epsilon", "-1.0", "positive"]),
    (ModelConfig, dict(dropout=1.0), ["model.dropout", "1.0", "[0, 1)"]),
    (ModelConfig, dict(logit_softcap=0.0), ["model.logit_softcap", "0.0", "None"]),
    (ModelConfig, dict(attention_softcap=-1.0), ["model.attention_softcap", "-1.0", "None"]),
    (ModelConfig, dict(attention_softcap=30.0, attention="xla"), ["model.attention_softcap 30.0", "'xla'", "einsum"]),
    (TokenizerConfig, dict(bpe_vocab_size=256), ["tokenizer.bpe_vocab_size", "256", "more"]),
    (TokenizerConfig, dict(bpe_across_words=True), ["tokenizer.bpe_across_words", "'bytes'", "switch it off"]),
    (TokenizerConfig, dict(path="t.json"), ["tokenizer.path 't.json'", "'bytes'", "--tokenizer.text bpe"]),
    (TokenizerConfig, dict(image_levels=1), ["tokenizer.image_levels", "1", "between 2"]),
    (task, dict(weight=0.0), ["data.tasks.*.weight", "0.0", "drop the task"]),
    (task, dict(loss_weight=-1.0), ["data.tasks.*.loss_weight", "-1.0", "positive"]),
    (task, dict(start=1.0), ["data.tasks.*.start", "1.0", "[0, 1)"]),
    (task, dict(validation_fraction=1.0), ["data.tasks.*.validation_fraction", "1.0", "between 0 and 1"]),
    (DataConfig, dict(prefetch_batches=0), ["data.prefetch_batches", "0", "at least 1"]),
    (DataConfig, dict(tasks={"my task": TEXT}), ["data.tasks", "'my task'", "identifiers"]),
    (
        DataConfig,
        dict(tasks={"a": dataclasses.replace(TEXT, start=0.5)}),
        ["data.tasks.*.start", "{'a': 0.5}", "at least one task must start at 0"],
    ),
    (OptimConfig, dict(peak_lr=0.0), ["optim.peak_lr", "0.0", "positive"]),
    (OptimConfig, dict(adam_lr=-0.1), ["optim.adam_lr", "-0.1", "positive"]),
    (OptimConfig, dict(b2=1.0), ["optim.b2", "1.0", "[0, 1)"]),
    (OptimConfig, dict(weight_decay=-0.1), ["optim.weight_decay", "-0.1", "negative"]),
    (OptimConfig, dict(warmup_steps=-1), ["optim.warmup_steps", "-1", "negative"]),
    (OptimConfig, dict(newton_schulz_steps=0), ["optim.newton_schulz_steps", "0", "at least 1"]),
    (OptimConfig, dict(final_lr_fraction=1.5), ["optim.final_lr_fraction", "1.5", "[0, 1]"]),
    (OptimConfig, dict(decay_fraction=0.0), ["optim.decay_fraction", "0.0", "(0, 1]"]),
    (OptimConfig, dict(clip_norm=0.0), ["optim.clip_norm", "0.0", "None"]),
    (OptimConfig, dict(ema_decay=1.0), ["optim.ema_decay", "1.0", "None"]),
    (TrainConfig, dict(steps=0), ["train.steps", "0", "at least 1"]),
    (TrainConfig, dict(batch_size=10, accumulation_steps=3), ["train.batch_size 10", "train.accumulation_steps 3"]),
    (TrainConfig, dict(seed=-1), ["train.seed", "-1", "negative"]),
    (TrainConfig, dict(z_loss=-1e-4), ["train.z_loss", "-0.0001", "negative"]),
    (TrainConfig, dict(loss_chunk_tokens=0), ["train.loss_chunk_tokens", "0", "None"]),
    (EvalConfig, dict(every_steps=0), ["eval.every_steps", "0", "at least 1"]),
    (EvalConfig, dict(max_questions=0), ["eval.max_questions", "0", "None"]),
    (CheckpointConfig, dict(every_steps=0), ["checkpoint.every_steps", "0", "at least 1"]),
    (CheckpointConfig, dict(keep_latest=0), ["checkpoint.keep_latest", "0", "at least 1"]),
    (CheckpointConfig, dict(keep_best=-1), ["checkpoint.keep_best", "-1", "negative"]),
    (MeshConfig, dict(tensor=0), ["mesh.tensor", "0", "at least 1"]),
    (
        Config,
        dict(optim=OptimConfig(warmup_steps=50), train=TrainConfig(steps=10)),
        ["optim.warmup_steps 50", "train.steps 10", "lower optim.warmup_steps"],
    ),
    (
        Config,
        dict(train=TrainConfig(batch_size=12, accumulation_steps=2), mesh=MeshConfig(data=2, fsdp=2)),
        ["6 rows", "= 4", "multiple"],
    ),
    (
        Config,
        dict(data=DataConfig(tasks={"a": TEXT, "b": TEXT}, path="x.txt")),
        ["data.path 'x.txt'", "a, b", "--data.tasks.NAME.path"],
    ),
    (TaskConfig, dict(kind="text", steps=True), ["data.tasks.*.steps", "'text'", "leave it off"]),
    (TaskConfig, dict(kind="text", show_choices=False), ["data.tasks.*.show_choices", "'text'", "leave it on"]),
    (Config, dict(eval=EvalConfig(stride=257)), ["eval.stride is 257", "model.context_length 256", "half"]),
    (Config, dict(data=DataConfig(path="x.txt")), ["data.path 'x.txt'", "0"]),
    (
        Config,
        dict(data=DataConfig(tasks={"a": IMAGE}), tokenizer=TokenizerConfig(image="none")),
        ["tokenizer.image", "'none'", "'grey'"],
    ),
]


@pytest.mark.parametrize(
    ("owner", "fields", "words"), BROKEN, ids=lambda value: getattr(value, "__name__", str(value)[:40])
)
def test_broken_rules_name_field_value_and_fix(owner: typing.Any, fields: dict, words: list[str]):
    with pytest.raises(ValueError) as caught:
        owner(**fields)
    for word in words:
        assert word in str(caught.value)


def test_values_on_the_border_are_accepted():
    ModelConfig(num_heads=4, num_kv_heads=1, windows=(256, None), context_length=256, dropout=0.0)
    ModelConfig(embed_dim=100, num_heads=3, head_dim=32)
    ModelConfig(head_dim=33, positions="learned")
    OptimConfig(b1=0.0, warmup_steps=0, final_lr_fraction=1.0, decay_fraction=1.0)
    Config(optim=OptimConfig(warmup_steps=10), train=TrainConfig(steps=10))
    Config(data=DataConfig(tasks={"a": IMAGE}), tokenizer=TokenizerConfig(image="grey"))


def test_every_section_is_frozen_and_keyword_only():
    for section in (*SECTIONS.values(), Config()):
        name = dataclasses.fields(section)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(section, name, None)
        with pytest.raises(TypeError):
            type(section)(1)


def test_every_field_is_typed_and_off_is_none():
    for section in SECTIONS.values():
        hints = typing.get_type_hints(type(section))
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            assert value != -1, f"{field.name}: None means off, never -1"
            choices = (
                typing.get_args(hints[field.name]) if typing.get_origin(hints[field.name]) is typing.Literal else None
            )
            assert choices is None or value in choices


@pytest.mark.parametrize(("mlp", "width"), [("gelu", 400), ("relu2", 400), ("swiglu", 272)])
def test_hidden_width_follows_the_kind_of_mlp(mlp: str, width: int):
    cfg = ModelConfig(embed_dim=100, num_heads=2, mlp=mlp)
    assert cfg.hidden_dim == width  # swiglu: 8/3 x 100 = 266.7, the next multiple of 8 is 272
    assert dataclasses.replace(cfg, mlp_dim=7).hidden_dim == 7


def test_windows_repeat_over_the_layers():
    cfg = ModelConfig(windows=(8, 16, None), num_layers=5)
    assert [cfg.window_of(layer) for layer in range(5)] == [8, 16, None, 8, 16]


def test_heads_are_derived_where_they_are_not_given():
    assert ModelConfig(embed_dim=96, num_heads=4).width_of_head == 24
    assert ModelConfig(num_heads=4).kv_heads == 4
    assert ModelConfig(num_heads=4, num_kv_heads=2, head_dim=6).kv_heads == 2


def test_data_path_replaces_the_source_of_the_single_task():
    config = Config(data=DataConfig(tasks={"a": TEXT}, path="mine.txt"))
    assert config.task_configs() == {"a": dataclasses.replace(TEXT, path="mine.txt")}
    assert Config(data=DataConfig(tasks={"a": TEXT})).task_configs() == {"a": TEXT}


def test_of_several_tasks_those_of_the_users_data_read_its_path() -> None:
    mine, own = TaskConfig(kind="qa"), TaskConfig(kind="qa", path="own.jsonl")
    tasks = {"text": TaskConfig(kind="text", source="python_docs"), "all": mine, "some": mine, "own": own}
    read = Config(data=DataConfig(tasks=tasks, path="mine.jsonl")).task_configs()
    assert {name: task.path for name, task in read.items()} == {
        "text": None,
        "all": "mine.jsonl",
        "some": "mine.jsonl",
        "own": "own.jsonl",
    }
    assert read["text"] == tasks["text"] and read["own"] == own
