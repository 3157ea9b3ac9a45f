"""The frame of a report page: style and the few lines of script that sort its tables."""

import html

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; padding: 0 1.2em; max-width: 1240px; color: #222; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { font-size: 1.15em; margin: 1.8em 0 .5em; }
.lead { color: #555; margin-top: 0; } small { color: #666; font-size: 12px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px; }
th { text-align: left; cursor: pointer; max-width: 18em; background: #f2f4f7; user-select: none; }
th:after { content: "\\a0\\2195"; color: #aaa; font-weight: normal; }
th[data-order="1"]:after { content: "\\a0\\2191"; } th[data-order="-1"]:after { content: "\\a0\\2193"; }
td, th { padding: .28em .8em; border-bottom: 1px solid #e3e3e6; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td small { white-space: nowrap; } td small.from { white-space: normal; display: inline-block; max-width: 13em; }
tr.off td { color: #777; background: #fafafa; font-size: 13px; } tr.off td:first-child { max-width: 16em; }
td:last-child { min-width: 14em; } td:last-child small { white-space: normal; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 14px; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; padding: 8px; overflow: hidden; }
.media { display: flex; gap: 6px; align-items: flex-start; margin-bottom: 4px; }
.media img { height: 128px; max-width: 42%; object-fit: contain; } .media video { height: 128px; min-width: 0; }
.media > * { background: #eee; border-radius: 3px; }
figcaption { font-size: 12px; color: #444; overflow-wrap: anywhere; } figcaption .name { color: #888; }
.plots { display: flex; flex-wrap: wrap; gap: 12px; } .plots svg { border: 1px solid #e3e3e6; border-radius: 6px; }
.note { color: #8a4b00; margin: .3em 0; } .better { font-weight: 600; }
svg { vertical-align: middle; }
svg text { font-size: 12px; fill: #555; } svg text.name { font-weight: 600; fill: #222; }
.plots svg text { font-size: 11px; } pre { font-size: 12px; overflow: auto; } details { margin: .5em 0; }
summary { cursor: pointer; }
"""

SCRIPT = """
for (const head of document.querySelectorAll("table.sortable th")) head.addEventListener("click", () => {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const order = head.dataset.order === "-1" ? 1 : -1;
  for (const other of table.querySelectorAll("th")) delete other.dataset.order;
  head.dataset.order = order;
  const value = row => { const cell = row.cells[column]; return cell.dataset.value ?? cell.textContent.trim(); };
  const rows = [...body.rows], numeric = rows.some(row => row.cells[column].dataset.value !== undefined);
  rows.sort((a, b) => {
    if (!numeric) return -order * value(a).localeCompare(value(b));
    const [x, y] = [a, b].map(row => parseFloat(row.cells[column].dataset.value));
    return isNaN(x) - isNaN(y) || order * (x - y);
  });
  body.append(...rows);
});
"""


def page(title: str, content: str) -> str:
    """Return a whole HTML page that needs no other file."""
    head = f"<meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    body = f"<h1>{html.escape(title)}</h1>{content}<script>{SCRIPT}</script>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>"
