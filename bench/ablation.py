"""What each part of the modern recipe is worth: tiny Shakespeare with one part changed, over several seeds.

    python bench/ablation.py --data shakespeare.txt

Every variant is configs/shakespeare_char.py (4 layers of width 128) but for its own options, for `--steps` steps. With the
first seed each trains at twice its learning rates, and twice that, for as long as it helps, else at half of them, and so on,
and goes on with the best, so that a part that only wants another rate is not held against its rate. Seeds are the outer loop,
so that a drift of the machine meets all variants alike. Loss: nats per character over the whole last tenth of the text, and
its difference from the recipe with the same seed. Time: of a step, from the run's own record. "In equal time" weighs both: by
how much the variant's loss is above that of the recipe trained for as many seconds, which follows from the recipe with fewer
and with more steps.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from harness import BENCH, arguments, publish, say

ROOT = BENCH.parent
CARD: Final = "configs/shakespeare_char.py"
RECIPE: Final = "modern recipe"
FACTORS: Final = (2.0, 0.5)  # of what a variant's options say, again and again
MUON: Final = {"optim.peak-lr": 0.03, "optim.adam-lr": 0.01}
ADAMW: Final = {"optim.peak-lr": 0.004}
LENGTHS: Final = (0.8, 1.25)  # of the steps, for what the recipe gains by more of them

# what each changes in the recipe; a flag without a value is a switch
VARIANTS: Final[dict[str, tuple[dict[str, float], tuple[str, ...]]]] = {
    RECIPE: (MUON, ()),
    "AdamW for Muon": (ADAMW, ("--optim.name", "adamw")),
    "no QK-norm": (MUON, ("--model.no-qk-norm",)),
    "GELU": (MUON, ("--model.mlp", "gelu")),
    "SwiGLU": (MUON, ("--model.mlp", "swiglu")),
    "GPT-2's init": (MUON, ("--model.init", "gpt2")),
    "half init": (MUON, ("--model.init", "half")),
    "LayerNorm": (MUON, ("--model.norm", "layernorm")),
    "learned positions": (MUON, ("--model.positions", "learned")),
    "half the channels turn": (MUON, ("--model.rotary-fraction", "0.5")),
    "tied embeddings": (MUON, ("--model.tie-embeddings",)),
    "biases": (MUON, ("--model.use-bias",)),
    "logits capped at 15": (MUON, ("--model.logit-softcap", "15")),
    "every other layer sees 16": (MUON, ("--model.windows", "16", "None")),
    "one key-value head": (MUON, ("--model.num-kv-heads", "1")),
    "embeddings of pairs": (MUON, ("--model.ngrams", "2", "--model.ngram-rows", "4096")),
    "convolution of embeddings": (MUON, ("--model.embedding-conv", "4")),
    "gates of heads": (MUON, ("--model.attention-gates",)),
    "skips from the embeddings": (MUON, ("--model.embedding-skips",)),
    "those three and SwiGLU": (
        MUON,
        ("--model.embedding-conv", "4", "--model.attention-gates", "--model.embedding-skips", "--model.mlp", "swiglu"),
    ),
    "cosine": (MUON, ("--optim.schedule", "cosine")),
    "stable, then decay": (MUON, ("--optim.schedule", "wsd", "--optim.decay-fraction", "0.4")),
    "moving average": (MUON, ("--optim.ema-decay", "0.97")),
    "no clipping": (MUON, ("--optim.clip-norm", "None")),
    "weight decay 0.1": (MUON, ("--optim.weight-decay", "0.1")),
    "GPT-2's model, AdamW": (
        ADAMW,
        ("--optim.name", "adamw", "--optim.schedule", "cosine", "--model.no-qk-norm", "--model.mlp", "gelu",
         "--model.init", "gpt2", "--model.norm", "layernorm", "--model.positions", "learned", "--model.tie-embeddings",
         "--model.use-bias"),
    ),
}  # fmt: skip


def train(options: tuple[str, ...], rates: dict[str, float], data: str, steps: int, seed: int) -> dict[str, float]:
    """Return the held-out loss of one run, and its seconds a step."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [sys.executable, str(ROOT / "train.py"), str(ROOT / CARD), "--data.path", data, "--run.dir", str(run)]
        words += ["--train.seed", str(seed), "--train.steps", str(steps), "--eval.every-steps", str(steps)]
        words += ["--checkpoint.every-steps", str(steps), "--eval.no-samples", *options]
        words += [word for name, value in rates.items() for word in (f"--{name}", f"{value:g}")]
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ)
        records = (
            [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] if run.is_dir() else []
        )
    losses = [record["text/nats_per_token"] for record in records if "text/nats_per_token" in record]
    if not losses:
        if "FloatingPointError" in done.stderr or "diverged" in done.stderr:
            return {"loss": float("inf"), "seconds": float("nan")}
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    speeds = [record["tokens_per_second"] for record in records if "tokens_per_second" in record]
    return {"loss": losses[-1], "seconds": 12 * 64 / statistics.median(speeds)}


def best_rate(
    words: tuple[str, ...], rates: dict[str, float], data: str, steps: int
) -> tuple[float, dict[float, dict[str, float]]]:
    """Return the best multiple of the rates with the first seed, and what all gave that were tried."""
    tried: dict[float, dict[str, float]] = {}

    def loss(multiple: float) -> float:
        if multiple not in tried:
            scaled = {field: multiple * value for field, value in rates.items()}
            tried[multiple] = train(words, scaled, data, steps, seed=0)
        return tried[multiple]["loss"]

    best = 1.0
    for factor in FACTORS:
        while loss(best * factor) < loss(best):
            best *= factor
    return best, tried


def main() -> None:
    """Measure and write the table."""
    options = arguments(
        __doc__ or "",
        data={"required": True, "help": "tiny Shakespeare as a text file"},
        steps={"type": int, "default": 400},
        only={"nargs": "*", "help": "variants, beside the recipe (default: all)"},
        name={"default": "ablation", "help": "of the file of results (%(default)s)"},
    )
    data = str(Path(options.data).resolve())
    chosen = {name: VARIANTS[name] for name in VARIANTS if not options.only or name in (RECIPE, *options.only)}
    found: dict[str, Any] = {}
    lengths: dict[float, list[float]] = {length: [] for length in LENGTHS}
    for seed in range(max(options.rounds, 1)):
        for name, (rates, words) in chosen.items():
            if seed == 0:
                best, tried = best_rate(words, rates, data, options.steps)
                losses = {str(factor): result["loss"] for factor, result in tried.items()}
                found[name] = {"rate": best, "losses_by_rate": losses, "runs": [tried[best]]}
            else:
                scaled = {field: found[name]["rate"] * value for field, value in rates.items()}
                found[name]["runs"].append(train(words, scaled, data, options.steps, seed))
            last = found[name]["runs"][-1]
            say(
                f"seed {seed}, {name}: {last['loss']:.4f} at {found[name]['rate']:g} of the rate, {last['seconds']:.4f} s"
            )
        for length in LENGTHS:
            scaled = {field: found[RECIPE]["rate"] * value for field, value in MUON.items()}
            lengths[length].append(train((), scaled, data, round(length * options.steps), seed)["loss"])
    fewer, more = (statistics.fmean(lengths[length]) for length in LENGTHS)
    gain = (fewer - more) / math.log(LENGTHS[1] / LENGTHS[0])
    results = {"steps": options.steps, "gain_by_e_times_the_steps": gain, "lengths": lengths, "variants": found}
    publish(options.name, results, table(found, gain))


def table(found: dict[str, Any], gain: float) -> list[tuple[str, ...]]:
    """Return the rows of the table: differences from the recipe, seed by seed.

    Args:
        found: by variant.
        gain: nats by which the recipe's loss falls with the logarithm of its steps.
    """
    rows = [("changed", "loss", "above the recipe", "seed by seed", "in equal time", "rate", "time of a step")]
    base = found[RECIPE]["runs"]
    for name, about in found.items():
        runs = about["runs"]
        more = [run["loss"] - other["loss"] for run, other in zip(runs, base, strict=True)]
        slower = statistics.median(run["seconds"] / other["seconds"] for run, other in zip(runs, base, strict=True))
        spread = f"{min(more):+.4f} to {max(more):+.4f}"
        loss = statistics.fmean(run["loss"] for run in runs)
        above = statistics.fmean(more)
        equal = above + gain * math.log(slower)
        rows.append(
            (name, f"{loss:.4f}", f"{above:+.4f}", spread, f"{equal:+.4f}", f"{about['rate']:g}", f"{slower:.2f}")
        )
    return rows


if __name__ == "__main__":
    main()
