"""Characters of tiny Shakespeare at the size of nanoGPT's GPU setting, with the modern recipe.

What: 6 layers, 6 heads, width 384, context 256, 64 sequences a step (nanoGPT's config/train_shakespeare_char.py), dropout 0.25;
nanoGPT takes 5,000 such steps, ours sees the text ten times.
Command: python train.py configs/shakespeare_char_large.py --data.path shakespeare.txt, or without a path through TFDS.
Time: 8 s of steps on an H200, after starting and compiling; about 9 s a step on two CPU cores.
Score: 1.479 over the whole last 10 %, where nanoGPT's README reports 1.4697 over 20 batches of it. More steps overfit:
    dropout 0.35 and 1,000 steps 1.483, 0.4 and 1,200 steps 1.481, 0.35 and 2,000 steps 1.480 at best and 1.522 at the end.
    What learns faster at small scale (--model.embedding-conv 4 --model.mlp swiglu --model.attention-gates
    --model.embedding-skips) showed no gain here: 1.481, one run, in f32 on two CPU cores.
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
        model=presets.modern(
            num_layers=6, embed_dim=384, num_heads=6, context_length=256, dropout=0.25, scan_layers=True
        ),
        tokenizer=TokenizerConfig(text="characters"),
        data=DataConfig(
            tasks={"text": TaskConfig(kind="text", source="tfds:tiny_shakespeare", validation_fraction=0.1)}
        ),
        optim=OptimConfig(
            name="muon", peak_lr=0.02, adam_lr=0.005, schedule="linear", warmup_steps=50, weight_decay=0.1
        ),
        train=TrainConfig(steps=600, batch_size=64, seed=1337),
        eval=EvalConfig(every_steps=100, batch_size=256),
        checkpoint=CheckpointConfig(every_steps=100),
    )
