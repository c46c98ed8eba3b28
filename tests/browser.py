"""A page in headless Chromium: what goes wrong in it, at any width, light or dark."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

# Runs in the page around the frame, where it has the page's own measures.
LOOK = """
const frame=document.querySelector('iframe');
const found={errors:[],dark:matchMedia('(prefers-color-scheme:dark)').matches};
frame.contentWindow.onerror=(message,_,line)=>found.errors.push(message+' in line '+line);
frame.onload=()=>setTimeout(()=>{
 const page=frame.contentDocument,view=frame.contentWindow;
 found.width=view.innerWidth;found.scroll=page.documentElement.scrollWidth;
 const luminance=text=>{const [r,g,b]=text.match(/[\\d.]+/g).map(Number).map(c=>c/255)
   .map(c=>c<=.03928?c/12.92:((c+.055)/1.055)**2.4);return .2126*r+.7152*g+.0722*b};
 const behind=node=>{for(;node;node=node.parentElement){const color=view.getComputedStyle(node).backgroundColor;
   if(!color.endsWith(', 0)')&&color!=='transparent')return color}return 'rgb(255, 255, 255)'};
 const texts=[],walk=page.createTreeWalker(page.body,NodeFilter.SHOW_TEXT);
 for(let node;node=walk.nextNode();){
  const parent=node.parentElement,text=node.textContent.trim();
  if(!text||parent.closest('script,style,title,pre'))continue;
  const range=page.createRange();range.selectNodeContents(node);
  const area=parent instanceof view.SVGElement?parent.getBoundingClientRect():range.getBoundingClientRect();
  if(!area.width||!area.height)continue;
  const style=view.getComputedStyle(parent),svg=parent.closest('svg');
  let size=parseFloat(style.fontSize);
  if(svg)size*=svg.getScreenCTM().a;
  const color=svg?style.fill:style.color,ls=[luminance(color),luminance(behind(parent))].sort((a,b)=>b-a);
  const turned=svg&&/rotate/.test(parent.getAttribute('transform')||'');
  texts.push({text:text.slice(0,40),size,contrast:(ls[0]+.05)/(ls[1]+.05),turned,
   area:[area.left,area.top,area.right,area.bottom],map:!!parent.closest('.map')})}
 found.texts=texts.length;
 found.small=texts.filter(t=>t.size<LEAST).map(t=>t.text+' '+t.size.toFixed(1));
 found.faint=texts.filter(t=>t.contrast<4).map(t=>t.text+' '+t.contrast.toFixed(1));
 found.overlaps=[];
 const flat=texts.filter(t=>!t.turned&&!t.map);
 for(let i=0;i<flat.length;i++)for(let j=i+1;j<flat.length;j++){
  const [a,b]=[flat[i].area,flat[j].area];
  if(Math.min(a[2],b[2])-Math.max(a[0],b[0])>2&&Math.min(a[3],b[3])-Math.max(a[1],b[1])>3)
   found.overlaps.push(flat[i].text+' | '+flat[j].text)}
 const out=document.createElement('pre');out.id='found';out.textContent=JSON.stringify(found);
 document.body.append(out)},300);
"""


def look_at(page: Path, folder: Path, *, width: int, dark: bool = False, least: float = 10) -> dict[str, Any]:
    """What Chromium finds in a page: script errors, text smaller than `least` CSS pixels, text of little contrast,
    texts over one another, and how far it reaches to the right."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        assert os.environ.get("HEADRACE_REQUIRE_PEERS") != "1", "no Chromium here; apt install chromium"
        pytest.skip("no Chromium here; apt install chromium")
    folder.mkdir(exist_ok=True)
    around = folder / "around.html"
    inside = escape(page.read_text(encoding="utf-8"), quote=True)
    script = LOOK.replace("LEAST", str(least))
    around.write_text(
        '<!doctype html><meta charset="utf-8"><body style="margin:0">'
        f'<iframe style="width:{width}px;height:9000px;border:0" srcdoc="{inside}"></iframe>'
        f"<script>{script}</script></body>",
        encoding="utf-8",
    )
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=8000",
        f"--window-size={max(width, 600)},9000", "--dump-dom", around.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(unescape(told[1]))
    assert found["dark"] == dark
    assert found["width"] == width
    return found


def require_readable(page: Path, folder: Path, *, width: int, dark: bool = False) -> None:
    """Nothing of `look_at` is wrong."""
    found = look_at(page, folder, width=width, dark=dark)
    assert found["texts"] > 20
    wrong = {name: found[name] for name in ("errors", "small", "faint", "overlaps") if found[name]}
    if wrong or found["scroll"] > width:
        pytest.fail(f"{width} wide, {'dark' if dark else 'light'}: {wrong}, reaches to {found['scroll']}")
