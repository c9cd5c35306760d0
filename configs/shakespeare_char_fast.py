"""Tiny Shakespeare to 1.88 nats in as few seconds as possible: the score nanoGPT's CPU recipe ends at after 2,000 steps.

What: one layer of width 128 over hashed n-grams of 2, 3 and 4 characters, 24 sequences of 64 a step, Muon, and a schedule of
90 steps. The n-grams hold what would take layers and steps to learn.
Command: python train.py configs/shakespeare_char_fast.py --data.path shakespeare.txt
Time: bench/time_to_loss.py measures it.
Score: below 1.88 nats over the last 10 % of the text.
"""

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

STEPS = 90


def get_config() -> Config:
    """Return the run card."""
    return Config(
        run=RunConfig(dir="runs/shakespeare_char_fast"),
        model=presets.modern(
            num_layers=1, embed_dim=128, num_heads=2, context_length=64, ngrams=(2, 3, 4), ngram_rows=8192
        ),
        tokenizer=TokenizerConfig(text="characters"),
        data=DataConfig(
            tasks={"text": TaskConfig(kind="text", source="tfds:tiny_shakespeare", validation_fraction=0.1)}
        ),
        optim=OptimConfig(name="muon", peak_lr=0.03, adam_lr=0.03, schedule="linear", warmup_steps=5),
        train=TrainConfig(steps=STEPS, batch_size=24, seed=0),
        eval=EvalConfig(every_steps=STEPS, batch_size=192),
        checkpoint=CheckpointConfig(every_steps=STEPS),
    )
