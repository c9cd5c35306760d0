"""MNIST drawn in black and white at random: likelihoods in nats a picture that compare with the published ones.

What: a pixel is white with its brightness as the probability; the 10,000 test pictures are drawn once for all runs, training
pictures anew every epoch (which published figures call dynamic). 8 layers of width 256, positions rotary in row and column;
digits are not given.
Command: python train.py configs/mnist_drawn.py --data.tfds-dir FOLDER
Time: 2 minutes of steps on an H100 with two other runs on it, 3.2 epochs, 151 M tokens; hours on a CPU.
Score: 0.1439 bits per dim on the test split; times 784 and ln 2 that is 78.2 nats a picture. PixelCNN 81.30, PixelRNN 79.20
    (van den Oord et al. 2016, table 5, with training pictures drawn once).
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
        run=RunConfig(dir="runs/mnist_drawn"),
        model=presets.modern(
            num_layers=8,
            embed_dim=256,
            num_heads=4,
            context_length=786,
            positions="rotary_2d",
            rope_base=100.0,
            init="half",
            dropout=0.1,
            scan_layers=True,
        ),
        tokenizer=TokenizerConfig(text="bytes", image="grey", image_levels=2),
        data=DataConfig(
            tasks={"mnist": TaskConfig(kind="image", source="tfds:mnist", condition="none")}, image_threshold="random"
        ),
        optim=OptimConfig(name="muon", peak_lr=0.02, adam_lr=0.006, schedule="linear", warmup_steps=50),
        train=TrainConfig(steps=3000, batch_size=64),
        eval=EvalConfig(every_steps=1000, batch_size=250),
        checkpoint=CheckpointConfig(every_steps=1000),
    )
