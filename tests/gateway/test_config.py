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


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load_config(tmp_path / "none.yaml")
