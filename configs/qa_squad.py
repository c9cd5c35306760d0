"""Questions about a paragraph, answered from it: any file in SQuAD's format.

What: `<|context|>` paragraph `<|question|>` question `<|answer|>` answer; 6 layers of width 256 over 512 tokens of a BPE of
8,192 entries. Articles are held out whole. Examples longer than the context are left out and counted.
Command: python train.py configs/qa_squad.py --data.path train-v1.1.json
Time: hours on two CPU cores for SQuAD itself; the 1,190 questions of XQuAD are too few to learn reading from.
Score: exact match and F1 after SQuAD's normalisation.
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
        run=RunConfig(dir="runs/qa_squad"),
        model=presets.modern(
            num_layers=6,
            embed_dim=256,
            num_heads=4,
            context_length=512,
            windows=(128, None),
            rope_base=1000.0,
            rotary_fraction=0.5,
            init="half",
        ),
        tokenizer=TokenizerConfig(text="bpe", bpe_vocab_size=8192),
        data=DataConfig(tasks={"squad": TaskConfig(kind="qa", on_long="skip")}),
        optim=OptimConfig(name="muon", peak_lr=0.02, adam_lr=0.005, schedule="linear", warmup_steps=50),
        train=TrainConfig(steps=5000, batch_size=16),
        eval=EvalConfig(every_steps=500, batch_size=32, max_questions=2000),
        checkpoint=CheckpointConfig(every_steps=500),
    )
