"""Worker: prefill and greedy decoding by transformers' GPT-2. See bench/decode.py."""

import os
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
from harness import serve, spec

SPEC = spec()
if SPEC["allocator"] == "mallopt":
    from jgpt.runtime import configure

    configure()

import torch  # noqa: E402
import transformers  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() and SPEC["device"] == "gpu" else "cpu"
DTYPE = torch.float32 if SPEC["dtype"] == "float32" else torch.bfloat16
CONFIG = transformers.GPT2Config(
    n_layer=SPEC["layers"], n_embd=SPEC["width"], n_head=SPEC["heads"], n_positions=SPEC["context"],
    vocab_size=SPEC["vocab"], attn_implementation="sdpa", bos_token_id=None, eos_token_id=None,
)  # fmt: skip
MODEL = transformers.GPT2LMHeadModel(CONFIG).eval().to(DEVICE, DTYPE)
PROMPTS = torch.tensor(np.load(SPEC["prompts"]).astype(np.int64), device=DEVICE)
CACHE = {"cache_implementation": "static"} if SPEC["static"] else {}


def load(weights: str) -> None:
    """Take the other side's weights."""
    with np.load(weights) as tensors, torch.no_grad():
        for name, parameter in MODEL.named_parameters():
            parameter.copy_(torch.tensor(tensors[name]))


def generate(rows: int, new: int) -> dict:
    """Return the ids that were decoded and the seconds it took."""
    ids = PROMPTS[:rows]
    begun = time.perf_counter()
    with torch.inference_mode():
        out = MODEL.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, min_new_tokens=new,
            pad_token_id=0, **CACHE,
        )  # fmt: skip
    tokens = out[:, ids.shape[1] :].tolist()
    return {"seconds": time.perf_counter() - begun, "ids": tokens}


serve({"load": load, "generate": generate})
