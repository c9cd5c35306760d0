"""CIFAR-10 in full colour: 32 x 32 pixels of 8 bits red, green and blue, one token a channel.

What: 3,072 tokens a picture, so that bits per dim is exact and comparable (PixelCNN++ 2.92, Salimans et al. 2017; dense
attention 2.82, Child et al. 2019). 12 layers of width 512, positions rotary in row and column; two of three layers see a
strided pattern of rows and columns (Child et al. 2019). Classes are not given; pictures are flipped left to right.
Command: python train.py configs/cifar10.py --data.tfds-dir FOLDER
Time: for an accelerator; not run yet.
Score: bits per dim on the test split.
"""

from jgpt import presets
from jgpt.config import (
    AugmentConfig,
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
        run=RunConfig(dir="runs/cifar10"),
        model=presets.modern(
            num_layers=12,
            embed_dim=512,
            num_heads=8,
            context_length=3074,
            positions="rotary_2d",
            rope_base=100.0,
            patterns=("strided", "strided", "full"),
            dropout=0.1,
            init="half",
        ),
        tokenizer=TokenizerConfig(text="bytes", image="rgb"),
        data=DataConfig(
            tasks={"cifar10": TaskConfig(kind="image", source="tfds:cifar10", condition="none")},
            augment=AugmentConfig(flip=True),
        ),
        optim=OptimConfig(
            name="muon",
            peak_lr=0.02,
            adam_lr=0.004,
            schedule="wsd",
            warmup_steps=200,
            weight_decay=0.05,
            ema_decay=0.999,
        ),
        train=TrainConfig(steps=60_000, batch_size=32),
        eval=EvalConfig(every_steps=2000, batch_size=32),
        checkpoint=CheckpointConfig(every_steps=1000),
    )
