"""8 billion parameters on your own text, for a slice of 512 devices: 32 layers of width 4,096 over 4,096 tokens.

What: the shape of Llama 3's 8B (grouped queries, SwiGLU of width 14,336) with AdamW, a BPE of 128,000 entries trained on the
data, and four million tokens a step. Plan it first:
jgpt plan configs/text_8b.py --device v5p:8x8x8 --vocab-size 128256 --search
Command: python train.py configs/text_8b.py --data.path FILE_OR_FOLDER
Time: not run yet; it needs accelerators for longer than they were at hand.
Score: not known.
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
        run=RunConfig(dir="runs/text_8b"),
        model=presets.llama(
            num_layers=32,
            embed_dim=4096,
            num_heads=32,
            num_kv_heads=8,
            context_length=4096,
            mlp_dim=14_336,
            scan_layers=True,
            vocab_multiple=128,
        ),
        tokenizer=TokenizerConfig(text="bpe", bpe_vocab_size=128_000),
        data=DataConfig(tasks={"own": TaskConfig(kind="text", source="path", on_long="skip")}),
        optim=OptimConfig(name="adamw", peak_lr=3e-4, weight_decay=0.1, schedule="cosine", warmup_steps=1000),
        train=TrainConfig(steps=20_000, batch_size=1024),
        eval=EvalConfig(every_steps=1000),
        checkpoint=CheckpointConfig(every_steps=500),
    )
