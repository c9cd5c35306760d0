"""nanoGPT's CPU recipe for tiny Shakespeare, as a yardstick: the gpt2 preset with AdamW.

What: 4 layers, 4 heads, width 128, context 64, 12 sequences a step, 2,000 steps, no biases, no dropout (nanoGPT's README,
"I only have a macbook").
Command: python train.py configs/shakespeare_char_gpt2.py --data.path shakespeare.txt, or without a path through TFDS.
Time: about two minutes on two CPU cores.
Score: 1.886 nats over the last 10 % of the text is nanoGPT's own.
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
        run=RunConfig(dir="runs/shakespeare_char_gpt2"),
        model=presets.gpt2(num_layers=4, embed_dim=128, num_heads=4, context_length=64, use_bias=False),
        tokenizer=TokenizerConfig(text="characters"),
        data=DataConfig(
            tasks={"text": TaskConfig(kind="text", source="tfds:tiny_shakespeare", validation_fraction=0.1)}
        ),
        optim=OptimConfig(
            name="adamw",
            peak_lr=1e-3,
            b2=0.99,
            weight_decay=0.1,
            schedule="cosine",
            final_lr_fraction=0.1,
            warmup_steps=100,
        ),
        train=TrainConfig(steps=2000, batch_size=12, seed=1337),
        eval=EvalConfig(every_steps=500, batch_size=192),
        checkpoint=CheckpointConfig(every_steps=500),
    )
