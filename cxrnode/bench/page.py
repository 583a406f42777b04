"""A bench as one HTML page: every figure in its group with a bar, nothing loaded from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from cxrnode.bench.figures import Figure

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
       color: #1c2430; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
table { border-collapse: collapse; width: 100% } td { padding: .18rem .5rem; border-top: 1px solid #e3e7ec }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.b { width: 34% } td.b i { display: block; height: .8rem; background: #2f6fb3; border-radius: 2px }
small, .note { color: #5a6675 } .bad { color: #a4001d; font-weight: 600 } .good { color: #0b6b3a; font-weight: 600 }
"""


def page(figures: Sequence[Figure], bars: Sequence[Figure], machine: Mapping[str, str]) -> str:
    """The page; `bars` are ratios with what they must reach in `note`, shown first."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>cxrnode bench</title>",
        f"<style>{_STYLE}</style>",
    ]
    facts = "; ".join(f"{html.escape(k)} {html.escape(v)}" for k, v in machine.items())
    parts.append(f"<h1>cxrnode bench</h1><p class=note>{facts}</p>")
    for group in dict.fromkeys(one.group for one in (*bars, *figures)):
        rows = [one for one in (*bars, *figures) if one.group == group]
        parts.append(f"<h2>{html.escape(group)}</h2><table>")
        largest: dict[str, float] = {}
        for one in rows:
            largest[one.unit] = max(largest.get(one.unit, 0.0), one.value)
        for one in rows:
            share = 100 * one.value / largest[one.unit] if largest[one.unit] > 0 else 0.0
            value = f"{one.value:,.3f}" if abs(one.value) < 10 else f"{one.value:,.1f}"
            parts.append(
                f"<tr><td>{html.escape(one.name)} <small>{html.escape(one.note)}</small>"
                f"<td class=n>{value} {html.escape(one.unit)}<td class=b><i style='width:{max(share, 0):.1f}%'></i>"
            )
        parts.append("</table>")
    return "\n".join(parts) + "\n"
