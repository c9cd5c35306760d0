"""JSON schemas: what their patterns match is JSON that they accept; what is not understood is refused."""

import json
import re

import numpy as np
import pytest
from test_regular import drawn

from jgpt.regular import byte_automaton
from jgpt.schema import pattern_of

PERSON = {
    "type": "object",
    "properties": {"nick": {"type": "string", "maxLength": 3}, "é\"\n": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["é\"\n"],
    "additionalProperties": False,
}  # fmt: skip
LOOSE = {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "number"}, "c": {"enum": [1, 'x"y']}}}


def is_person(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) <= {"nick", 'é"\n', "ok"}
        and isinstance(value['é"\n'], int)
        and isinstance(value.get("ok", True), bool)
        and len(value.get("nick", "")) <= 3
    )


def is_loose(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) <= {"a", "b", "c"}
        and value.get("a") is None
        and isinstance(value.get("b", 1), int | float)
        and value.get("c", 1) in (1, 'x"y')
    )


CASES = {
    "required and optional": (PERSON, is_person),
    "all optional": (LOOSE, is_loose),
    "bounded list": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
        lambda v: 2 <= len(v) <= 3 and all(isinstance(x, int) for x in v),
    ),
    "list by reference": (
        {"$defs": {"p/q": PERSON}, "type": "array", "items": {"$ref": "#/$defs/p~1q"}, "title": "t"},
        lambda v: isinstance(v, list) and all(map(is_person, v)),
    ),
    "empty list": ({"type": "array", "items": PERSON, "maxItems": 0}, lambda v: v == []),
    "types": ({"type": ["string", "null"], "minLength": 2}, lambda v: v is None or len(v) >= 2),
    "any of": ({"anyOf": [{"const": {"x": [1, None]}}, {"type": "boolean"}]}, lambda v: v in ({"x": [1, None]}, True, False)),
    "enum of a type": ({"type": "integer", "enum": [True, 3, "3"]}, lambda v: v == 3 and v is not True),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_matches_is_json_that_the_schema_accepts(name: str) -> None:
    schema, valid = CASES[name]
    automaton, rng = byte_automaton(pattern_of(schema)), np.random.default_rng(1)
    for _ in range(30):
        text = drawn(automaton, rng).decode("utf-8")
        assert valid(json.loads(text)), text


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (PERSON, {'é"\n': -12}),
        (PERSON, {"nick": "é\n", 'é"\n': 0, "ok": True}),
        (LOOSE, {}),
        (LOOSE, {"b": -1.5e-07, "c": 'x"y'}),
        (CASES["any of"][0], {"x": [1, None]}),
    ],
)
def test_what_json_writes_by_default_matches(schema: dict, value: object) -> None:
    assert re.fullmatch(pattern_of(schema), json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, "the type None"),
        ({"type": "date"}, "the type 'date'"),
        ({"type": []}, "an empty list of types"),
        ({"anyOf": [True]}, "the schema at #/anyOf/0 is True"),
        ({"type": "object"}, "without properties"),
        ({"type": "array"}, "without items"),
        ({"type": "integer", "minimum": 3}, "'minimum', which is not understood"),
        ({"type": "string", "pattern": "a"}, "'pattern'"),
        ({"type": "integer", "maxLength": 3}, "'maxLength'"),
        ({"enum": [1], "minimum": 0}, "'minimum'"),
        ({"enum": []}, "the enum []"),
        ({"type": "string", "enum": [1]}, "no value of type 'string'"),
        ({"enum": [float("nan")]}, "no JSON"),
        ({"anyOf": []}, "the anyOf []"),
        ({"$ref": "other.json"}, "refers to 'other.json'"),
        ({"$ref": "#/$defs/no"}, "there is none"),
        ({"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}, "recursive"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]}, "requires ['b']"),
        ({"type": "object", "properties": {"1": {"type": "null"}}, "required": [1]}, "requires [1]"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength 3 above maxLength 2"),
        ({"type": "string", "minLength": True}, "minLength True"),
        ({"type": "object", "properties": {"a": {"type": "x"}}}, "#/properties/a has the type 'x'"),
        (
            {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {"type": "null"}},
             "$ref": "#/$defs/d0"},
            "more than 5,000 parts",
        ),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(schema: object, value: str) -> None:
    with pytest.raises(ValueError) as error:
        pattern_of(schema)
    assert value in str(error.value)
