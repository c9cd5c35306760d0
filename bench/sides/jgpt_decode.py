"""Worker: prefill and greedy decoding by jgpt's sampler. See bench/decode.py."""

import time

import numpy as np
from harness import serve, spec

SPEC = spec()
from jgpt.runtime import configure  # noqa: E402

configure()
import jax  # noqa: E402

from jgpt import presets  # noqa: E402
from jgpt.decoder import decoder_for  # noqa: E402
from jgpt.interop import to_gpt2  # noqa: E402
from jgpt.model import gpt  # noqa: E402
from jgpt.sampler import sample  # noqa: E402
from jgpt.sampling import Sampling  # noqa: E402

CFG = presets.gpt2(
    num_layers=SPEC["layers"], embed_dim=SPEC["width"], num_heads=SPEC["heads"], context_length=SPEC["context"],
    compute_dtype=SPEC["dtype"], vocab_multiple=1,
)  # fmt: skip
CFG = gpt.resolve(CFG, vocab_size=SPEC["vocab"], backend=jax.default_backend())
PARAMS = jax.jit(lambda key: gpt.init(CFG, key))(jax.random.key(0))
DECODER = decoder_for(CFG)
PREPARED = jax.block_until_ready(DECODER.prepare(PARAMS))
PROMPTS = np.load(SPEC["prompts"])


def save(weights: str) -> None:
    """Write the weights for the other side."""
    np.savez(weights, **to_gpt2(CFG, jax.device_get(PARAMS)))


def generate(rows: int, new: int) -> dict:
    """Return the ids that were decoded and the seconds it took."""
    begun = time.perf_counter()
    out = sample(
        DECODER, PREPARED, list(PROMPTS[:rows]), max_new_tokens=new, sampling=Sampling(temperature=0.0), max_rows=rows
    )
    return {"seconds": time.perf_counter() - begun, "ids": [row.tolist() for row in out.tokens]}


def about() -> dict:
    """Return the device, and the bytes of weights that each decoded token reads."""
    device = jax.devices()[0]
    item = 4 if CFG.compute_dtype == "float32" else 2
    count = sum(leaf.size for leaf in jax.tree.leaves(PARAMS["blocks"])) + PARAMS["embedding"]["tokens"].size
    return {"device": device.device_kind, "platform": device.platform, "weight_bytes": item * count}


serve({"save": save, "generate": generate, "about": about})
