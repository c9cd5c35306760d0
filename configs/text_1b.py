"""1.4 billion parameters on your own text, for a slice of 256 small devices: 24 layers of width 2,048 over 2,048 tokens.

What: the modern preset (rotary, QK-norm, squared ReLU, untied head) with AdamW, since Muon gathers whole matrices; a BPE of
50,048 entries trained on the data, and two million tokens a step. Plan it first:
jgpt plan configs/text_1b.py --device v5e:16x16 --vocab-size 50304 --search
Command: python train.py configs/text_1b.py --data.path FILE_OR_FOLDER
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
        run=RunConfig(dir="runs/text_1b"),
        model=presets.modern(
            num_layers=24,
            embed_dim=2048,
            num_heads=16,
            context_length=2048,
            init="half",
            scan_layers=True,
            vocab_multiple=128,
        ),
        tokenizer=TokenizerConfig(text="bpe", bpe_vocab_size=50_048),
        data=DataConfig(tasks={"own": TaskConfig(kind="text", source="path", on_long="skip")}),
        optim=OptimConfig(name="adamw", peak_lr=3e-4, weight_decay=0.1, schedule="cosine", warmup_steps=1000),
        train=TrainConfig(steps=20_000, batch_size=1024),
        eval=EvalConfig(every_steps=1000),
        checkpoint=CheckpointConfig(every_steps=500),
    )
