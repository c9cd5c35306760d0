"""Characters of tiny Shakespeare at the size of nanoGPT's GPU setting, with the modern recipe.

What: 6 layers, 6 heads, width 384, context 256, 64 sequences a step, dropout 0.2 (nanoGPT's config/train_shakespeare_char.py).
Command: python train.py configs/shakespeare_char_large.py --data.path shakespeare.txt, or without a path through TFDS.
Time: for an accelerator; about 9 s a step on two CPU cores.
Score: nanoGPT's README reports 1.4697 over 20 batches of the last 10 %; not run to its end yet.
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
        run=RunConfig(dir="runs/shakespeare_char_large"),
        model=presets.modern(num_layers=6, embed_dim=384, num_heads=6, context_length=256, dropout=0.2),
        tokenizer=TokenizerConfig(text="characters"),
        data=DataConfig(
            tasks={"text": TaskConfig(kind="text", source="tfds:tiny_shakespeare", validation_fraction=0.1)}
        ),
        optim=OptimConfig(
            name="muon", peak_lr=0.02, adam_lr=0.005, schedule="linear", warmup_steps=50, weight_decay=0.1
        ),
        train=TrainConfig(steps=1500, batch_size=64, seed=1337),
        eval=EvalConfig(every_steps=100, batch_size=64),
        checkpoint=CheckpointConfig(every_steps=100),
    )
