"""8 billion parameters on your own text, for a slice of 512 devices: Llama's shape, 32 layers of width 4,096 over 4,096 tokens.

What: the modern preset (rotary, QK-norm, squared ReLU, untied head) with AdamW, since Muon gathers whole matrices; a BPE of
50,304 entries trained on the data, and four million tokens a step. Plan it first:
jgpt plan configs/text_8b.py --device v5p:8x8x8 --vocab-size 50304 --search
Command: python train.py configs/text_8b.py --data.path FILE_OR_FOLDER
Time, score: not run yet; no accelerator was at hand.
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
        model=presets.modern(
            num_layers=32,
            embed_dim=4096,
            num_heads=32,
            num_kv_heads=8,
            context_length=4096,
            init="half",
            scan_layers=True,
            vocab_multiple=128,
        ),
        tokenizer=TokenizerConfig(text="bpe", bpe_vocab_size=50_304 - 256),
        data=DataConfig(tasks={"own": TaskConfig(kind="text", source="path", on_long="skip")}),
        optim=OptimConfig(name="adamw", peak_lr=3e-4, weight_decay=0.1, schedule="cosine", warmup_steps=1000),
        train=TrainConfig(steps=20_000, batch_size=1024),
        eval=EvalConfig(every_steps=1000),
        checkpoint=CheckpointConfig(every_steps=500),
    )
