"""Worker: training steps of GPT-2 in PyTorch. See bench/train.py for the calls and the spec."""

import resource
import time

import numpy as np
from harness import serve, spec

SPEC = spec()
if SPEC["allocator"] == "mallopt":  # what jgpt sets for itself
    from jgpt.runtime import configure

    configure()

import torch  # noqa: E402
from torch_gpt2 import GPT2, optimizer  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() and SPEC["device"] == "gpu" else "cpu"
torch.backends.cuda.matmul.allow_tf32 = SPEC["dtype"] != "float32"
MODEL = GPT2(SPEC["vocab"], SPEC["context"], SPEC["width"], SPEC["heads"], SPEC["layers"]).to(DEVICE)
OPTIMIZER = optimizer(MODEL, SPEC["rate"], SPEC["decay"], SPEC["b1"], SPEC["b2"])
STEP_MODEL = torch.compile(MODEL, mode=SPEC["compile_mode"]) if SPEC["compile"] else MODEL
AT = 0


def load(weights: str) -> None:
    """Take the other side's weights."""
    with np.load(weights) as tensors:
        MODEL.load_gpt2({name: torch.tensor(value) for name, value in tensors.items()})


def batches() -> torch.Tensor:
    """Return the tokens of the spec's batches [n, rows, context + 1]."""
    return torch.tensor(np.load(SPEC["batches"]).astype(np.int64))


BATCHES = batches()


def one_step() -> torch.Tensor:
    """Take a step; return its loss, still on the device."""
    global AT
    tokens = BATCHES[AT % len(BATCHES)].to(DEVICE, non_blocking=True)
    AT += 1
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=SPEC["dtype"] == "bfloat16"):
        loss = STEP_MODEL(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(MODEL.parameters(), SPEC["clip"])
    OPTIMIZER.step()
    OPTIMIZER.zero_grad(set_to_none=True)
    return loss.detach()


def steps(count: int) -> dict:
    """Take steps; return their losses and the seconds they took."""
    begun = time.perf_counter()
    losses = [one_step() for _ in range(count)]
    values = [float(loss) for loss in losses]  # waits for the device
    return {"seconds": time.perf_counter() - begun, "losses": values}


def memory() -> float:
    """Return the peak [bytes]: of the device, or of this process."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


serve({"load": load, "steps": steps, "memory": memory})
