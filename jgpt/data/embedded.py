"""English that every Python carries: the reference topics of pydoc and the docstrings of the standard library.

Owns the first run that needs no file and no network. Refuses to import what it reads: modules are parsed, never run.
The text belongs to the Python version (3.11: about 2.0 MB), so scores compare only within one version; licence PSF-2.0.
An example of a document is the docstrings of `heapq.py`, joined by blank lines: "Heap queue algorithm (a.k.a. ...".
"""

import ast
import os
import sysconfig
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from jgpt.data.examples import Splits
from jgpt.data.holdout import hold_out

# Tests, bundled programs and data tables: little prose, or installed from elsewhere.
SKIPPED_FOLDERS: Final = frozenset(
    ("test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data")
    + ("site-packages", "dist-packages", "__pycache__")
)
MIN_CHARACTERS: Final = 200
SHARED_CHARACTERS: Final = 60  # shorter paragraphs, such as "For example:", may stand in many documents
DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def read_english(seed: int, validation_fraction: float) -> Splits:
    """Read the topics (one document each) and the docstrings (one document a module), with a seeded share held out.

    A module stays whole on one side. A docstring that several modules share is kept in the first only, and so is a
    paragraph that several documents share: pydoc's topics hold one another, so that without this a tenth of what is
    held out would have been seen in training. Takes about 2 s.

    Args:
        seed: of the draw of held-out documents.
        validation_fraction: share of the documents to hold out, of topics and modules alike.

    Returns:
        `Splits` of `str`, with the baseline `bits_per_byte_zlib` of the held-out documents.

    Raises:
        FileNotFoundError: this Python has neither topics nor the sources of its standard library.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    kinds = [_distinct(documents, seen) for documents in (_topics(), _modules(library))]
    kinds = [kind for kind in kinds if len(kind) >= 2]
    if not kinds:
        raise FileNotFoundError(
            f"this Python carries no text: neither the module pydoc_data.topics nor docstrings below {library}. "
            "Install the full standard library (Debian: `apt install libpython3-stdlib`), or use --data.path FILE."
        )
    train: list[str] = []
    held: list[str] = []
    for documents in kinds:
        kept, out = hold_out(len(documents), validation_fraction, seed)
        train += [documents[i] for i in kept]
        held += [documents[i] for i in out]
    return Splits(train, held, {"bits_per_byte_zlib": zlib_bits_per_byte(held)})


def zlib_bits_per_byte(documents: list[str]) -> float:
    """Return the bits zlib (level 9) spends on a byte of the UTF-8 documents, joined by newlines."""
    raw = b"\n".join(document.encode() for document in documents)
    return 8 * len(zlib.compress(raw, 9)) / len(raw)


def _topics() -> list[str]:
    """Return the topics of pydoc, the longest first; with a warning none, where a distribution left them out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        warnings.warn("this Python has no pydoc_data.topics: the text is the docstrings alone.", stacklevel=3)
        return []
    texts = sorted({text.strip() for text in topics.values() if _is_clean(text)})
    return sorted(texts, key=len, reverse=True)


def _modules(library: Path) -> Iterator[str]:
    """Yield one document per module of the standard library, in order of path."""
    seen: set[str] = set()
    for path in _sources(library):
        kept = [text for text in _docstrings(path.read_bytes()) if text not in seen and _is_clean(text)]
        kept = list(dict.fromkeys(kept))
        seen.update(kept)
        if kept:
            yield "\n\n".join(kept)


def _distinct(documents: Iterable[str], seen: set[str]) -> list[str]:
    """Return documents without the paragraphs that stood in an earlier one, and without those that get too short.

    Args:
        documents: paragraphs are parted by blank lines.
        seen: the paragraphs so far; grows.
    """
    found: list[str] = []
    for document in documents:
        paragraphs = document.split("\n\n")
        kept = [part for part in paragraphs if len(part) < SHARED_CHARACTERS or part not in seen]
        seen.update(paragraphs)
        text = "\n\n".join(kept).strip()
        if len(text) >= MIN_CHARACTERS and len(text) > len(document) / 2:
            found.append(text)
    return found


def _sources(library: Path) -> list[Path]:
    """Return the Python files below `library` without the skipped folders, in an order no file system changes."""
    found: list[Path] = []
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        found += [Path(folder) / name for name in files if name.endswith(".py")]
    return sorted(found, key=lambda path: path.relative_to(library).parts)


def _docstrings(source: bytes) -> Iterator[str]:
    """Yield the docstrings of a module in order of appearance; none where it does not parse."""
    if b'"""' not in source and b"'''" not in source:  # parsing is the whole cost
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    # Only statements can hold a definition: leaving expressions out halves the time of ast.walk.
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, DOCUMENTED):
            text = ast.get_docstring(node, clean=False)  # as it stands in the source, indentation included
            if text and text.strip():
                yield text.strip()
        for name in ("cases", "finalbody", "orelse", "handlers", "body"):
            below = getattr(node, name, None)
            if isinstance(below, list):
                stack.extend(reversed(below))


def _is_clean(text: str) -> bool:
    """Return whether `text` is free of control characters (but line breaks and tabs) and of surrogates."""
    return text.translate({10: None, 9: None, 160: None}).isprintable()
