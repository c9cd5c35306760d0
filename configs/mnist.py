"""MNIST as it is: 28 x 28 pixels of 256 grey levels.

What: one token a pixel, 4 layers of width 128, positions rotary in row and column, every other layer sees two rows of pixels.
Digits are given as captions.
Command: python train.py configs/mnist.py --data.tfds-dir FOLDER
Time: a quarter of an hour on two CPU cores for 500 steps, which is a ninth of the training pictures; the rest is for an
accelerator.
Score: bits per dim on the test split; see the README's table.
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
        run=RunConfig(dir="runs/mnist"),
        model=presets.modern(
            num_layers=4,
            embed_dim=128,
            num_heads=2,
            context_length=787,
            positions="rotary_2d",
            rope_base=100.0,
            windows=(57, None),
            init="half",
        ),
        tokenizer=TokenizerConfig(text="bytes", image="grey", image_levels=256),
        data=DataConfig(tasks={"mnist": TaskConfig(kind="image", source="tfds:mnist")}),
        optim=OptimConfig(name="muon", peak_lr=0.02, adam_lr=0.006, schedule="linear", warmup_steps=20),
        train=TrainConfig(steps=500, batch_size=16),
        eval=EvalConfig(every_steps=500, batch_size=32),
        checkpoint=CheckpointConfig(every_steps=250),
    )
