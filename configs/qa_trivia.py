"""Multiple-choice trivia: OpenTriviaQA's categories, or any file of questions with choices.

What: question, choices, answer; 4 layers of width 256 over 256 tokens of a BPE of 8,192 entries. Scored by which choice the
model finds most likely, summed and per byte, by category; chance is a quarter with four choices.
Command: python train.py configs/qa_trivia.py --data.path FOLDER
Time: 17 minutes on two cores of an EPYC with AVX-512 (Zen 5).
Score: accuracy 31.0 % by summed likelihood and 30.0 % per byte, of 1,000 held-out questions of OpenTriviaQA, where guessing has
28.8 %: a model that has read nothing else knows little of the world.
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
        run=RunConfig(dir="runs/qa_trivia"),
        model=presets.modern(
            num_layers=4,
            embed_dim=256,
            num_heads=4,
            context_length=256,
            windows=(64, None),
            rope_base=1000.0,
            rotary_fraction=0.5,
            init="half",
        ),
        tokenizer=TokenizerConfig(text="bpe", bpe_vocab_size=8192),
        data=DataConfig(
            tasks={"trivia": TaskConfig(kind="qa", on_long="skip", validation_fraction=0.05)}, on_bad_record="skip"
        ),
        optim=OptimConfig(
            name="muon", peak_lr=0.02, adam_lr=0.005, schedule="linear", warmup_steps=50, weight_decay=0.1
        ),
        train=TrainConfig(steps=2000, batch_size=16),
        eval=EvalConfig(every_steps=500, batch_size=64, max_questions=1000),
        checkpoint=CheckpointConfig(every_steps=500),
    )
