"""Speculative decoding against plain decoding of the same run: greedy, same prompts, same ids, in alternation.

    python bench/speculative.py --run runs/trio --lookup 3
    python bench/speculative.py --run runs/large --draft runs/small --ahead 4 --rows 1 8

Both sides are the same program in one process, so that nothing but the proposals differs. How much they help depends on the
text: the share that was accepted and the tokens a pass stand beside the times.
"""

import time
from collections.abc import Sequence
from typing import Any

from harness import alternate, arguments, paired_ratio, publish, say, summary

from jgpt.runtime import configure

configure()
import jax  # noqa: E402
import numpy as np  # noqa: E402

import jgpt  # noqa: E402
from jgpt.decoder import decoder_for  # noqa: E402
from jgpt.loaded import GPT  # noqa: E402
from jgpt.sampler import Samples, sample  # noqa: E402
from jgpt.sampling import Sampling  # noqa: E402
from jgpt.speculative import AHEAD, Speculation  # noqa: E402


def parts(gpt: GPT) -> tuple[Any, Any]:
    """Return the decoder of a run, and its parameters in the form that decoding reads."""
    decoder = decoder_for(gpt.model, gpt.tokenizer.size)
    return decoder, jax.block_until_ready(gpt.prepared)


def prompts_of(gpt: GPT, text: str, rows: int, length: int) -> list[np.ndarray]:
    """Return stretches of the text, evenly spaced.

    Raises:
        SystemExit: the text is too short.
    """
    ids = gpt.tokenizer.encode_text(text)
    if len(ids) < length + rows:
        raise SystemExit(f"the text has {len(ids)} tokens: give one of at least {length + rows} with --text")
    return [ids[start : start + length] for start in np.linspace(0, len(ids) - length, rows).astype(int)]


def main() -> None:
    """Measure each number of rows and write the table."""
    options = arguments(
        __doc__ or "",
        run={"required": True, "help": "folder of a run"},
        draft={"help": "folder of a smaller run of the same vocabulary"},
        lookup={"type": int, "default": 3, "help": "tokens to look up, where there is no draft"},
        ahead={"type": int, "default": AHEAD},
        rows={"nargs": "+", "type": int, "default": [1, 8]},
        prompt={"type": int, "default": 64, "help": "tokens of each prompt"},
        new={"type": int, "default": 64, "help": "tokens to write"},
        text={"default": "README.md", "help": "file that the prompts are cut from"},
    )
    gpt = jgpt.load(options.run)
    decoder, params = parts(gpt)
    if options.draft is None:
        given = Speculation(options.ahead, lookup=options.lookup)
    else:
        draft, draft_params = parts(jgpt.load(options.draft))
        given = Speculation(options.ahead, draft=draft, draft_params=draft_params)
    with open(options.text, encoding="utf-8") as file:
        text = file.read()
    who = f"look-up of {options.lookup}" if options.draft is None else f"draft {options.draft}"
    results: dict[str, Any] = {}
    table: list[Sequence[str]] = [("rows", "tokens/s plainly", "with proposals", "ratio", "accepted", "tokens a pass")]
    for rows in options.rows:
        prompts = prompts_of(gpt, text, rows, options.prompt)

        def draw(speculation: Speculation | None, prompts: list[np.ndarray] = prompts) -> tuple[float, Samples]:
            begun = time.perf_counter()
            out = sample(
                decoder,
                params,
                prompts,
                max_new_tokens=options.new,
                sampling=Sampling(temperature=0.0),
                speculation=speculation,
            )
            return time.perf_counter() - begun, out

        plain, guessed = draw(None)[1], draw(given)[1]  # compiles
        same = not any((a != b).any() for a, b in zip(plain.tokens, guessed.tokens, strict=True))
        if not same:
            say(f"{rows} rows: ids differ, as they may where two tie within rounding")
        measured = alternate({"plain": lambda draw=draw: draw(None)[0], "proposals": lambda draw=draw: draw(given)[0]},
                             options.rounds)  # fmt: skip
        tokens = sum(map(len, plain.tokens))
        passes = sum(row.count for row in guessed.passes)
        result = {
            "tokens_per_second": {side: tokens / summary(values)["median"] for side, values in measured.items()},
            "speedup": paired_ratio(measured["plain"], measured["proposals"]),
            "same_ids": same,
            "accepted_share": guessed.accepted_share(),
            "tokens_a_pass": (tokens - rows) / max(1, passes),  # the first of each row comes from the prefill
        }
        results[str(rows)] = result
        table.append(
            (
                str(rows),
                f"{result['tokens_per_second']['plain']:.1f}",
                f"{result['tokens_per_second']['proposals']:.1f}",
                "{median:.2f} ({low:.2f} to {high:.2f})".format(**result["speedup"]),
                f"{result['accepted_share']:.0%}",
                f"{result['tokens_a_pass']:.2f}",
            )
        )
    device = jax.devices()[0]
    headline = {f"{rows} rows speedup": result["speedup"]["median"] for rows, result in results.items()}
    about = {"who": who, "run": options.run, "ahead": options.ahead, "prompt": options.prompt, "new": options.new}
    publish(
        "speculative",
        {"headline": headline, "proposals": about, "rows": results},
        table,
        None if device.platform == "cpu" else device.device_kind,
    )


if __name__ == "__main__":
    main()
