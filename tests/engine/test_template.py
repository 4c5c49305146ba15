"""Chat templates: rendered as transformers renders them."""

from __future__ import annotations

import jinja2
import pytest

from engine.template import ChatTemplate

CONVERSATION = [{"role": "user", "content": "a < b & 'c' é"}]


def render(source: str, **constants: str) -> str:
    return ChatTemplate(source, constants).render(CONVERSATION)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0]['content'] }}", "a < b & 'c' é"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "a < b & \'c\' é"}]'),
        ("{{ bos_token }}{{ missing }}{{ tools is none }}", "<s>True"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% for m in 'abc' %}{% if m == 'b' %}{% break %}{% endif %}{{ m }}{% endfor %}", "a"),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)
def test_templates_find_what_they_are_written_for(source: str, text: str) -> None:
    assert render(source, bos_token="<s>") == text


def test_a_template_can_refuse_a_conversation() -> None:
    with pytest.raises(jinja2.TemplateError, match="no users"):
        render("{{ raise_exception('no users') }}")


@pytest.mark.parametrize(
    "source", ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ messages.clear() }}"]
)
def test_a_template_is_kept_in_its_sandbox(source: str) -> None:
    try:
        text = render(source)
    except jinja2.TemplateError:
        return
    assert text == ""
