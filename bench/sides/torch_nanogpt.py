"""Worker: nanoGPT's recipe for tiny Shakespeare on a CPU, in PyTorch, with the whole last tenth as validation.

Sizes and rates are those of nanoGPT's README ("I only have a macbook"): 4 layers, 4 heads, width 128, context 64, 12 rows,
2,000 steps, AdamW at 1e-3 with cosine decay to 1e-4 after 100 steps of warmup, b2 0.99, decay 0.1, clip 1, no dropout. See
bench/time_to_loss.py.
"""

import math
import sys
import time

from harness import serve, spec

SPEC = spec()
if SPEC["allocator"] == "mallopt":
    from jgpt.runtime import configure

    configure()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch_gpt2 import GPT2, optimizer  # noqa: E402

CONTEXT, ROWS, STEPS, WARMUP, PEAK, FLOOR = 64, 12, 2000, 100, 1e-3, 1e-4


def rate(step: int) -> float:
    """Return the learning rate of a step."""
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    return FLOOR + 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) * (PEAK - FLOOR)


def run(target: float) -> dict:
    """Train until the validation loss is below `target`; return seconds of training, steps and losses.

    The validations before the last are not counted, and there is none before step 1,500.
    """
    begun, spent = time.perf_counter(), 0.0
    text = open(SPEC["data"], encoding="utf-8").read()
    ids = {c: i for i, c in enumerate(sorted(set(text)))}
    data = torch.tensor([ids[c] for c in text])
    train, held = data[: int(0.9 * len(data))], data[int(0.9 * len(data)) :]
    torch.manual_seed(SPEC["seed"])
    model = GPT2(len(ids), CONTEXT, 128, 4, 4, bias=False)
    model.start()
    tx = optimizer(model, PEAK, 0.1, 0.9, 0.99)
    generator = torch.Generator().manual_seed(SPEC["seed"])
    seen: list[tuple[int, float]] = []
    for step in range(STEPS):
        for group in tx.param_groups:
            group["lr"] = rate(step)
        starts = torch.randint(len(train) - CONTEXT, (ROWS,), generator=generator)
        rows = torch.stack([train[i : i + CONTEXT + 1] for i in starts])
        model(rows[:, :-1], rows[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        tx.step()
        tx.zero_grad(set_to_none=True)
        if step + 1 >= 1500 and (step + 1) % 100 == 0:
            paused = time.perf_counter()
            seen.append((step + 1, validation(model, held)))
            print(f"step {step + 1}: {seen[-1][1]:.4f}", file=sys.stderr)
            last = time.perf_counter() - paused
            if seen[-1][1] < target:
                break
            spent += last
    return {"seconds": time.perf_counter() - begun - spent, "uncounted": spent, "seen": seen}


def validation(model: GPT2, held: torch.Tensor) -> float:
    """Return the mean loss over all of the held-out text, in windows as in training."""
    windows = (len(held) - 1) // CONTEXT
    inputs, targets = (held[i : i + windows * CONTEXT].view(windows, CONTEXT) for i in (0, 1))
    total = 0.0
    with torch.no_grad():
        for first in range(0, windows, 192):
            rows = slice(first, first + 192)
            total += model(inputs[rows], targets[rows]).item() * len(inputs[rows])
    return float(np.asarray(total) / windows)


serve({"run": run})
