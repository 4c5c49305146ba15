"""A report as one HTML file: the Markdown of it, its pictures inside, nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape, unescape

from markdown_it import MarkdownIt

_STYLE = """\
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #5b6470;
  --rule: #d9dde2; --band: #f5f7f9; --link: #1f6fb2; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --ink: #e6e8eb; --soft: #9aa4b0;
  --rule: #2c333b; --band: #1c2127; --link: #62a8e5; } }
body { background: var(--ground); color: var(--ink); margin: 0 auto; max-width: 62rem;
  padding: 2rem 1.25rem 4rem; font: 15px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } a { color: var(--link); }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem; border-bottom: 1px solid var(--rule); }
td[style*="right"] { white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } tbody tr:hover { background: var(--band); }
pre { background: var(--band); padding: .75rem 1rem; overflow-x: auto; border-radius: 6px; }
code { font-size: .9em; } svg { max-width: 100%; height: auto; }"""

_IMAGE = re.compile(r'<img src="([^"]*)" alt="[^"]*" ?/>')


def html_page(title: str, markdown: str, pictures: Mapping[str, str]) -> str:
    """The page of a report. `pictures` are SVG documents by the name the Markdown gives them.

    HTML in the Markdown is shown as text: parts of a report may come from a server.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"{_IMAGE.sub(lambda found: _inline(found, pictures), body)}</body>\n</html>\n"
    )


def _inline(image: re.Match[str], pictures: Mapping[str, str]) -> str:
    return pictures.get(unescape(image[1]), image[0])
