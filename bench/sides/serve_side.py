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
    # wider than for training, so that greedy choices are clear and differ from prompt to prompt
    return GPT(jax.tree.map(lambda leaf: 5 * leaf, params), Config(), cfg, words, {"text": TextTask(words)}, 0)


def main() -> None:
    """Write the expected texts, then serve until a signal comes."""
    model = jgpt.load(SPEC["run"]) if SPEC["run"] else random_model()
    expected = Path(SPEC["expected"])
    if not expected.exists():
        name, greedy, found = model.task_of_kind("text"), Sampling(temperature=0.0), {}
        for new in SPEC["new"]:
            found[new] = model.complete(name, SPEC["prompts"], sampling=greedy, max_new_tokens=new).values
        kinds = [task.kind for task in model.tasks.values()]
        device = jax.devices()[0]
        about = {"kinds": kinds, "context": model.model.context_length, "platform": device.platform,
                 "device": device.device_kind}  # fmt: skip
        captions = [task.captions[0] for task in model.tasks.values() if task.kind == "image"]
        expected.write_text(json.dumps({"texts": found, "about": about, "captions": captions}))
    serve(model, "bench", step=model.step, port=SPEC["port"], slots=SPEC["slots"], limits=Limits(seconds=300.0))


if __name__ == "__main__":
    main()
    sys.exit(0)
