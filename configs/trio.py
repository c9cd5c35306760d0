"""Text, questions and pictures in one model, on data that every Python carries.

What: the English of Python's own documentation (bytes), two-digit addition, stories with a question, handwritten digits.
Command: python train.py
Time: about five minutes on two CPU cores.
Score: addition and stories above 95 %, digits below 1.70 bits per dim, text 1.87 bits per byte; see the README's table.
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


def get_config() -> Config:
    """Return the run card."""
    return Config(
        run=RunConfig(dir="runs/trio"),
        model=presets.modern(
            num_layers=4,
            embed_dim=128,
            num_heads=2,
            context_length=201,  # three digits fill a row
            windows=(28, None),  # every other layer sees about a sentence
            rope_base=1000.0,
            rotary_fraction=0.5,
            ngrams=(2, 3, 4),
            ngram_rows=4096,
            init="half",
        ),
        tokenizer=TokenizerConfig(text="bytes", image="grey", image_levels=17),
        data=DataConfig(
            tasks={
                # looking up who is where is learned in an eighth of the steps alone, and not in all of them beside the others
                "stories": TaskConfig(
                    kind="qa", source="stories", weight=1.4, loss_weight=6.0, validation_fraction=0.025
                ),
                "text": TaskConfig(
                    kind="text", source="python_english", weight=7.0, start=0.125, validation_fraction=0.1
                ),
                "addition": TaskConfig(
                    kind="qa", source="addition", weight=2.2, loss_weight=3.0, start=0.125, validation_fraction=0.2
                ),
                "digits": TaskConfig(
                    kind="image",
                    source="sklearn_digits",
                    weight=2.4,
                    loss_weight=1.5,
                    start=0.125,
                    validation_fraction=0.2,
                ),
            }
        ),
        optim=OptimConfig(name="muon", peak_lr=0.025, adam_lr=0.008, schedule="linear", warmup_steps=20),
        train=TrainConfig(steps=1440, batch_size=16),
        eval=EvalConfig(every_steps=480, batch_size=64),
        checkpoint=CheckpointConfig(every_steps=480),
    )
