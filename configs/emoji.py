"""Pictures from words: emoji from their names.

What: 16 x 16 pixels in a palette of 64 colours after a caption in a BPE of 1,024 entries; 4 layers of width 192, positions
rotary in row and column; a tenth of the pictures without their caption, so that drawing can be guided.
Command: python train.py configs/emoji.py --data.path FOLDER; at 32 x 32 with
    --data.image-size 32 --model.context-length 1088 --train.batch-size 4
Time: 10 minutes on two cores of an EPYC with AVX-512 (Zen 5) at 16 x 16, with other work beside them.
Score: nats per token and what the palette itself loses; look at the pictures: jgpt draw runs/emoji --held-out 16 -n 3
"""

from jgpt import presets
from jgpt.config import (
    AugmentConfig,
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
        run=RunConfig(dir="runs/emoji"),
        model=presets.modern(
            num_layers=4,
            embed_dim=192,
            num_heads=3,
            context_length=304,
            positions="rotary_2d",
            rope_base=100.0,
            dropout=0.1,
            init="half",
        ),
        tokenizer=TokenizerConfig(text="bpe", bpe_vocab_size=1024, image="palette", image_levels=64),
        data=DataConfig(
            tasks={"emoji": TaskConfig(kind="image", condition_dropout=0.1, on_long="skip")},
            image_size=16,
            augment=AugmentConfig(crop=1),
        ),
        optim=OptimConfig(
            name="muon", peak_lr=0.02, adam_lr=0.006, schedule="linear", warmup_steps=20, weight_decay=0.1
        ),
        train=TrainConfig(steps=1500, batch_size=8),
        eval=EvalConfig(every_steps=500, batch_size=32),
        checkpoint=CheckpointConfig(every_steps=500),
    )
