"""bAbI, all kinds of questions in the archive, one joint model.

What: every question of the en-10k set after the facts of its story; before it answers, the model names the facts that
support it, which the training files mark (strong supervision, as for the memory networks of Weston et al. 2015; with
--data.tasks.babi.no-steps answers alone are trained). 4 layers of width 128 over 320 tokens of a BPE whose entries
may span words: of the 3,581 different sentences the common ones are a token or two, so that a fact is named in one breath
and a question takes 31 tokens with all that belongs to it, while rare sentences, such as those of positional reasoning, keep
their words apart, so that what they say of one thing holds for another. There are no hashed n-grams beside the tokens: with
them the model learns by heart (the README has figures). Positional reasoning, 1,250 short stories, is learned late, so that a
second task shows it three times as often. Held out are the benchmark's test files; an answer counts, whatever facts were named
before it.
Command: python train.py configs/qa_babi.py --data.path FOLDER_OR_ARCHIVE
Time: 52 minutes on two cores of an EPYC with AVX-512 (Zen 5), with other work beside them.
Score: 94.8 % exact match, mean of all 20 kinds; 99.5 % of the 19 that have training files; the README's table has each.
"""

from dataclasses import replace

from jgpt import presets
from jgpt.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvalConfig,
    OptimConfig,
    RunConfig,
    TaskConfig,
    TokenizerConfig,
    TrainConfig,
)

POSITIONAL = ("17 positional reasoning",)


def get_config() -> Config:
    """Return the run card."""
    all_kinds = TaskConfig(kind="qa", on_long="skip", steps=True)
    return Config(
        run=RunConfig(dir="runs/qa_babi"),
        model=presets.modern(
            num_layers=4,
            embed_dim=128,
            num_heads=4,
            mlp_dim=256,
            context_length=320,
            rope_base=1000.0,
            rotary_fraction=0.5,
            init="half",
        ),
        tokenizer=TokenizerConfig(text="bpe", bpe_vocab_size=2048, bpe_across_words=True),
        data=DataConfig(tasks={"babi": all_kinds, "positional": replace(all_kinds, categories=POSITIONAL, weight=0.1)}),
        optim=OptimConfig(name="muon", peak_lr=0.008, adam_lr=0.025, schedule="linear", warmup_steps=20),
        train=TrainConfig(steps=30000, batch_size=8),
        eval=EvalConfig(every_steps=5000, batch_size=64),
        checkpoint=CheckpointConfig(every_steps=1000),
    )
