"""Parts of a page in HTML: the document with its style, tables and notes. Text is escaped, and nothing is fetched."""

import html
import re
from collections.abc import Sequence

from mi_jax.evaluation import text

_STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{line-height:1.2;overflow-wrap:anywhere}h2{margin-top:2rem}h3{margin-bottom:.2rem}
table{border-collapse:collapse;font-size:.9rem}th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:left}
th,td{vertical-align:top;overflow-wrap:break-word}td{font-variant-numeric:tabular-nums}
table:not(.wide) td:last-child,.note{overflow-wrap:anywhere}
.wide{width:100%}.wide th{vertical-align:bottom}.wide td:first-child{font-weight:600}
figure{margin:1rem 0;break-inside:avoid}figcaption,.note{color:#555;font-size:.9rem}
h3+table{margin-top:.5rem}.verdict{border:1px solid #bbb;border-left:6px solid #0072b2;padding:0 1rem}
.verdict{margin:1rem 0;overflow-wrap:anywhere}.verdict ul{padding-left:1.3rem}
.broken b{color:#b30000}.kept b{color:#006400}.undecided b{color:#8a5a00}.verdict h2{margin:.8rem 0 .4rem}
img{width:48px;height:48px;object-fit:contain;image-rendering:pixelated;vertical-align:middle}
svg{max-width:100%;height:auto;display:block}.panels{display:flex;flex-wrap:wrap;gap:.5rem}
@media screen and (max-width:800px){
.wide tr:first-child{display:none}.wide tr,.wide td{display:block}.wide tr{margin-bottom:1rem}
.wide td{display:flex;justify-content:space-between;gap:1rem;text-align:right;padding:.2rem 0}
.wide td:empty{display:none}
.wide td::before{content:attr(data-label);color:#555;font-weight:400;text-align:left;flex:none;max-width:50%}
}
@media print{
@page{margin:14mm}body{font-size:10.5pt;margin:0;max-width:none;padding:0}table{font-size:8pt}
th,td{padding:.15rem .35rem}tr,li,h2,h3,figure{break-inside:avoid}h1,h2,h3{break-after:avoid}
.scores svg{max-width:32%}.roc svg{max-width:70%}img{width:32px;height:32px}
}
"""


def document(title: str, body: str) -> str:
    """A self-contained page with this title, as text, above `body`, which is HTML already."""
    return text.printable(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


def cards(rows: Sequence[dict[str, str]], elements: Sequence[str] = ()) -> str:
    """Rows of named cells as a table, without columns that are empty; a narrow screen shows a card for each row.

    `elements`: the columns that are HTML already.
    """
    head = [name for name in dict.fromkeys(name for row in rows for name in row) if any(row.get(name) for row in rows)]
    cells = "".join(f"<th>{_cell(name)}</th>" for name in head)
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td data-label="{html.escape(name)}">{(str if name in elements else _cell)(row.get(name, ""))}</td>'
            for name in head
        )
        + "</tr>"
        for row in rows
    )
    return f"<table class=wide><tr>{cells}</tr>{lines}</table>"


def _cell(value: str) -> str:
    """A cell that breaks before an interval, not within it."""
    return re.sub(r" (?=%)|(?<=,) (?=[-+\d.]+\])", "\u00a0", html.escape(value))


def note(sentence: str) -> str:
    """A sentence in small grey text; nothing for none."""
    return f"<p class=note>{html.escape(sentence)}</p>" if sentence else ""
