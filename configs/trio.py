"""Text, questions and pictures in one model, on data that every Python carries.

What: the English of Python's own documentation (bytes), two-digit addition, stories with a question, handwritten digits.
Command: python train.py
Time: about five minutes on two CPU cores.
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
        model=presets.modern(num_layers=4, embed_dim=128, num_heads=2, context_length=201),  # three digits fill a row
        tokenizer=TokenizerConfig(text="bytes", image="grey", image_levels=17),
        data=DataConfig(
            tasks={
                "text": TaskConfig(kind="text", source="python_english", weight=6, validation_fraction=0.1),
                "addition": TaskConfig(kind="qa", source="addition", weight=2, validation_fraction=0.2),
                "stories": TaskConfig(kind="qa", source="stories", weight=3, validation_fraction=0.025),
                "digits": TaskConfig(kind="image", source="sklearn_digits", weight=3, validation_fraction=0.2),
            }
        ),
        optim=OptimConfig(name="muon", peak_lr=0.03, adam_lr=0.01, schedule="linear", warmup_steps=20),
        train=TrainConfig(steps=1000, batch_size=20),
        eval=EvalConfig(every_steps=250),
        checkpoint=CheckpointConfig(every_steps=250),
    )
