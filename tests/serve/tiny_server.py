"""A random model with a task of each kind, and a server for it: `python tests/serve/tiny_server.py PORT`."""

import sys
from typing import Any


def tiny_gpt() -> Any:
    """Return a random model, so wide that greedy choices are clear; it writes, answers, chats and draws 4 x 4 pixels."""
    import jax

    from jgpt.config import Config, ModelConfig
    from jgpt.loaded import GPT
    from jgpt.model import gpt
    from jgpt.tasks.chat import ChatTask
    from jgpt.tasks.image import ImageTask
    from jgpt.tasks.mixture import picture_grids
    from jgpt.tasks.qa import QATask
    from jgpt.tasks.text import TextTask
    from jgpt.tokenizers.image_palette import Palette
    from jgpt.tokenizers.text import CharacterTokenizer
    from jgpt.tokenizers.vocabulary import Vocabulary

    words = Vocabulary("characters", CharacterTokenizer(" !?abcdefghijklmnopqrstuvwxyzé"), Palette.grey(4))
    tasks = {
        "prose": TextTask(words),
        "quiz": QATask(words, max_new_tokens=12),
        "talk": ChatTask(words, max_new_tokens=12, system_seen=True),
        "digits": ImageTask(words, (4, 4), ("seven", "two")),
    }
    cfg = gpt.resolve(
        ModelConfig(num_layers=1, embed_dim=32, num_heads=2, context_length=64, init="gpt2", vocab_multiple=8),
        vocab_size=words.size,
        backend="cpu",
        pictures=picture_grids(words, tasks),
    )
    params = jax.jit(gpt.init, static_argnums=0)(cfg, jax.random.key(3))
    return GPT(jax.tree.map(lambda leaf: 20 * leaf, params), Config(), cfg, words, tasks, 7)


def main() -> None:
    """Serve the model until a signal comes."""
    from jgpt.runtime import configure

    configure()
    from jgpt.serve.server import serve

    serve(tiny_gpt(), "tiny", step=7, port=int(sys.argv[1]), slots=1, grace=float(sys.argv[2]))


if __name__ == "__main__":
    main()
