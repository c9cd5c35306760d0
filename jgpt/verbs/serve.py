"""`jgpt serve RUN`: the run behind OpenAI's endpoints and one page. Imports no jax before parsing."""

import argparse
import importlib.util
import os
from pathlib import Path
from typing import Final

from jgpt.check import require
from jgpt.runtime import configure

HELP: Final = "answer requests over HTTP, as OpenAI's API does, and show a page to write, ask and draw"
DESCRIPTION: Final = """Serves /v1/models, /v1/completions, /v1/chat/completions, /v1/images/generations, /healthz, /metrics,
and a page at /. Needs the extra [serve]. A token is taken from the environment variable JGPT_TOKEN or from --token-file, never
from the command line, which other users of the machine can read."""
NEEDED: Final = ("starlette", "uvicorn", "pydantic", "prometheus_client")
TOKEN: Final = "JGPT_TOKEN"
SHORTEST_TOKEN: Final = 8  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.description = DESCRIPTION
    parser.add_argument("run", help="folder of the run, e.g. runs/trio")
    parser.add_argument("--step", type=int, help="checkpoint to load (default: the newest)")
    parser.add_argument("--weights", choices=("int8",), help="load the weights so, in a quarter of the bytes")
    parser.add_argument("--cache", choices=("int8",), help="keep keys and values so, in a quarter of the bytes")
    parser.add_argument("--name", help="name of the model for clients (default: the folder's)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s: this machine alone)"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0 = any free one (default %(default)s)"
    )
    parser.add_argument("--slots", type=int, default=16, help="samples decoded at once (default %(default)s)")
    parser.add_argument(
        "--queue", type=int, default=64, help="samples that may wait; more get 429 (default %(default)s)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="for an answer to be complete (default %(default)s)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="to finish what runs on SIGTERM (default %(default)s)",
    )
    parser.add_argument(
        "--max-body", type=int, default=2**20, metavar="BYTES", help="longest body of a request (default %(default)s)"
    )
    parser.add_argument(
        "--max-output", type=int, metavar="TOKENS", help="longest answer that may be asked for (default: the context)"
    )
    parser.add_argument("--token-file", metavar="FILE", help=f"file with the token that clients must show (or {TOKEN})")


def run(arguments: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    require(
        not missing,
        f"jgpt serve needs {', '.join(missing)}: pip install 'jgpt[serve]', here: pip install -e '.[serve]'.",
    )
    token = read_token(arguments.token_file)
    require(
        arguments.max_output is None or arguments.max_output >= 1,
        f"--max-output is {arguments.max_output}: must be at least 1 token.",
    )
    configure()
    import jgpt
    from jgpt.serve.app import Limits
    from jgpt.serve.server import serve

    model = jgpt.load(arguments.run, step=arguments.step, weights=arguments.weights, cache=arguments.cache)
    serve(
        model,
        arguments.name or Path(arguments.run).resolve().name,
        step=model.step,
        host=arguments.host,
        port=arguments.port,
        slots=arguments.slots,
        queue=arguments.queue,
        limits=Limits(body=arguments.max_body, seconds=arguments.timeout, token=token),
        longest_output=arguments.max_output,
        grace=arguments.grace,
    )


def read_token(path: str | None) -> str | None:
    """Return the token from the file or the environment; None where there is neither.

    Raises:
        ValueError: there are both, or it is too short to be a secret.
    """
    named = os.environ.get(TOKEN)
    require(path is None or named is None, f"both --token-file and {TOKEN} give a token: use one of them.")
    token = Path(path).read_text(encoding="utf-8").strip() if path is not None else named
    require(
        token is None or len(token) >= SHORTEST_TOKEN,
        f"the token has {len(token or '')} characters: use at least {SHORTEST_TOKEN}, such as from "
        "`python -c 'import secrets; print(secrets.token_urlsafe())'`.",
    )
    return token
