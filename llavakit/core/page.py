"""HTML pages that need nothing else: one style, and a filter by kind and by text."""

import html
from collections.abc import Iterable, Mapping

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 60em; color: #222 }
article { display: flex; gap: 1em; border-top: 1px solid #ccc; padding: .8em 0 }
.wrong b { color: #b01e28 } .right b { color: #14783c } .unread b { color: #9a6700 }
img { max-width: 200px; max-height: 200px } p { margin: .2em 0; white-space: pre-wrap }
table { border-collapse: collapse } td, th { padding: .3em .8em; border-top: 1px solid #ccc; text-align: right }
td:first-child, th:first-child, .words td, .words th { text-align: left }
"""
SCRIPT = """
const kind = document.querySelector("select"), text = document.querySelector("input");
function show() {
  for (const each of document.querySelectorAll("article, tbody tr"))
    each.hidden = (kind.value && !each.classList.contains(kind.value))
      || !each.textContent.toLowerCase().includes(text.value.toLowerCase());
}
kind.onchange = text.oninput = show;
kind.value = location.hash.slice(1);
if (kind.selectedIndex < 0) kind.value = "";
show();
"""


def page(title: str, told: str, kinds: Mapping[str, str], body: Iterable[str]) -> str:
    """A page with a filter by kind (a class of the articles or rows in `body`) and by text; `told` is HTML."""
    options = "".join(f'<option value="{name}">{words}' for name, words in kinds.items())
    return "\n".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>',
            f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>",
            f"<p>{told}</p>",
            f'<p><select aria-label="kind"><option value="">all{options}</select> '
            '<input aria-label="filter" placeholder="filter"></p>',
            *body,
            f"<script>{SCRIPT}</script></html>",
        )
    )
