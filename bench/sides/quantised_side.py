"""Worker: decoding and likelihood with weights and cache in int8 and as they are. See bench/quantized.py."""

import time

import numpy as np
from harness import serve, spec

SPEC = spec()
from jgpt.runtime import configure  # noqa: E402

configure()
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import jgpt  # noqa: E402
from jgpt import presets  # noqa: E402
from jgpt.decoder import decoder_for  # noqa: E402
from jgpt.model import gpt  # noqa: E402
from jgpt.model.cache import init_cache  # noqa: E402
from jgpt.model.matrices import quantise_params  # noqa: E402
from jgpt.sampler import sample  # noqa: E402
from jgpt.sampling import Sampling  # noqa: E402
from jgpt.tasks import mixture  # noqa: E402

SETTINGS = {
    "as trained": (None, None),
    "int8 weights": ("int8", None),
    "int8 cache": (None, "int8"),
    "both in int8": ("int8", "int8"),
}
ROWS = 8  # of a batch whose likelihood is taken


def random_model() -> tuple:
    """Return config and parameters, f32 or bf16 and int8, of the shape that is timed."""
    cfg = presets.gpt2(
        num_layers=SPEC["layers"], embed_dim=SPEC["width"], num_heads=SPEC["heads"], context_length=SPEC["context"],
        vocab_multiple=1,
    )  # fmt: skip
    cfg = gpt.resolve(cfg, vocab_size=SPEC["vocab"], backend=jax.default_backend())
    plain = jax.jit(lambda key: gpt.unstack(gpt.init(cfg, key)))(jax.random.key(0))
    prepare = decoder_for(cfg, SPEC["vocab"]).prepare
    return cfg, {None: prepare(plain), "int8": jax.jit(quantise_params)(plain)}


CFG, PARAMS = random_model()


def generate(setting: str, rows: int, prompt: int, new: int) -> float:
    """Return the seconds that greedy decoding took."""
    weights, cache = SETTINGS[setting]
    decoder = decoder_for(CFG, SPEC["vocab"], cache)
    prompts = np.random.default_rng(0).integers(0, SPEC["vocab"], (rows, prompt))
    begun = time.perf_counter()
    sample(
        decoder,
        PARAMS[weights],
        list(prompts),
        max_new_tokens=new,
        sampling=Sampling(temperature=0.0),
        max_rows=rows,
    )
    return time.perf_counter() - begun


def size(tree: object) -> int:
    """Return bytes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def about() -> dict:
    """Return the device, and the bytes of weights and of a row's cache for each setting."""
    device = jax.devices()[0]

    def cache_bytes(cache: str | None) -> int:
        return size(jax.eval_shape(lambda: init_cache(CFG, 1, CFG.context_length, cache or CFG.compute_dtype).layers))

    sizes = {
        name: {"weight_bytes": size(PARAMS[weights]), "cache_bytes": cache_bytes(cache)}
        for name, (weights, cache) in SETTINGS.items()
    }
    return {"device": device.device_kind, "platform": device.platform, "settings": sizes, "dtype": CFG.compute_dtype}


def losses(run: str, documents: int) -> dict:
    """Return the nats per trained target of held-out documents, by setting and task, through the cache.

    Each document is cut as the context allows and fed at once; in int8 it sees its own keys as they are kept, which is what
    decoding sees.
    """
    out: dict[str, dict[str, float]] = {}
    for name, (weights, cache) in SETTINGS.items():
        model = jgpt.load(run, weights=weights, cache=cache)
        cfg, params = model.model, jax.jit(gpt.unstack)(model.params)

        @jax.jit
        def nats(params, tokens_BM, weights_BM, cfg=cfg, cache=cache):
            B, S = tokens_BM.shape[0], tokens_BM.shape[1] - 1
            empty = init_cache(cfg, B, S, cache or cfg.compute_dtype)
            positions_BS = jnp.broadcast_to(jnp.arange(S)[None, :], (B, S))
            x_BSD, *_ = gpt.features(cfg, params, tokens_BM[:, :-1], positions_BS, cache=empty, fresh=True)
            logits_NV = gpt.logits(cfg, x_BSD.reshape(B * S, -1), gpt.output_matrix(cfg, params))
            target_N1 = tokens_BM[:, 1:].reshape(-1, 1)
            each_N = jax.nn.logsumexp(logits_NV, -1) - jnp.take_along_axis(logits_NV, target_N1, 1)[:, 0]
            return (each_N * weights_BM[:, 1:].reshape(-1)).sum()

        out[name] = {}
        for task, data in mixture.build(model.config).tasks.items():
            pieces = []
            for document in data.validation.documents[:documents]:
                tokens = np.asarray(document.tokens, np.int32) + document.offset
                given = np.ones(len(tokens), np.float32) if document.weights is None else document.weights
                for start in range(0, len(tokens) - 1, cfg.context_length):
                    cut = slice(start, start + cfg.context_length + 1)
                    short = cfg.context_length + 1 - len(tokens[cut])
                    pieces.append((np.pad(tokens[cut], (0, short)), np.pad(given[cut], (0, short))))
            pieces = pieces[: max(ROWS, documents // ROWS * ROWS)]
            pieces += [(pieces[0][0], np.zeros_like(pieces[0][1]))] * (-len(pieces) % ROWS)
            tokens_NM, weights_NM = (np.stack(arrays) for arrays in zip(*pieces, strict=True))
            parts = [slice(i, i + ROWS) for i in range(0, len(pieces), ROWS)]
            total = sum(float(nats(params, tokens_NM[part], weights_NM[part])) for part in parts)
            out[name][task] = total / float(weights_NM[:, 1:].sum())
    return out


serve({"about": about, "generate": generate, "losses": losses})
