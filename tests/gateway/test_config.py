"""Configuration: files, environment, and errors that say what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, load_config


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    return path


def test_nothing_given_is_a_whole_configuration() -> None:
    config = load_config(environ={})
    assert config.server.port == 8000
    assert config.public_name == config.engine.model


def test_overrides_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "server: {port: 1, host: 127.0.0.2}\nmodel_name: m")
    environ = {"GATEWAY_SERVER__PORT": "2", "GATEWAY_MODEL_NAME": "n", "PATH": "/bin"}
    config = load_config(path, {"server.port": 3, "model_name": None}, environ)
    assert (config.server.port, config.server.host) == (3, "127.0.0.2")
    assert config.model_name == "n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server: {prot: 1}", "server.prot: unknown key; allowed here: host, port"),
        ("server: {port: many}", "server.port: Input should be a valid integer"),
        ("server: {port: 70000}", "server.port: Input should be less than or equal to 65535"),
        ("engine: {dtype: float12}", "engine.dtype: Input should be 'auto', 'float16'"),
        ("engine: 5", "engine: Input should be a valid dictionary"),
        ("- a", "expected a mapping of sections"),
        ("a: [", "not valid YAML"),
        ("auth: {api_keys: [{name: x}]}", "give exactly one of 'env'"),
    ],
)
def test_an_error_names_the_file_the_key_and_what_was_expected(
    tmp_path: Path, text: str, said: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(path, environ={})
    assert str(path) in str(error.value)
    assert said in str(error.value)


SEVERAL = """
models:
  - {name: a, aliases: [b], engine: {model: m}, adapters: [{name: c, path: /x}]}
  - {engine: {model: d, runner: pooling}}
"""


def test_several_models_are_served_in_their_order(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, SEVERAL), environ={})
    first, second = config.served
    assert (first.public_name, first.aliases, second.public_name) == ("a", ("b",), "d")
    assert config.public_name == "a"
    assert first.engine_to_start.max_adapters == 1
    assert second.engine_to_start == second.engine


def test_one_model_needs_no_list_and_is_served_the_same(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "model_name: a\nengine: {model: m}"), environ={})
    (only,) = config.served
    assert (only.public_name, only.engine.model, only.aliases) == ("a", "m", ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [{name: a}]\nengine: {model: m}", "'models' and 'engine' exclude each other"),
        ("models: [{name: a}]\nmodel_name: m", "'models' and 'model_name' exclude each other"),
        ("models: [{name: a}, {name: a}]", "models.1.name is 'a', and so is models.0.name"),
        ("models: [{name: a, aliases: [a]}]", "models.0.aliases.0 is 'a', and so is models.0.name"),
        (
            "models: [{name: a}, {name: b, adapters: [{name: a, path: x}]}]",
            "models.1.adapters.0.name is 'a', and so is models.0.name",
        ),
        ("models: [{name: a, engin: {}}]", "models.0.engin: unknown key; allowed here: name,"),
        ("models: [{engine: {dtyp: x}}]", "models.0.engine.dtyp: unknown key; allowed here: kind,"),
        (
            "models: [{adapters: [{name: a, path: x}], engine: {runner: pooling}}]",
            "models.0: adapters need 'engine.runner: generate'",
        ),
        (
            "models: [{adapters: [{name: a, path: x}, {name: b, path: x}], "
            "engine: {max_adapters: 1}}]",
            "models.0: engine.max_adapters is 1, but 2 adapters are configured",
        ),
        ("engine: {max_lora_rank: 7}", "engine.max_lora_rank: Input should be 1, 8, 16"),
    ],
)
def test_what_is_wrong_with_several_models_is_named_with_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(written(tmp_path, text), environ={})
    assert said in str(error.value)


def test_no_key_is_shown_where_a_whole_section_is_wrong(tmp_path: Path) -> None:
    digest = "0" * 64
    keys = f"auth: {{api_keys: [{{name: x, sha256: '{digest}'}}]}}"
    text = f"{keys}\nmodels: [{{name: a}}]\nengine: {{}}"
    with pytest.raises(ConfigError) as error:
        load_config(written(tmp_path, text), environ={})
    assert digest not in str(error.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load_config(tmp_path / "none.yaml")
