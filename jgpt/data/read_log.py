"""What happened while a path was read: records that could not be used, and counts a user should know.

Owns `data.on_bad_record`: 'error' stops at the first bad record with the way out, 'skip' counts and lists them. Refuses
to know any format: the readers say what is wrong and where.
"""

from collections import Counter
from typing import Any, Final

from jgpt.check import require

LISTED: Final = 10  # bad records named in the notes; a run's folder lists all


class BadRecord(ValueError):
    """A record breaks a rule; the message says which and what to write instead, the caller adds file and line."""


class OtherKind(ValueError):
    """What is at a path is for a task of another kind.

    Attributes:
        what: path, what it was recognised as, and the kind of task that is for.
    """

    def __init__(self, path: str, recognised: str, found: str, kind: str) -> None:
        self.what = f"{path!r} is recognised as {recognised}, for a task of kind {found!r}"
        super().__init__(
            f"data.path {self.what}, but the task is of kind {kind!r}: set --data.tasks.NAME.kind {found} (or auto), or pass "
            "another path."
        )


class KnownIds:
    """Ids of the records read so far, over all files of one part, so that a repeated record counts once.

    Files may number their records each from 1, so that an id may stand on other content in another file.
    """

    def __init__(self) -> None:
        self._first: dict[str | int, tuple[str, str, Any]] = {}

    def repeats(self, key: str | int, example: Any, file: str, place: str, log: "ReadLog") -> bool:
        """Return whether a record repeats an earlier one of its id.

        Args:
            key: the id.
            example: what was made of the record.
            file: that it stands in.
            place: in the file, such as "on line 3".
            log: counts what is repeated.

        Raises:
            BadRecord: the same file gives the id to other content.
        """
        if key not in self._first:
            self._first[key] = (file, place, example)
            return False
        first_file, first_place, first = self._first[key]
        if first == example:
            log.count("record(s) left out that repeat another of the same id")
            return True
        if first_file == file:
            raise BadRecord(f"the id {key!r} stands already {first_place} with other content: give it its own")
        log.count("record(s) with an id that another file gives to other content: kept")
        return False


class ReadLog:
    """Collects bad records and counts of one reading.

    Args:
        on_bad_record: 'error' or 'skip', as in `DataConfig`.

    Attributes:
        skipped: every bad record so far: where it stands, and which rule it breaks.
    """

    def __init__(self, on_bad_record: str) -> None:
        self.on_bad_record = on_bad_record
        self.skipped: list[str] = []
        self._counts: Counter[str] = Counter()

    def bad(self, where: str, what: str) -> None:
        """Stop at a bad record, or note it.

        Args:
            where: file and line, such as "qa.jsonl, line 3".
            what: the broken rule and the fix, a sentence without its full stop.

        Raises:
            ValueError: `on_bad_record` is 'error'.
        """
        require(
            self.on_bad_record == "skip",
            f"{where}: {what}. Correct it, or leave out such records, counted and listed, with "
            "--data.on-bad-record skip.",
        )
        self.skipped.append(f"{where}: {what}")

    def count(self, what: str, number: int = 1) -> None:
        """Count something that is no error but worth a note, such as "identical record(s) with an id seen before"."""
        self._counts[what] += number

    def notes(self) -> tuple[str, ...]:
        """Return the notes: counts first, then the number of bad records and the first of them."""
        notes = [f"{number:,} {what}" for what, number in self._counts.items() if number]
        if self.skipped:
            notes.append(f"{len(self.skipped):,} bad record(s) skipped (data.on_bad_record is 'skip')")
            notes += [f"skipped: {entry}" for entry in self.skipped[:LISTED]]
            if len(self.skipped) > LISTED:
                notes.append(f"skipped: and {len(self.skipped) - LISTED:,} more")
        return tuple(notes)
