"""Characters of tiny Shakespeare at the size of nanoGPT's CPU setting, with the modern recipe.

What: 4 layers, 4 heads, width 128, context 64, 12 sequences a step, 2,000 steps: 1.536 M tokens.
Command: python train.py configs/shakespeare_char.py --data.path shakespeare.txt, or without a path through TFDS.
Time: about three minutes on two CPU cores.
Score: loss over the last 10 % of the text, in the README's table beside nanoGPT's recipe (shakespeare_char_gpt2.py).
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
        run=RunConfig(dir="runs/shakespeare_char"),
        model=presets.modern(num_layers=4, embed_dim=128, num_heads=4, context_length=64),
        tokenizer=TokenizerConfig(text="characters"),
        data=DataConfig(
            tasks={"text": TaskConfig(kind="text", source="tfds:tiny_shakespeare", validation_fraction=0.1)}
        ),
        optim=OptimConfig(name="muon", peak_lr=0.03, adam_lr=0.01, schedule="linear", warmup_steps=20),
        train=TrainConfig(steps=2000, batch_size=12, seed=1337),
        eval=EvalConfig(every_steps=500, batch_size=192),
        checkpoint=CheckpointConfig(every_steps=500),
    )
