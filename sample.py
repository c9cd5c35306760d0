"""Sample a run: `python sample.py RUN --text "..."`, `--question "..."` or `--image CAPTION`; see `--help`."""

import argparse
from typing import TYPE_CHECKING

from jgpt.check import require
from jgpt.entry import user_errors
from jgpt.runtime import configure

if TYPE_CHECKING:
    from jgpt.sampling import Sampling


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    out = argparse.ArgumentParser("sample.py", description="Sample a run that train.py made.")
    out.add_argument("run", help="folder of the run, e.g. runs/trio")
    what = out.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="write on from this text")
    what.add_argument("--question", help="answer this question")
    what.add_argument("--image", help="draw a picture of this caption (trio: a digit)")
    out.add_argument("-n", type=int, default=1, help="samples to make (default %(default)s)")
    out.add_argument(
        "--temperature", type=float, help="0 = most probable token (default: text 0.8, answer 0, picture 1)"
    )
    out.add_argument("--top-k", type=int, help="draw from this many most probable tokens")
    out.add_argument("--top-p", type=float, help="draw from the most probable tokens that hold this probability")
    out.add_argument("--min-p", type=float, help="drop tokens below this share of the most probable one")
    out.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: repeat less (default %(default)s)")
    out.add_argument("--seed", type=int, default=0, help="the same seed gives the same samples (default %(default)s)")
    out.add_argument("--max-new-tokens", type=int, help="longest text or answer [tokens]")
    out.add_argument("--out", default="samples.png", help="PNG for pictures (default %(default)s)")
    out.add_argument("--step", type=int, help="checkpoint to load (default: the newest)")
    return out


def main() -> None:
    """Parse the command line before jax is loaded, then sample and print."""
    arguments = parser().parse_args()
    with user_errors():
        require(arguments.n >= 1, f"-n is {arguments.n}: must be at least 1.")
        kind, request = next(
            (kind, value)
            for kind, value in (("text", arguments.text), ("qa", arguments.question), ("image", arguments.image))
            if value is not None
        )
        require(
            kind != "image" or arguments.max_new_tokens is None,
            "--max-new-tokens does not apply to --image: a picture always has all its pixels; leave it out.",
        )
        require(
            kind != "image" or arguments.out.lower().endswith(".png"),
            f"--out {arguments.out!r}: use a name that ends in .png.",
        )
        from jgpt.sampling import Sampling

        default = {"text": 0.8, "qa": 0.0 if arguments.n == 1 else 0.8, "image": 1.0}[kind]
        sampling = Sampling(
            temperature=default if arguments.temperature is None else arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            min_p=arguments.min_p,
            repetition_penalty=arguments.repetition_penalty,
        )
        configure()
        sample(arguments, kind, request, sampling)


def sample(arguments: argparse.Namespace, kind: str, request: str, sampling: "Sampling") -> None:
    """Load the run, sample it, and print or save the results."""
    from pathlib import Path

    import jgpt

    model = jgpt.load(arguments.run, step=arguments.step)
    values = model.complete(
        model.task_of_kind(kind),
        [request] * arguments.n,
        sampling=sampling,
        seed=arguments.seed,
        max_new_tokens=arguments.max_new_tokens,
    ).values
    if kind == "image":
        from jgpt.pictures import save_grid

        columns = min(len(values), 8)
        blank = values[0] * 0
        filled = [*values, *[blank] * (-len(values) % columns)]
        rows = [filled[i : i + columns] for i in range(0, len(filled), columns)]
        print(f"{len(values)} pictures of {request!r}: {save_grid(Path(arguments.out), rows)}")
        return
    for index, value in enumerate(values):
        if kind == "text" and len(values) > 1:
            print(f"--- {index + 1} of {len(values)}")
        print(request + value if kind == "text" else value)


if __name__ == "__main__":
    main()
