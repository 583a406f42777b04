"""A contact sheet: films and their heatmaps beside the findings, as one HTML page and one PNG. No patient's name.

The page stands alone (pictures inside, nothing fetched, no script but the one that enlarges a picture) and says at
its top, on both media, what it is: the banner is never left out. It renders what it is given and decides nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import textwrap
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cxrnode.core.findings import Decision, Finding, Scale

#: Longest side of a picture in the page, in pixels.
_PICTURE = 1100
#: Word, sign and colour (on the sheet's dark ground, at least 4.5:1, WCAG 2.2 1.4.3) of each decision.
DECISIONS = {
    Decision.PRESENT: ("Present", "●", "#ffb454"),
    Decision.UNDETERMINED: ("Undetermined", "◐", "#8ecbff"),
    Decision.ABSENT: ("Absent", "○", "#c3cad3"),
    Decision.NOT_ASSESSED: ("Not assessed", "–", "#a9b2bd"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SheetPicture:
    """A picture and its caption: uint8 (H, W) or (H, W, 3), 0 = black, row 0 = top, or the path of an image file."""

    caption: str
    source: npt.NDArray[np.uint8] | Path

    def image(self, longest: int) -> Image.Image:
        """The picture in RGB, shrunk to `longest` pixels. Raises OSError where its file is missing or no image."""
        if isinstance(self.source, Path):
            with Image.open(self.source) as opened:
                picture = opened.convert("RGB")
        else:
            picture = Image.fromarray(self.source).convert("RGB")
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        return picture


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """One finding as it stands in the table."""

    label: str
    score: str
    thresholds: str
    decision: Decision

    @classmethod
    def of(cls, finding: Finding, scale: Scale) -> Self:
        """The row of a finding: per cent only where the score is a probability."""
        percent = scale is Scale.PROBABILITY
        limits = finding.thresholds
        return cls(
            label=finding.title,
            score=f"{100 * finding.score:.1f} %" if percent else f"{finding.score:.3f}",
            thresholds=f"{limits.rule_out:.3f} / {limits.rule_in:.3f}" if limits else "none",
            decision=finding.decision,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SheetFilm:
    """One film: its title, pictures, findings in the order to show, and facts as (name, value).

    `verdict` is the sentence under the title ("analysed", or why not); `scale` heads the column of scores.
    """

    title: str
    verdict: str = ""
    pictures: tuple[SheetPicture, ...] = ()
    rows: tuple[SheetRow, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    scale: Scale = Scale.SCORE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What is written: a title, the banner that must stand at the top, the films, and facts about the whole run."""

    title: str
    banner: str
    films: tuple[SheetFilm, ...]
    facts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.banner.strip():
            raise ValueError("a contact sheet has a banner that says what it is")


# --- HTML -----------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: dark; --ground: #0f1317; --card: #181e24; --line: #36414c; --text: #e8edf2; --quiet: #b4bec9 }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--text); font: 1rem/1.5 system-ui, sans-serif }
header, main, footer { max-width: 100rem; margin: 0 auto; padding: 1rem clamp(1rem, 3vw, 2.5rem) }
h1 { font-size: 1.6rem; margin: .25rem 0 .75rem } h2 { font-size: 1.2rem; margin: 0 } p { margin: .25rem 0 }
.skip { position: absolute; left: -99rem }
.skip:focus { left: 1rem; top: 1rem; background: var(--text); color: #000; padding: .5rem 1rem; z-index: 2 }
.banner { background: #ffcf4d; color: #1b1400; font-weight: 700; padding: .6rem clamp(1rem, 3vw, 2.5rem);
  position: sticky; top: 0; text-align: center; z-index: 1 }
nav ul { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; list-style: none; padding: 0; margin: 0 }
a { color: #9bd0ff }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1.1rem;
  margin: 0 0 1.25rem; display: grid; gap: 1rem 1.5rem; grid-template-columns: minmax(0, 1fr); scroll-margin-top: 4rem }
@media (min-width: 64rem) { article { grid-template-columns: minmax(0, 5fr) minmax(24rem, 3fr) }
  .top { grid-column: 1 / -1 } }
.pictures { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr));
  align-content: start }
figure { margin: 0 } figcaption { color: var(--quiet); font-size: .9rem; padding-top: .3rem }
button.open { all: unset; display: block; cursor: zoom-in; background: #000; border-radius: .3rem; width: 100% }
button.open img { display: block; width: 100%; height: auto; border-radius: .3rem }
:focus-visible { outline: 3px solid #ffcf4d !important; outline-offset: 3px }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
caption { text-align: left; color: var(--quiet); padding-bottom: .3rem }
th, td { text-align: left; padding: .22rem .6rem .22rem 0; border-bottom: 1px solid var(--line); white-space: nowrap }
thead th { color: var(--quiet); font-weight: 600 } th[scope=row] { font-weight: 500 } td.number { text-align: right }
dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem 1rem; margin: .9rem 0 0 } dt { color: var(--quiet) }
dd { margin: 0; overflow-wrap: anywhere }
dialog { border: 0; padding: 0; background: #000; color: var(--text); max-width: 96vw; max-height: 96vh }
dialog::backdrop { background: rgb(0 0 0 / .85) }
dialog img { display: block; max-width: 96vw; max-height: 84vh; margin: auto }
dialog p { padding: .4rem 1rem } dialog button { margin: .3rem 1rem .7rem; font: inherit; padding: .3rem 1rem }
@media (max-width: 34rem) { th, td { white-space: normal; padding-right: .4rem } }
@media print { .banner { position: static } article { break-inside: avoid } }
"""

_SCRIPT = """
const box = document.querySelector('dialog'), all = [...document.querySelectorAll('button.open')]; let at = 0;
const show = i => { at = (i + all.length) % all.length; const p = all[at].querySelector('img');
  const big = box.querySelector('img'); big.src = p.src; big.alt = p.alt; box.querySelector('p').textContent = p.alt;
  if (!box.open) box.showModal(); };
all.forEach((b, i) => b.addEventListener('click', () => show(i)));
box.querySelector('button').addEventListener('click', () => box.close());
box.addEventListener('close', () => all[at].focus());
box.addEventListener('keydown', e => { if (e.key === 'ArrowRight') show(at + 1);
  if (e.key === 'ArrowLeft') show(at - 1); });
"""


def write_html(sheet: Sheet, path: Path) -> None:
    """Write the sheet as one page that stands alone. Raises OSError where a picture or the path is not to be had."""
    titles = "".join(f'<li><a href="#film-{n}">{_e(film.title)}</a></li>' for n, film in enumerate(sheet.films, 1))
    films = "".join(_film(number, film) for number, film in enumerate(sheet.films, 1))
    path.write_text(
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{_e(sheet.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body>"
        '<a class="skip" href="#films">Skip to the films</a>'
        f'<div class="banner" role="note">{_e(sheet.banner)}</div>'
        f"<header><h1>{_e(sheet.title)}</h1>"
        f'<nav aria-label="Films"><ul>{titles}</ul></nav>{_facts(sheet.facts)}</header>'
        f'<main id="films" tabindex="-1">{films}</main>'
        f"<footer><p>{_e(sheet.banner)}</p></footer>"
        '<dialog aria-label="Enlarged picture"><img src="data:," alt=""><p></p>'
        '<button type="button">Close</button></dialog>'
        f"<script>{_SCRIPT}</script></body></html>\n",
        encoding="utf-8",
    )


def _film(number: int, film: SheetFilm) -> str:
    pictures = "".join(_figure(film.title, picture) for picture in film.pictures)
    verdict = f"<p>{_e(film.verdict)}</p>" if film.verdict else ""
    return (
        f'<article id="film-{number}" aria-labelledby="title-{number}">'
        f'<div class="top"><h2 id="title-{number}">{_e(film.title)}</h2>{verdict}</div>'
        f'<div class="pictures">{pictures}</div><div>{_table(film)}{_facts(film.facts)}</div></article>'
    )


def _figure(title: str, picture: SheetPicture) -> str:
    image, stream = picture.image(_PICTURE), io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    coded = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<figure><button type="button" class="open"><img src="data:image/jpeg;base64,{coded}" '
        f'width="{image.width}" height="{image.height}" alt="{_e(title)}: {_e(picture.caption)}"></button>'
        f"<figcaption>{_e(picture.caption)}</figcaption></figure>"
    )


def _table(film: SheetFilm) -> str:
    if not film.rows:
        return "<p>No findings are given for this film.</p>"
    body = []
    for row in film.rows:
        word, sign, colour = DECISIONS[row.decision]
        body.append(
            f'<tr><th scope="row">{_e(row.label)}</th><td class="number">{_e(row.score)}</td>'
            f'<td class="number">{_e(row.thresholds)}</td>'
            f'<td style="color: {colour}"><span aria-hidden="true">{sign}</span> {word}</td></tr>'
        )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Findings of {_e(film.title)}">'
        '<table><caption>Findings</caption><thead><tr><th scope="col">Finding</th>'
        f'<th scope="col">{film.scale.value.title()}</th><th scope="col">Rule out / in</th>'
        f'<th scope="col">Decision</th></tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def _facts(facts: tuple[tuple[str, str], ...]) -> str:
    rows = "".join(f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in facts)
    return f"<dl>{rows}</dl>" if rows else ""


def _e(text: str) -> str:
    return html.escape(text, quote=True)


# --- PNG ------------------------------------------------------------------------------------------------------------

_WIDTH, _EDGE, _TABLE, _LINE = 1920, 32, 620, 24
_GROUND, _CARD, _TEXT, _QUIET, _ALARM = "#0f1317", "#181e24", "#e8edf2", "#b4bec9", "#ffcf4d"


def write_png(sheet: Sheet, path: Path) -> None:
    """Write the sheet as one picture, 1920 pixels wide. Raises OSError where a picture or the path is not to be had."""
    cards = [_card(film) for film in sheet.films]
    banner = textwrap.wrap(sheet.banner, 120)
    top = 28 * len(banner) + 24 + 64 + _LINE * len(sheet.facts) + 16
    picture = Image.new("RGB", (_WIDTH, top + sum(card.height + 20 for card in cards) + 12), _GROUND)
    brush = ImageDraw.Draw(picture)
    brush.rectangle((0, 0, _WIDTH, 28 * len(banner) + 16), fill=_ALARM)
    for number, line in enumerate(banner):
        brush.text((_WIDTH / 2, 12 + 28 * number), line, fill="#1b1400", font=_font(22), anchor="ma")
    y = 28 * len(banner) + 32
    brush.text((_EDGE, y), sheet.title, fill=_TEXT, font=_font(30))
    for number, (name, value) in enumerate(sheet.facts):
        brush.text((_EDGE, y + 46 + _LINE * number), f"{name}: {value}", fill=_QUIET, font=_font(17))
    y = top
    for card in cards:
        picture.paste(card, (_EDGE, y))
        y += card.height + 20
    picture.save(path)


def _card(film: SheetFilm) -> Image.Image:
    width = _WIDTH - 2 * _EDGE
    across = min(max(len(film.pictures), 3), 4)
    thumb = (width - _TABLE - 20) // across - 16
    captions = [textwrap.wrap(picture.caption, thumb // 8)[:3] for picture in film.pictures]
    thumbs = [picture.image(thumb) for picture in film.pictures]
    tiers = [range(k, min(k + across, len(thumbs))) for k in range(0, len(thumbs), across)]
    heights = [max(thumbs[k].height + 8 + 20 * len(captions[k]) for k in tier) + 16 for tier in tiers]
    facts = [line for name, value in film.facts for line in textwrap.wrap(f"{name}: {value}", 66)]
    lines = (len(film.rows) + 1 if film.rows else 1) + len(facts)
    card = Image.new("RGB", (width, 84 + max(sum(heights), _LINE * lines + 20)), _CARD)
    brush = ImageDraw.Draw(card)
    brush.text((20, 14), film.title, fill=_TEXT, font=_font(24))
    brush.text((20, 46), film.verdict, fill=_QUIET, font=_font(18))
    y = 84
    for tier, height in zip(tiers, heights, strict=True):
        for place, k in enumerate(tier):
            x = 20 + place * (thumb + 16)
            card.paste(thumbs[k], (x, y))
            for number, line in enumerate(captions[k]):
                brush.text((x, y + thumbs[k].height + 6 + 20 * number), line, fill=_QUIET, font=_font(15))
        y += height
    _png_table(brush, film, facts, width - _TABLE)
    return card


def _png_table(brush: ImageDraw.ImageDraw, film: SheetFilm, facts: list[str], x: int) -> None:
    y, font = 84, _font(17)
    if not film.rows:
        brush.text((x, y), "No findings are given for this film.", fill=_TEXT, font=font)
        y += _LINE
    else:
        header = (
            ("Finding", 0, "la"),
            (film.scale.value.title(), 270, "ra"),
            ("Rule out / in", 410, "ra"),
            ("Decision", 440, "la"),
        )
        for text, offset, anchor in header:
            brush.text((x + offset, y), text, fill=_QUIET, font=font, anchor=anchor)
    for row in film.rows:
        y += _LINE
        word, _, colour = DECISIONS[row.decision]
        brush.text((x, y), row.label, fill=_TEXT, font=font)
        brush.text((x + 270, y), row.score, fill=_TEXT, font=font, anchor="ra")
        brush.text((x + 410, y), row.thresholds, fill=_TEXT, font=font, anchor="ra")
        brush.text((x + 440, y), word, fill=colour, font=font)
    y += _LINE + 10 if film.rows else 10
    for line in facts:
        brush.text((x, y), line, fill=_QUIET, font=_font(16))
        y += _LINE


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
