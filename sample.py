"""Sample a run: `python sample.py RUN --text "..."`, `--question`, `--chat`, `--image` or `--score`; see `--help`."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from jgpt.check import counted, require, same_file
from jgpt.compiled import Programs
from jgpt.entry import user_errors
from jgpt.runtime import configure
from jgpt.sampling import GUIDANCE_SCHEDULES

if TYPE_CHECKING:
    import numpy as np

    from jgpt.loaded import GPT
    from jgpt.sampling import Sampling


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    out = argparse.ArgumentParser("sample.py", description="Sample a run that train.py made.")
    out.add_argument("run", help="folder of the run, e.g. runs/trio")
    what = out.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="write on from this text")
    what.add_argument("--question", help="answer this question")
    what.add_argument("--chat", action="append", help="say this to the assistant; repeat it for the turns that follow")
    what.add_argument("--interactive", action="store_true", help="talk with the assistant in the terminal")
    what.add_argument("--image", help="draw a picture of this caption (trio: a digit); '' draws without one")
    what.add_argument("--score", help="say how probable this text is, or the text of this file")
    where = out.add_mutually_exclusive_group()
    where.add_argument("--context", help="what the answer to --question is to be found in")
    where.add_argument("--context-file", help="file with that context")
    out.add_argument("--choices", nargs="+", help="answers to --question that are compared by their likelihoods")
    out.add_argument("--system", help="what the system says before --chat")
    out.add_argument("--complete", metavar="PNG", help="picture whose top rows are kept; --image draws the rest")
    out.add_argument(
        "--keep-rows", type=int, help="rows of --complete to keep (default: all, or half of a whole picture)"
    )
    out.add_argument("--guidance", type=float, default=1.0, help="above 1: pictures follow their caption more closely")
    out.add_argument(
        "--guidance-schedule",
        choices=GUIDANCE_SCHEDULES,
        default="constant",
        help="how guidance runs over a picture: constant, or rising from 1 (default %(default)s)",
    )
    out.add_argument("-n", type=int, default=1, help="samples to make (default %(default)s)")
    out.add_argument(
        "--temperature", type=float, help="0 = most probable token (default: text 0.8, answer 0, picture 1)"
    )
    out.add_argument("--top-k", type=int, help="draw from this many most probable tokens")
    out.add_argument("--top-p", type=float, help="draw from the most probable tokens that hold this probability")
    out.add_argument("--min-p", type=float, help="drop tokens below this share of the most probable one")
    out.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: repeat less (default %(default)s)")
    out.add_argument(
        "--presence-penalty", type=float, default=0.0, help="above 0: prefer what is not yet in the output"
    )
    out.add_argument("--frequency-penalty", type=float, default=0.0, help="above 0: the more often, the less likely")
    out.add_argument(
        "--typical-p", type=float, help="draw from the tokens of most typical surprise that hold this probability"
    )
    out.add_argument("--min-new-tokens", type=int, default=0, help="no end before this many tokens")
    out.add_argument("--stop", action="append", default=[], help="end the text before this string; may be repeated")
    form = out.add_mutually_exclusive_group()
    form.add_argument("--pattern", metavar="REGEX", help="the text matches this regular expression, from end to end")
    form.add_argument("--schema", metavar="FILE", help="the text is JSON that the JSON schema in this file accepts")
    proposer = out.add_mutually_exclusive_group()
    proposer.add_argument(
        "--draft", metavar="RUN", help="smaller run of the same vocabulary that proposes tokens: faster"
    )
    proposer.add_argument("--lookup", type=int, metavar="N", help="propose what followed the last N tokens before")
    out.add_argument("--ahead", type=int, help="tokens proposed at once (default: 4)")
    out.add_argument("--beams", type=int, help="find the most probable texts with this many beams, instead of drawing")
    out.add_argument("--length-penalty", type=float, help="above 0: --beams favours longer texts (0.6 to 1 is usual)")
    out.add_argument("--seed", type=int, default=0, help="the same seed gives the same samples (default %(default)s)")
    out.add_argument("--max-new-tokens", type=int, help="longest text or answer [tokens]")
    out.add_argument("--out", default="samples.png", help="PNG for pictures (default %(default)s)")
    out.add_argument("--step", type=int, help="checkpoint to load (default: the newest)")
    out.add_argument("--weights", choices=("int8",), help="load the weights in a quarter of the bytes")
    out.add_argument("--cache", choices=("int8",), help="keep keys and values in a quarter of the bytes")
    out.set_defaults(loaded_draft=None, read_schema=None)  # what --draft and --schema name, once they are read
    return out


def main() -> None:
    """Parse the command line before jax is loaded, then sample and print."""
    arguments = parser().parse_args()
    with user_errors():
        require(arguments.n >= 1, f"-n is {arguments.n}: must be at least 1.")
        kinds = {"text": "text", "qa": "question", "chat": "chat", "image": "image", "score": "score"}
        asked = (kind for kind, flag in kinds.items() if getattr(arguments, flag) is not None)
        kind = "interactive" if arguments.interactive else next(asked)
        check_flags(arguments, kind)
        from jgpt.sampling import Sampling

        default = {"text": 0.8, "image": 1.0}.get(kind, 0.0 if arguments.n == 1 else 0.8)
        default = default if arguments.beams is None else 0.0  # nothing is drawn
        sampling = Sampling(
            guidance=arguments.guidance,
            guidance_schedule=arguments.guidance_schedule,
            temperature=default if arguments.temperature is None else arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            min_p=arguments.min_p,
            repetition_penalty=arguments.repetition_penalty,
            presence_penalty=arguments.presence_penalty,
            frequency_penalty=arguments.frequency_penalty,
            typical_p=arguments.typical_p,
            min_new_tokens=arguments.min_new_tokens,
        )
        arguments.read_schema = None if arguments.schema is None else read_schema(arguments.schema)
        configure()
        import jgpt

        how = {name: getattr(arguments, name) for name in ("step", "weights", "cache")}
        model = jgpt.load(arguments.run, **how)
        arguments.loaded_draft = None if arguments.draft is None else jgpt.load(arguments.draft)
        calls = {"text": write, "qa": answer, "chat": chat, "interactive": talk, "image": draw, "score": score}
        with Programs() as programs:
            calls[kind](model, arguments, sampling)
        print(programs, file=sys.stderr)


def check_flags(arguments: argparse.Namespace, kind: str) -> None:
    """Refuse flags that would do nothing for this kind of request. Raises ValueError with the first of them."""
    filters = ("temperature", "top_k", "top_p", "min_p", "typical_p")
    penalties = ("repetition_penalty", "presence_penalty", "frequency_penalty")
    lengths = ("min_new_tokens", "max_new_tokens", "stop", "pattern", "schema")
    proposing = ("draft", "lookup", "ahead", "beams", "length_penalty")
    drawing = ("n", *filters, *penalties, *lengths, *proposing, "seed")
    only = {"context": "qa", "context_file": "qa", "choices": "qa", "out": "image"}
    if kind != "interactive":
        only["system"] = "chat"
    only |= dict.fromkeys(("complete", "keep_rows", "guidance", "guidance_schedule"), "image")
    idle = [name for name, owner in only.items() if kind != owner]
    if kind == "score" or arguments.choices is not None:
        idle += (*drawing, "cache")
    elif kind == "image":
        idle += lengths + proposing
    elif kind == "interactive":
        idle += ["n", "beams", "length_penalty"]
    what = (
        "--choices" if arguments.choices is not None and kind == "qa" else f"--{'question' if kind == 'qa' else kind}"
    )
    default = parser().get_default
    for name in idle:
        flag = "-n" if name == "n" else f"--{name.replace('_', '-')}"
        require(getattr(arguments, name) == default(name), f"{flag} does not apply to {what}: leave it out.")
    require(
        arguments.length_penalty is None or arguments.beams is not None,
        f"--length-penalty {arguments.length_penalty} does not apply without --beams: leave it out.",
    )
    turns = len(arguments.chat or [])
    require(
        turns <= 1 or arguments.n == 1,
        f"-n is {arguments.n} and --chat has {turns} turns: several answers are given to one turn alone.",
    )
    require(
        arguments.keep_rows is None or arguments.complete is not None,
        f"--keep-rows {arguments.keep_rows} does not apply without --complete: leave it out.",
    )
    require(
        kind != "image" or arguments.out.lower().endswith(".png"),
        f"--out {arguments.out!r}: use a name that ends in .png.",
    )
    require(
        arguments.complete is None or not same_file(arguments.out, arguments.complete),
        f"--out {arguments.out!r} is the picture to go on from, which would be lost: use another name.",
    )


def options(arguments: argparse.Namespace, sampling: "Sampling") -> dict[str, Any]:
    """Return what `GPT.complete` and `GPT.reply` take besides the requests."""
    names = ("seed", "max_new_tokens", "stop", "pattern", "lookup", "ahead")
    read = {"schema": arguments.read_schema, "draft": arguments.loaded_draft}
    return {"sampling": sampling} | read | {name: getattr(arguments, name) for name in names}


def searching(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what `GPT.complete` and `GPT.reply` take for beam search, which does not stream."""
    return {name: getattr(arguments, name) for name in ("beams", "length_penalty")}


def write(model: "GPT", arguments: argparse.Namespace, sampling: "Sampling") -> None:
    """Print continuations of a text; a single one appears as it is made."""
    if arguments.n == 1 and arguments.beams is None:
        show(model, arguments.text, "text", arguments, sampling, before=arguments.text)
        return
    texts = model.generate(arguments.text, arguments.n, **options(arguments, sampling), **searching(arguments))
    for index, text in enumerate(texts):
        if len(texts) > 1:
            print(f"--- {index + 1} of {len(texts)}")
        print(arguments.text + text)


def show(
    model: "GPT", request: Any, kind: str, arguments: argparse.Namespace, sampling: "Sampling", before: str = ""
) -> str:
    """Print a text as it is made, behind `before` once the request is known to be sound, and return it."""
    made = ""
    for piece in model.stream(request, kind, **options(arguments, sampling)):
        print(piece if made else before + piece, end="", flush=True)
        made += piece
    print("" if made else before)
    return made


def talk(model: "GPT", arguments: argparse.Namespace, sampling: "Sampling") -> None:
    """Answer what is typed, turn by turn, until the end of the input; the oldest turns go where the context is full."""
    task: Any = model.tasks[model.task_of_kind("chat")]
    first = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    turns: list[dict[str, str]] = []
    if sys.stdin.isatty():
        print("Say something; an empty line or Ctrl-D ends the conversation.")
    while True:
        try:
            said = input("user: " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not said:
            return
        turns.append({"role": "user", "content": said})
        dropped = 0
        while (
            len(turns) > 1
            and len(task.prompt([*first, *turns]).tokens) + task.max_new_tokens > model.model.context_length
        ):
            turns, dropped = turns[2:], dropped + 1
        if dropped:
            print(f"(the context is full: {dropped} of the oldest exchanges are no longer seen)")
        print("assistant: ", end="", flush=True)
        reply = show(model, [*first, *turns], "chat", arguments, sampling).strip()
        turns = [*turns, {"role": "assistant", "content": reply}] if reply else turns[:-1]


def answer(model: "GPT", arguments: argparse.Namespace, sampling: "Sampling") -> None:
    """Print answers to a question, a single one as it is made; choices each with its likelihood, the most probable last."""
    from jgpt.data.examples import QuestionAnswer

    context = arguments.context or ""
    if arguments.context_file is not None:
        context = read_text(arguments.context_file, model.config.data.encoding)
    if arguments.choices is not None:
        found = model.choose(arguments.question, arguments.choices, context)
        for choice, nats, size in zip(arguments.choices, found.nats, found.num_bytes, strict=True):
            print(f"{-nats:10.3f} nats  {-nats / size:8.3f} a byte  {choice}")
        print(arguments.choices[found.summed])
        return
    task: Any = model.tasks[model.task_of_kind("qa")]
    if task.step is not None and arguments.n == 1:  # steps go beside the answer, which scripts read
        steps, text = model.reason(arguments.question, context, **options(arguments, sampling), **searching(arguments))
        print(*(f"- {step}" for step in steps), sep="\n", file=sys.stderr)
        print(text)
        return
    request = QuestionAnswer(arguments.question, "", context=context)
    if arguments.n == 1 and arguments.beams is None:
        show(model, request, "qa", arguments, sampling)
        return
    asked = options(arguments, sampling) | searching(arguments)
    for text in model.reply(model.task_of_kind("qa"), [request] * arguments.n, **asked):
        print(text)


def chat(model: "GPT", arguments: argparse.Namespace, sampling: "Sampling") -> None:
    """Print what the assistant says to each turn of the user in turn; a single reply appears as it is made."""
    name = model.task_of_kind("chat")
    turns = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    several = len(arguments.chat) > 1
    for said in arguments.chat:
        turns.append({"role": "user", "content": said})
        if several:
            print(f"user: {said}\nassistant: ", end="", flush=True)
        if arguments.n == 1 and arguments.beams is None:
            reply = show(model, turns, "chat", arguments, sampling)
        else:
            asked = options(arguments, sampling) | searching(arguments)
            reply, *others = model.reply(name, [turns] * arguments.n, **asked)
            print(reply, *others, sep="\n")
        if reply.strip():
            turns.append({"role": "assistant", "content": reply})


def draw(model: "GPT", arguments: argparse.Namespace, sampling: "Sampling") -> None:
    """Save a grid of pictures of a caption; with --complete, the given rows stand first, the rest of them black."""
    import numpy as np

    from jgpt.pictures import Pictures

    what = f"{arguments.image!r}" if arguments.image else "nothing in particular"
    given = None if arguments.complete is None else read_rows(model, arguments)
    drawn = model.draw(arguments.image, arguments.n, sampling=sampling, seed=arguments.seed, complete=given)
    shown = drawn
    if given is not None:
        top = np.zeros_like(drawn.array[:1])
        top[0, : len(given)] = given
        shown = Pictures(np.concatenate([top, drawn.array]))
        what = f"{what}, from the top {len(given)} of {top.shape[1]} rows of {arguments.complete}"
    print(f"{counted(len(drawn), 'picture')} of {what}: {shown.save(arguments.out)}")


def read_rows(model: "GPT", arguments: argparse.Namespace) -> "np.ndarray":
    """Return the rows of --complete that are kept, in the form of the run's pictures."""
    from pathlib import Path

    from jgpt.data.picture_decode import PictureRules
    from jgpt.data.picture_rows import read, top_rows

    task: Any = model.tasks[model.task_of_kind("image")]
    path = Path(arguments.complete)
    if not path.is_file():
        raise FileNotFoundError(f"--complete {arguments.complete!r} is not a file: name the picture to go on from.")
    pixels = read(path.read_bytes(), arguments.complete, task.shape, PictureRules.of(model.config.data))
    return top_rows(pixels, task.shape[0], arguments.keep_rows)


def score(model: "GPT", arguments: argparse.Namespace, sampling: "Sampling") -> None:
    """Print how probable a text is, and where it surprised most."""
    del sampling
    import os

    text, what = arguments.score, "the text given"
    if os.path.isfile(text):
        text, what = read_text(text, model.config.data.encoding), f"the text of {text}"
    found = model.score(text)
    print(
        f"{what}: {found.nats:.3f} nats, {found.tokens:,} tokens, {found.bytes:,} bytes: "
        f"{found.bits_per_byte:.4f} bits per byte, perplexity {found.perplexity:.3f}"
    )
    worst = sorted(range(found.tokens), key=lambda i: -found.per_token[i][1])[:5]
    for i in worst:
        before = "".join(token for token, _ in found.per_token[max(0, i - 30) : i])
        print(f"{found.per_token[i][1]:8.3f} nats  {found.per_token[i][0]!r} after {before!r}")


def read_schema(path: str) -> Any:
    """Return the JSON schema of a file. Raises ValueError where it is no JSON object."""
    import json

    try:
        schema = json.loads(read_text(path, "utf-8"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"--schema {path!r} is no JSON: {error}.") from None
    require(isinstance(schema, dict), f"--schema {path!r} holds {schema!r}: a schema is a JSON object.")
    return schema


def read_text(path: str, encoding: str) -> str:
    """Return the text of a file. Raises FileNotFoundError where there is none, ValueError where it is in another encoding."""
    try:
        with open(path, encoding=encoding) as file:
            return file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path!r}: give the path of a text file.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is not {encoding} text at byte {error.start}: save it as {encoding}.") from None


if __name__ == "__main__":
    main()
