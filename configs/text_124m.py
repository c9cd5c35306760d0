"""162 million parameters on your own text, for one accelerator or eight: 12 layers of width 768 over 1,024 tokens.

What: GPT-2's smallest depth and width in the modern preset (rotary, QK-norm, squared ReLU, untied head: 124M become 162M), a
BPE of 50,048 entries trained on the data, and half a million tokens a step. Plan it first:
jgpt plan configs/text_124m.py --device h100x8 --vocab-size 50304
Command: python train.py configs/text_124m.py --data.path FILE_OR_FOLDER
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
        run=RunConfig(dir="runs/text_124m"),
        model=presets.modern(
            num_layers=12,
            embed_dim=768,
            num_heads=6,
            context_length=1024,
            init="half",
            scan_layers=True,
            vocab_multiple=128,
        ),
        tokenizer=TokenizerConfig(text="bpe", bpe_vocab_size=50_048),
        data=DataConfig(tasks={"own": TaskConfig(kind="text", source="path", on_long="skip")}),
        optim=OptimConfig(name="muon", peak_lr=0.02, adam_lr=0.003, schedule="wsd", warmup_steps=200),
        train=TrainConfig(steps=20_000, batch_size=512, logits_dtype="bfloat16"),
        eval=EvalConfig(every_steps=1000),
        checkpoint=CheckpointConfig(every_steps=500),
    )
