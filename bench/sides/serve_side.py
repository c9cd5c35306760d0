"""A server to be measured: of a run, or of random weights. Writes what each prompt should get first. See bench/serve.py."""

import json
import sys
from pathlib import Path

from harness import spec

SPEC = spec()
from jgpt.runtime import configure  # noqa: E402

configure()
import jax  # noqa: E402

import jgpt  # noqa: E402
from jgpt import presets  # noqa: E402
from jgpt.config import Config  # noqa: E402
from jgpt.loaded import GPT  # noqa: E402
from jgpt.model import gpt  # noqa: E402
from jgpt.sampling import Sampling  # noqa: E402
from jgpt.serve.app import Limits  # noqa: E402
from jgpt.serve.server import serve  # noqa: E402
from jgpt.tasks.text import TextTask  # noqa: E402
from jgpt.tokenizers.text import CharacterTokenizer  # noqa: E402
from jgpt.tokenizers.vocabulary import Vocabulary  # noqa: E402

CLEAR = 1e-4  # nats by which the most probable id must be ahead of the second; batches of other sizes differ by 5e-6


def random_model() -> GPT:
    """Return a model of GPT-2's layout with random weights; every id but the special ones is a character."""
    first = [chr(code) for code in range(0x20, 0x7F)]
    more = [chr(code) for code in range(0x4E00, 0x4E00 + SPEC["vocab"])][: SPEC["vocab"] - len(first)]
    words = Vocabulary("characters", CharacterTokenizer("".join(first + more)))
    cfg = presets.gpt2(
        num_layers=SPEC["layers"], embed_dim=SPEC["width"], num_heads=SPEC["heads"], context_length=SPEC["context"],
        vocab_multiple=1,
    )  # fmt: skip
    cfg = gpt.resolve(cfg, vocab_size=words.size, backend=jax.default_backend())
    params = jax.jit(lambda key: gpt.init(cfg, key))(jax.random.key(0))

    def wider(path: tuple, leaf: jax.Array) -> jax.Array:  # or it would repeat the last token of every prompt
        return 3 * leaf if path[-1].key == "kernel" else leaf

    params = jax.tree_util.tree_map_with_path(wider, params)
    return GPT(params, Config(), cfg, words, {"text": TextTask(words)}, 0)


def clear_texts(model: GPT) -> tuple[dict[int, dict[str, str]], float]:
    """Return the greedy texts by length and prompt, and how far their ids were ahead at least [nats].

    Rows in another number are summed in another order. Of all prompts those are kept whose every id is the furthest ahead of
    the next, so that no rounding can swap the two.

    Raises:
        SystemExit: the ids of too few prompts are clear.
    """
    name, greedy = model.task_of_kind("text"), Sampling(temperature=0.0)
    made = {
        new: model.complete(name, SPEC["prompts"], sampling=greedy, max_new_tokens=new, top=2) for new in SPEC["new"]
    }
    tops = made[max(SPEC["new"])].samples.top
    margins = [float((logprobs[:, 0] - logprobs[:, 1]).min()) for _, logprobs in tops]
    best = sorted(range(len(margins)), key=lambda i: -margins[i])[: SPEC["slots"]]
    least = margins[best[-1]]
    if least < CLEAR:
        raise SystemExit(f"the ids of prompt {best[-1]} are only {least:.1e} nats ahead: give more prompts.")
    return {new: {SPEC["prompts"][i]: of.values[i] for i in best} for new, of in made.items()}, least


def main() -> None:
    """Write the expected texts, then serve until a signal comes."""
    model = jgpt.load(SPEC["run"]) if SPEC["run"] else random_model()
    expected = Path(SPEC["expected"])
    if not expected.exists():
        found, margin = clear_texts(model)
        kinds = [task.kind for task in model.tasks.values()]
        device = jax.devices()[0]
        about = {"margin": margin, "kinds": kinds, "context": model.model.context_length, "platform": device.platform,
                 "device": device.device_kind}  # fmt: skip
        captions = [task.captions[0] for task in model.tasks.values() if task.kind == "image"]
        expected.write_text(json.dumps({"texts": found, "about": about, "captions": captions}))
    serve(model, "bench", step=model.step, port=SPEC["port"], slots=SPEC["slots"], limits=Limits(seconds=300.0))


if __name__ == "__main__":
    main()
    sys.exit(0)
