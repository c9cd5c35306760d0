"""Plain text and ids that were encoded elsewhere: what is read where no records are recognised.

Owns texts as documents and token files as streams, with their splits. Refuses to guess an encoding: bytes that do not
decode are an error that names the first of them.
"""

from collections.abc import Sequence
from pathlib import Path

from jgpt.check import require
from jgpt.data.decoding import decode_text
from jgpt.data.examples import Splits, TokenStream, placed
from jgpt.data.holdout import tail_start
from jgpt.data.inputs import InputFile, files_below, is_never_data
from jgpt.data.read_log import ReadLog
from jgpt.data.token_files import TOKEN_SUFFIXES, map_tokens, token_pair


def read_tokens(where: Path, fraction: float | None) -> Splits | None:
    """Read ids: a `.npy` or `.bin` file, or a folder of one or of a pair train and val; None where there are none.

    Args:
        where: the file or folder.
        fraction: share to hold out at the tail of a single file; None = everything is held out.

    Raises:
        ValueError: a file holds no ids, or ids lie among other files.
    """
    pair = token_pair(where) if where.is_dir() else None
    if pair is not None:
        train, held = (TokenStream(map_tokens(file), file=file) for file in pair)
        words = f"ids, {len(train.ids):,} to train on and {len(held.ids):,} held out, in 2 files"
        if fraction is None:
            return Splits([], [train, held], kind="text", recognised=words)
        return Splits([train], [held], kind="text", recognised=words)
    found = [where] if where.is_file() else [file for file in files_below(where) if file.stat().st_size]
    files = [file for file in found if where.is_file() or not is_never_data(file.name)]
    tokens = [file for file in files if file.suffix in TOKEN_SUFFIXES]
    if not tokens:
        return None
    file = tokens[0]
    require(
        len(files) == 1,
        f"the folder {str(where)!r} holds {len(files)} files, with ids in {file.name!r} among them: pass that file "
        f"itself, or name two files of ids train{file.suffix} and val{file.suffix}.",
    )
    ids = map_tokens(file)
    words = f"ids, {len(ids):,} in 1 file"
    if fraction is None:
        return Splits([], [TokenStream(ids, file=file)], kind="text", recognised=words)
    require(len(ids) >= 2, f"{str(file)!r} holds {len(ids)} id: at least two are needed to split; add text.")
    cut = tail_start(len(ids), fraction)
    train, held = TokenStream(ids[:cut], file=file), TokenStream(ids[cut:], file=file, first=cut)
    return Splits([train], [held], kind="text", recognised=words, own_share=True)


def read_texts(files: Sequence[InputFile], encoding: str, log: ReadLog) -> list[str]:
    """Return one document a file.

    Raises:
        ValueError: a file is empty, binary, in another encoding or of a single character; among several files the log
            decides, since a folder goes on without one.
    """
    documents: list[str] = []
    for file in files:
        try:
            text = decode_text(file.load(), file.where, encoding)
        except ValueError as error:
            if len(files) == 1:
                raise
            log.bad(file.where, f"{str(error).removeprefix(repr(file.where)).strip().rstrip('.')}")
            continue
        require(
            len(files) > 1 or len(text) >= 2,
            f"{file.where!r} holds {len(text)} character: at least two are needed to split; add text.",
        )
        if text.strip():
            documents.append(placed(text, file.where) if len(files) > 1 else text)
            continue
        require(len(files) > 1, f"{file.where!r} holds white space alone: put text into it.")
        log.count("file(s) of white space alone left out")
    return documents
