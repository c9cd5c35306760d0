"""MNIST in black and white, drawn digit by digit: likelihoods in nats a picture.

What: pixels at or above 128 are white; 4 layers of width 128, positions rotary in row and column. Digits are not given, as in
the published figures; but the threshold is fixed, so that scores do not compare with the 81.3 nats of PixelCNN, whose pixels
were drawn at random. `bench/pixelcnn.py` trains a PixelCNN of the same size on the same pictures.
Command: python train.py configs/mnist_binary.py --data.tfds-dir FOLDER; at a quarter of the pixels with
    --data.image-size 14 --model.context-length 198
Time: at 14 x 14 about a quarter of an hour on two CPU cores for 1,500 steps; at 28 x 28 for an accelerator.
Score: bits per dim on the test split; times 784 (196) and ln 2 gives nats a picture.
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
        run=RunConfig(dir="runs/mnist_binary"),
        model=presets.modern(
            num_layers=4,
            embed_dim=128,
            num_heads=2,
            context_length=786,
            positions="rotary_2d",
            rope_base=100.0,
            init="half",
        ),
        tokenizer=TokenizerConfig(text="bytes", image="grey", image_levels=2),
        data=DataConfig(
            tasks={"mnist": TaskConfig(kind="image", source="tfds:mnist", condition="none")}, image_threshold=128
        ),
        optim=OptimConfig(name="muon", peak_lr=0.02, adam_lr=0.006, schedule="linear", warmup_steps=20),
        train=TrainConfig(steps=1500, batch_size=16),
        eval=EvalConfig(every_steps=1500, batch_size=64),
        checkpoint=CheckpointConfig(every_steps=500),
    )
