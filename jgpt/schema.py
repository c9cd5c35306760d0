"""JSON schemas as regular expressions, so that what is written is JSON that the schema accepts.

Owns which keywords are understood; every other one that could forbid a text is refused, since ignoring it would let wrong
values through. Objects have their listed properties in the order of the schema and no others; one space may stand behind
a comma or a colon, and no line breaks. Numbers have up to 15 digits.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jgpt.check import require

MAX_PARTS: Final = 5_000  # schemas that one unfolds into: references may double at every step
NOTES: Final = frozenset(("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default",
                          "examples", "deprecated", "readOnly", "writeOnly"))  # fmt: skip
KEYWORDS: Final = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", "minItems", "maxItems")),
    "string": frozenset(("minLength", "maxLength")),
    "integer": frozenset(),
    "number": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}
PYTHON: Final = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
CHARACTER: Final = (
    r'(?:[^"\\\x00-\x1f\x7f]|\\["\\/bfnrt])'  # RFC 8259, section 7; \u stands for what can be written plainly
)
INTEGER: Final = r"-?(?:0|[1-9][0-9]{0,14})"  # more digits are not exact in a double (section 6), and may go on
NUMBER: Final = INTEGER + r"(?:\.[0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?"


def pattern_of(schema: Mapping[str, Any]) -> str:
    """Return a regular expression of JSON texts that `schema` accepts.

    Raises:
        ValueError: the schema is malformed, allows nothing, is recursive, or has a keyword that is not understood.
    """
    try:
        return _Reader(schema).pattern(schema, "#", ())
    except RecursionError:
        raise ValueError("the schema is nested too deeply: write it flatter.") from None


class _Reader:
    """The schema as a whole, to which references point."""

    def __init__(self, root: Any) -> None:
        self.root, self.parts = root, 0

    def pattern(self, schema: Any, where: str, refs: tuple[str, ...]) -> str:
        """Return the pattern of the part at `where`, which was reached through `refs`."""
        self.parts += 1
        require(self.parts <= MAX_PARTS, f"the schema unfolds into more than {MAX_PARTS:,} parts: refer less often.")
        require(
            isinstance(schema, Mapping),
            f"the schema at {where} is {schema!r}: give an object that names a type, such as {{'type': 'string'}}.",
        )
        for name in ("$ref", "const", "enum", "anyOf"):
            if name in schema:
                own = {name, "type"} if name in ("const", "enum") else {name}
                _known(schema, own, where, f"beside {name}")
                return getattr(self, f"_{name.strip('$')}")(schema, where, refs)
        types = schema.get("type")
        names = types if isinstance(types, list) else [types]
        for name in names:
            require(
                isinstance(name, str) and name in KEYWORDS,
                f"the schema at {where} has the type {name!r}: name one of {', '.join(KEYWORDS)}, or a list of them, or "
                "give enum, const, anyOf or $ref.",
            )
        require(bool(names), f"the schema at {where} has an empty list of types: name at least one.")
        _known(schema, {"type"}.union(*(KEYWORDS[name] for name in names)), where, f"for the type {types!r}")
        return _either(getattr(self, f"_{name}")(schema, where, refs) for name in names)

    def _ref(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        name = schema["$ref"]
        require(
            isinstance(name, str) and name.startswith("#/"),
            f"the schema at {where} refers to {name!r}: only parts of the same schema can be, such as '#/$defs/name'.",
        )
        require(
            name not in refs,
            f"the schema is recursive at {where}: {name} contains itself, which no automaton of finite size can follow; "
            "write out as many levels as needed.",
        )
        part = self.root
        for key in name[2:].split("/"):
            key = key.replace("~1", "/").replace("~0", "~")
            require(
                isinstance(part, Mapping) and key in part, f"the schema at {where} refers to {name}: there is none."
            )
            part = part[key]
        return self.pattern(part, name, (*refs, name))

    def _const(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        return self._enum({"enum": [schema["const"]], **{k: v for k, v in schema.items() if k == "type"}}, where, refs)

    def _enum(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        values, types = schema["enum"], schema.get("type")
        require(
            isinstance(values, list) and bool(values), f"the schema at {where} has the enum {values!r}: list values."
        )
        if types is not None:
            names = types if isinstance(types, list) else [types]
            values = [value for value in values if any(_is(value, name) for name in names)]
            require(
                bool(values), f"the schema at {where} has no value of type {types!r} in its enum: nothing would fit."
            )
        try:
            return _either(re.escape(json.dumps(value, ensure_ascii=False, allow_nan=False)) for value in values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the schema at {where} has a value that is no JSON: {error}.") from None

    def _anyOf(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        choices = schema["anyOf"]
        require(
            isinstance(choices, list) and bool(choices),
            f"the schema at {where} has the anyOf {choices!r}: list schemas.",
        )
        return _either(self.pattern(choice, f"{where}/anyOf/{i}", refs) for i, choice in enumerate(choices))

    def _object(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        properties, required = schema.get("properties", ()), schema.get("required", [])
        require(
            isinstance(properties, Mapping),
            f"the schema at {where} is an object without properties: list them, since any object at all is too much for an "
            "automaton.",
        )
        require(
            isinstance(required, list) and all(isinstance(name, str) and name in properties for name in required),
            f"the schema at {where} requires {required!r}: each must stand in its properties {sorted(properties)}.",
        )
        members = []
        for name, part in dict(properties).items():
            key = re.escape(json.dumps(name, ensure_ascii=False))
            members.append((f"{key}: ?{self.pattern(part, f'{where}/properties/{name}', refs)}", name in required))
        first = next((i for i, (_, needed) in enumerate(members) if needed), None)
        if first is None:  # any of them may come first, or none at all
            ways = [text + _following(members[i + 1 :]) for i, (text, _) in enumerate(members)]
            return rf"\{{(?:{'|'.join(ways)})?\}}" if ways else r"\{\}"
        before = "".join(f"(?:{text}, ?)?" for text, _ in members[:first])
        return rf"\{{{before}{members[first][0]}{_following(members[first + 1 :])}\}}"

    def _array(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        require("items" in schema, f"the schema at {where} is an array without items: say what its entries are.")
        item = self.pattern(schema["items"], f"{where}/items", refs)
        least, most = _bounds(schema, "minItems", "maxItems", where)
        if most == 0:
            return r"\[\]"
        more = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        some = f"{item}(?:, ?{item}){more}"
        return rf"\[{some}\]" if least else rf"\[(?:{some})?\]"

    def _string(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        least, most = _bounds(schema, "minLength", "maxLength", where)
        return f'"{CHARACTER}{{{least},{"" if most is None else most}}}"'

    def _integer(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        return INTEGER

    def _number(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        return NUMBER

    def _boolean(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        return "(?:true|false)"

    def _null(self, schema: Mapping, where: str, refs: tuple[str, ...]) -> str:
        return "null"


def _known(schema: Mapping, own: set[str], where: str, what: str) -> None:
    """Refuse the keywords that are neither understood here nor mere notes."""
    other = sorted(set(schema) - own - NOTES)
    require(
        not other,
        f"the schema at {where} has {', '.join(map(repr, other))}, which is not understood {what}: leave it out and check "
        "the result yourself, or say it with other keywords.",
    )


def _bounds(schema: Mapping, least: str, most: str, where: str) -> tuple[int, int | None]:
    """Return the smallest and the largest number, None where there is no largest."""
    low, high = schema.get(least, 0), schema.get(most)
    for name, value in ((least, low), (most, 0 if high is None else high)):
        require(
            isinstance(value, int) and not isinstance(value, bool) and value >= 0,
            f"the schema at {where} has {name} {value!r}: give a whole number from 0 up.",
        )
    require(high is None or low <= high, f"the schema at {where} has {least} {low} above {most} {high}: nothing fits.")
    return low, high


def _following(members: list[tuple[str, bool]]) -> str:
    return "".join(f", ?{text}" if needed else f"(?:, ?{text})?" for text, needed in members)


def _either(patterns: Iterator[str]) -> str:
    found = list(patterns)
    return found[0] if len(found) == 1 else f"(?:{'|'.join(found)})"


def _is(value: Any, name: Any) -> bool:
    """Return whether a JSON value has the type of that name; true is no number."""
    require(name in PYTHON, f"the schema has the type {name!r} beside an enum: use one of {', '.join(PYTHON)}.")
    return isinstance(value, PYTHON[name]) and (name == "boolean" or not isinstance(value, bool))
