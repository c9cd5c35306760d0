"""Your own data, whatever it is: texts, questions and answers, dialogues, or pictures.

What: 4 layers of width 256 over 512 tokens; a BPE of up to 4,096 entries trained on the data, pictures scaled to 16x16 and
coded by a palette of 64 colours (grey levels where none has colour). The kind of task is what the path is recognised as.
Command: python train.py configs/own.py --data.path FILE_OR_FOLDER
Time: about half an hour on two CPU cores for 1,000 steps; fewer with --train.steps.
Score: printed at the end, and by `jgpt evaluate runs/own`.
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
        run=RunConfig(dir="runs/own"),
        model=presets.modern(
            num_layers=4,
            embed_dim=256,
            num_heads=4,
            context_length=512,
            windows=(128, None),
            rope_base=1000.0,
            rotary_fraction=0.5,
            init="half",
        ),
        tokenizer=TokenizerConfig(text="bpe", bpe_vocab_size=4096, image="auto", image_levels=64),
        data=DataConfig(
            tasks={"own": TaskConfig(kind="auto", source="path", on_long="skip")},
            image_size=16,
        ),
        optim=OptimConfig(name="muon", peak_lr=0.02, adam_lr=0.005, schedule="linear", warmup_steps=20),
        train=TrainConfig(steps=1000, batch_size=8),
        eval=EvalConfig(every_steps=250, batch_size=32, max_questions=500),
        checkpoint=CheckpointConfig(every_steps=250),
    )
