"""The HTML page of a report: one file that needs nothing from outside, light or dark as the reader's system is."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headrace.shards.printing import printable

UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Section(NamedTuple):
    """One part of the page."""

    heading: str
    note: str
    """One line of plain text under the heading; "" for none."""
    html: str


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole document."""
    body = "".join(
        f"<section><h2>{escape(section.heading)}</h2>"
        + (f'<p class="note">{escape(section.note)}</p>' if section.note else "")
        + f"{section.html}</section>"
        for section in sections
    )
    return plain(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head>\n'
        f"<body><main><header><p class=brand>Headrace</p><h1>{escape(title)}</h1>"
        f'<p class="note">{escape(subtitle)}</p></header>\n{body}</main><script>{JS}</script></body></html>\n'
    )


def plain(text: str) -> str:
    """The text with what no page can hold, control characters and bytes of names that are no Unicode, written out."""
    return UNFIT.sub(lambda found: printable(found[0]), text)


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """uint8 pixels (H, W, 3) as a `data:` address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def tiles(figures: Sequence[tuple[str, str]]) -> str:
    """Large figures in a row: (figure, what it is)."""
    return (
        '<div class="tiles">'
        + "".join(f"<div><b>{escape(figure)}</b><span>{escape(what)}</span></div>" for figure, what in figures)
        + "</div>"
    )


def definitions(rows: Sequence[tuple[str, str]]) -> str:
    """A two-column table of names and values."""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="plain">{cells}</table>'


CSS = """
:root{--page:#fbfbfa;--card:#fff;--ink:#1b1f24;--soft:#5d6670;--line:#e3e5e8;--accent:#0b6e99;
--s0:#0b6e99;--s1:#d9730d;--s2:#5b8c2a;--s3:#9a3b8c;--s4:#b3261e;--s5:#7a5c00;--s6:#00796b;--s7:#6a6f75}
@media (prefers-color-scheme:dark){:root{--page:#14171a;--card:#1c2024;--ink:#e8eaed;--soft:#9aa4ae;--line:#30363c;
--accent:#5cb8e6;--s0:#5cb8e6;--s1:#f2a65a;--s2:#9ccc65;--s3:#d48ac8;--s4:#ff8a80;--s5:#e0c060;--s6:#4db6ac;--s7:#b0b6bc}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:40px 20px 80px}
.brand{margin:0;color:var(--accent);font-weight:600;letter-spacing:.12em;text-transform:uppercase;font-size:13px}
h1{margin:2px 0 4px;font-size:32px;line-height:1.2}
h2{margin:0 0 4px;font-size:19px}
.note{margin:0 0 14px;color:var(--soft);font-size:14px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:22px 24px;margin:18px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:18px}
.tiles b{display:block;font-size:28px;line-height:1.2;font-variant-numeric:tabular-nums}
.tiles span{color:var(--soft);font-size:14px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:18px 28px}
.charts h3{margin:0;font-size:14px;font-weight:600}
svg{display:block;width:100%;height:auto}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.grid{stroke:var(--line);stroke-width:1}
.tick,.axis{fill:var(--soft);font-size:13px;font-variant-numeric:tabular-nums}
.s0{stroke:var(--s0)}.s1{stroke:var(--s1);stroke-dasharray:7 5}.s2{stroke:var(--s2)}.s3{stroke:var(--s3)}
.s4{stroke:var(--s4)}.s5{stroke:var(--s5);stroke-dasharray:7 5}.s6{stroke:var(--s6)}.s7{stroke:var(--s7)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 12px;font-size:14px;color:var(--soft)}
.legend span{display:flex;align-items:center;gap:7px}.legend svg{width:18px}
table{border-collapse:collapse;width:100%;font-size:15px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:8px 10px;border-bottom:1px solid var(--line);font-weight:400;vertical-align:top}
thead th{color:var(--soft);font-size:13px}
tr:last-child>*{border-bottom:0}
td.figure{width:34%}
.bar{display:grid;grid-template-columns:64px 1fr;align-items:center;gap:10px}
.bar i{display:block;height:8px;border-radius:4px;background:var(--s0);min-width:2px}
tr.best th,tr.best b{font-weight:700}
table.plain th{width:32%;color:var(--soft)}
.wide{overflow-x:auto;margin:0 0 18px}.wide h3{margin:0;font-size:14px;font-weight:600}
.reading{display:flex;flex-wrap:wrap;align-items:baseline;gap:3px 6px;margin:0 0 14px}
.reading span{max-width:100%;overflow-wrap:anywhere}.reading b{font-weight:600}.reading s{color:var(--soft)}
.reading .right,.reading .wrong{border-bottom:2px solid var(--s0)}.reading .wrong{border-color:var(--s1)}
small{color:var(--soft);font-size:12px;font-weight:400;white-space:nowrap}
table.metrics th:first-child{width:32%}table.metrics b{font-weight:400}table.metrics tr.best b{font-weight:700}
.confusion{max-width:560px}.confusion .right{fill:var(--s0)}.confusion .wrong{fill:var(--s1)}
.gallery{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,310px),1fr));gap:22px}
.sample{display:grid;grid-auto-flow:column;grid-auto-columns:1fr;gap:10px}
figure{margin:0}
figure img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--line);border-radius:6px;
image-rendering:pixelated}
figure.other{opacity:.4}
figure.row{margin:0 0 10px}
figure.row img{aspect-ratio:auto;background:none}
figcaption{color:var(--soft);font-size:11px;line-height:1.35;margin-top:5px}
.mapbox{position:relative}
.map circle{stroke:var(--card);stroke-width:.5}
.map .class{font-size:19px;font-weight:700;text-anchor:middle;fill:var(--ink);paint-order:stroke;stroke:var(--card);
stroke-width:5px;stroke-linejoin:round;pointer-events:none}
.k0{fill:#4e79a7}.k1{fill:#f28e2b}.k2{fill:#e15759}.k3{fill:#76b7b2}.k4{fill:#59a14f}
.k5{fill:#d8b021}.k6{fill:#b07aa1}.k7{fill:#ff9da7}.k8{fill:#9c755f}.k9{fill:#8a8f94}
.peek{position:absolute;display:none;pointer-events:none;padding:5px;background:var(--card);
border:1px solid var(--line);border-radius:8px;box-shadow:0 4px 16px #0003;font-size:12px;text-align:center}
.peek div{image-rendering:pixelated;border-radius:4px}
@media (max-width:600px){main{padding:20px 10px 40px}section{padding:16px 14px}}
audio{display:block;width:100%;margin:0 0 10px}
.tokens{margin:0 0 12px;line-height:2}
.tokens span{display:inline-block;vertical-align:top;line-height:1.3;padding:0 2px}
.tokens .special{color:var(--accent)}
.tokens .to-predict{background:var(--line);border-radius:4px}
.tokens small{display:block}
pre{margin:0;overflow:auto;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace}
"""

# Shows the sample behind a dot of the map: the page's one sprite holds all thumbnails, `columns` to a row.
JS = """
document.querySelectorAll('.mapbox').forEach(box=>{
 const peek=box.querySelector('.peek'),picture=peek.firstChild,text=peek.lastChild,side=+box.dataset.side,
  columns=+box.dataset.columns,names=JSON.parse(box.dataset.names),scale=84/side;
 picture.style.cssText='width:84px;height:84px;background-image:url('+box.dataset.sprite+');background-size:'
  +columns*84+'px auto';
 box.addEventListener('mousemove',event=>{
  const i=event.target.dataset?.i;
  if(i===undefined){peek.style.display='none';return}
  picture.style.backgroundPosition=-(i%columns)*side*scale+'px '+-Math.floor(i/columns)*side*scale+'px';
  text.textContent=names[i];peek.style.display='block';
  const area=box.getBoundingClientRect();
  peek.style.left=Math.min(event.clientX-area.left+14,area.width-110)+'px';
  peek.style.top=event.clientY-area.top+14+'px'});
 box.addEventListener('mouseleave',()=>peek.style.display='none')});
"""
