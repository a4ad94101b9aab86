"""Kong checks a filter's configuration with the draft 4 schema in optimizer.meta.json before the module
ever sees it: both must agree. What the module says to the same configurations, a test in Rust
(integration/tests/kong) asks."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft4Validator

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE / "../../schema/optimizer.meta.json").read_text())["config_schema"]

# What lua-resty-ljsonschema knows, which Kong validates with.
KEYWORDS = {
    "additionalProperties", "allOf", "anyOf", "default", "dependencies", "description", "enum", "items", "maxItems",
    "maxLength", "maximum", "minItems", "minLength", "minimum", "not", "oneOf", "pattern", "patternProperties",
    "properties", "required", "title", "type", "uniqueItems",
}


def cases(name: str):
    corpus = json.loads((HERE / f"{name}.json").read_text())
    return [pytest.param(configuration, id=case) for case, configuration in corpus.items()]


def errors(configuration) -> list[str]:
    return [error.message for error in Draft4Validator(SCHEMA).iter_errors(configuration)]


def test_it_is_a_draft_4_schema():
    Draft4Validator.check_schema(SCHEMA)


def test_it_uses_nothing_that_kong_does_not_know():
    def check(schema):
        if isinstance(schema, bool):
            return
        assert set(schema) <= KEYWORDS, set(schema) - KEYWORDS
        for group in ("properties", "patternProperties"):
            for inner in schema.get(group, {}).values():
                check(inner)
        for group in ("allOf", "anyOf", "oneOf"):
            for inner in schema.get(group, []):
                check(inner)
        for name in ("additionalProperties", "items", "not"):
            if name in schema:
                check(schema[name])

    check(SCHEMA)


@pytest.mark.parametrize("configuration", cases("valid"))
def test_it_accepts(configuration):
    assert errors(configuration) == []


@pytest.mark.parametrize("configuration", cases("invalid"))
def test_it_refuses(configuration):
    assert errors(configuration) != []


@pytest.mark.parametrize("configuration", cases("inconsistent"))
def test_it_cannot_see_what_only_the_module_refuses(configuration):
    assert errors(configuration) == []
