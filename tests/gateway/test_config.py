"""Configuration: files, environment, and errors that say what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, ServerConfig, load_config
from gateway.config.reading import overlooked


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    return path


def test_nothing_given_is_a_whole_configuration() -> None:
    config = load_config(environ={})
    assert config.server.port == 8000
    assert config.public_name == config.engine.model


def test_an_address_of_ipv6_is_told_as_clients_write_it() -> None:
    assert ServerConfig(host="::1").address(8000) == "http://[::1]:8000"
    assert ServerConfig(host="127.0.0.1").address(8000) == "http://127.0.0.1:8000"


def test_overrides_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "server: {port: 1, host: 127.0.0.2}\nmodel_name: m")
    environ = {"GATEWAY_SERVER__PORT": "2", "GATEWAY_MODEL_NAME": "n", "PATH": "/bin"}
    config = load_config(path, {"server.port": 3}, environ)
    assert (config.server.port, config.server.host) == (3, "127.0.0.2")
    assert config.model_name == "n"
    assert load_config(path, {"model_name": None}, environ).model_name is None


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
        ("auth: {}\nserver: {}\nauth: {}", "line 3, column 1: 'auth' is here a second time, after"),
        ("server: {port: 1, port: 2}", "'port' is here a second time, after line 1"),
        ("model_name: 0x_", "it has a date or a number that is none"),
        ("model_name: a\0", "it has a character that YAML doesn't allow"),
        ("server: {port: true}", "server.port: expected a number (got True)"),
        ("slo: {ttft_ms: true}", "slo.ttft_ms: expected a number"),
        ("price: {prompt: true}", "price.prompt: expected a number"),
        ("server: {keep_alive_s: .inf}", "server.keep_alive_s: Input should be a finite number"),
        ("engine: {kv_cache_gib: 1.0e+300}", "engine.kv_cache_gib: Input should be less than"),
        ("limits: {share: foo}", "limits.share: expected 'state' or redis://HOST:PORT/DB"),
        ("state: {url: 'mysql://u@h/d'}", "state.url: expected sqlite:///FILE"),
        ("state: {url: 'sqlite:///~nosuchuser/x.db'}", "state.url: '~' leads nowhere here"),
        ("ledger: {journal: ~nosuchuser/x}", "ledger.journal: '~' leads nowhere here"),
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


@pytest.mark.parametrize("key", ["tool_parser", "reasoning_parser", "compile"])
def test_off_means_off_wherever_it_is_written(tmp_path: Path, key: str) -> None:
    path = written(tmp_path, f"engine: {{{key}: off}}")
    for config in (
        load_config(path, environ={}),
        load_config(None, {f"engine.{key}": False}, environ={}),  # as --set reads it
        load_config(environ={f"GATEWAY_ENGINE__{key.upper()}": "off"}),
    ):
        assert getattr(config.engine, key) == "off"


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


def test_what_a_merge_brings_may_be_there_a_second_time(tmp_path: Path) -> None:
    merged = """
models:
  - engine: {simulated: &slow {<<: &base {step_ms: 1, text: a}, step_ms: 2}, model: a}
  - {name: b, engine: {simulated: {<<: *slow, text: b}}}
"""
    first, second = load_config(written(tmp_path, merged), environ={}).served
    assert (first.engine.simulated.step_ms, first.engine.simulated.text) == (2, "a")
    assert (second.engine.simulated.step_ms, second.engine.simulated.text) == (2, "b")


def test_an_error_names_who_said_it(tmp_path: Path) -> None:
    path = written(tmp_path, "server: {port: a, host: 1}")
    environ = {"GATEWAY_SERVER__PORT": "b", "GATEWAY_ENGINE__DTYPE": "c"}
    overrides = {"engine": {"dtype": "d"}, "log_level": "e"}
    with pytest.raises(ConfigError) as error:
        load_config(
            path, overrides, environ, {"engine": "--set engine", "log_level": "--log-level"}
        )
    said = str(error.value).splitlines()
    assert said[0].startswith("--set engine: engine.dtype: ")
    assert said[1].startswith(f"{path}: server.host: ")
    assert said[2].startswith("GATEWAY_SERVER__PORT: server.port: ")
    assert said[3].startswith("--log-level: log_level: ")


@pytest.mark.parametrize(
    "text",
    [
        "state: {url: 'postgresql://u:p@SECRET@h/d'}",
        "state: {url: 'postgresql://u:p@ss:SECRET@h/d'}",
        "state: {url: 'nonsense:SECRET'}",
        'state:\n  url: "postgresql://u:SECRET@h/d""\n',
        "state: {url: !SECRET}",
        "state: {url: !it's-SECRET x}",
        "state: {url: *SECRET}",
        "state: {url: &SECRET x, a: &SECRET y}",
        "limits: redis://:SECRET@h/d",
        "limits: {share: [redis://:SECRET@h/d]}",
        "limits: {share: redis://:pa/SECRET@h}",
        "log_level: redis://:SECRET@h",
        "server: {cors: {allow_origins: ['https://u:SECRET@h/']}}",
    ],
)
def test_no_error_shows_a_password(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(written(tmp_path, text), environ={})
    assert "SECRET" not in str(error.value)


def test_a_variable_with_one_underscore_is_warned_of_unless_it_is_somebodys_key() -> None:
    text = {"auth.api_keys": [{"name": "a", "env": "GATEWAY_LIMITS_SHARE"}]}
    ours = (
        "GATEWAY_SERVER__PORT",
        "GATEWAY_LIMITS_SHARE",
        "GATEWAY_MODEL_NAME",
        "GATEWAY_ADMIN_KEY",
    )
    config = load_config(overrides=text, environ={})
    assert overlooked(config, dict.fromkeys(ours, "1")) == []
    missed = dict.fromkeys(("GATEWAY_SERVER_PORT", "GATEWAY_ENGINE__PARALLEL_TENSOR"), "1")
    assert overlooked(config, missed) == [
        "the environment variable GATEWAY_SERVER_PORT sets nothing: write GATEWAY_SERVER__PORT",
        "the environment variable GATEWAY_ENGINE__PARALLEL_TENSOR sets nothing: write "
        "GATEWAY_ENGINE__PARALLEL__TENSOR",
    ]


def test_a_variable_of_a_section_that_there_isnt_is_told() -> None:
    found = overlooked(load_config(environ={}), {"GATEWAY_LIMIT__SHARE": "state", "A__B": "1"})
    assert found == [
        "the environment variable GATEWAY_LIMIT__SHARE sets nothing: no section is called 'limit'"
    ]
