"""The contact sheet: what it must say, what it must not fetch, and that hostile names stay text."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrnode.contact_sheet import (
    DECISIONS,
    Sheet,
    SheetFilm,
    SheetPicture,
    SheetRow,
    write_html,
    write_png,
)
from cxrnode.core.findings import Decision, Finding, Scale, Thresholds

BANNER = "Research software, not a medical device. DEMONSTRATION MODEL. Synthetic phantoms."
GREY = np.full((60, 50), 128, np.uint8)
RED = np.dstack([np.full((60, 50), v, np.uint8) for v in (255, 0, 0)])


def film(title: str = "PHANTOM^Effusion", **kwargs: object) -> SheetFilm:
    given: dict[str, object] = {
        "title": title,
        "verdict": "analysed",
        "pictures": (SheetPicture(caption="the film", source=GREY), SheetPicture(caption="Effusion", source=RED)),
        "rows": tuple(SheetRow(label=d.value, score="0.50", thresholds="0.20 / 0.60", decision=d) for d in Decision),
        "facts": (("Success to SR in archive", "0.84 s"),),
    }
    return SheetFilm(**(given | kwargs))  # type: ignore[arg-type]


def sheet(*films: SheetFilm) -> Sheet:
    return Sheet(title="A demonstration", banner=BANNER, films=films or (film(),), facts=(("Films", "1"),))


def page(written: Sheet, folder: Path) -> str:
    write_html(written, folder / "sheet.html")
    return (folder / "sheet.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects every start tag and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_every_picture_has_a_text(tmp_path: Path) -> None:
    tags = Tags()
    tags.feed(page(sheet(film(), film("Two")), tmp_path))
    assert tags.open == []
    texts = [attrs["alt"] for tag, attrs in tags.seen if tag == "img"]
    assert texts == ["PHANTOM^Effusion: the film", "PHANTOM^Effusion: Effusion", "Two: the film", "Two: Effusion", ""]


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    text = page(sheet(), tmp_path)
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)""", text) == []
    assert "http:" not in text.replace("http-equiv", "") and "https:" not in text
    assert "default-src 'none'" in text


def test_the_pictures_in_the_page_are_those_given(tmp_path: Path) -> None:
    coded = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page(sheet(), tmp_path))
    grey, red = (Image.open(io.BytesIO(base64.b64decode(c))) for c in coded)
    assert (grey.size, red.size) == ((50, 60), (50, 60))
    assert abs(np.asarray(grey).astype(int) - 128).max() < 4
    assert abs(np.asarray(red).astype(int) - (255, 0, 0)).max() < 4


def test_the_banner_stands_in_the_page_at_its_top(tmp_path: Path) -> None:
    text = page(sheet(), tmp_path)
    assert 0 < text.index(BANNER) < text.index("<h1>")


def test_a_sheet_without_a_banner_is_refused() -> None:
    with pytest.raises(ValueError, match="banner"):
        Sheet(title="x", banner=" ", films=())


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    text = page(sheet(film("<script>alert(1)</script>\"'>", verdict="<b>")), tmp_path)
    assert ("<script>alert" in text, "<b>" in text) == (False, False)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_every_decision_is_a_word_and_not_only_a_colour(tmp_path: Path) -> None:
    text = page(sheet(), tmp_path)
    for word, _, _ in DECISIONS.values():
        assert f"</span> {word}</td>" in text
    assert set(Decision) == set(DECISIONS)


def test_a_score_is_called_what_the_report_says(tmp_path: Path) -> None:
    assert '<th scope="col">Score</th>' in page(sheet(), tmp_path)
    assert '<th scope="col">Probability</th>' in page(sheet(film(scale=Scale.PROBABILITY)), tmp_path)


def test_a_row_shows_per_cent_only_for_a_probability() -> None:
    finding = Finding(
        label="Pleural_Thickening",
        index=12,
        score=0.314,
        decision=Decision.UNDETERMINED,
        thresholds=Thresholds(rule_out=0.2, rule_in=0.6),
    )
    assert SheetRow.of(finding, Scale.SCORE) == SheetRow(
        label="Pleural Thickening", score="0.314", thresholds="0.200 / 0.600", decision=Decision.UNDETERMINED
    )
    assert SheetRow.of(finding, Scale.PROBABILITY).score == "31.4 %"


def test_a_film_without_findings_says_so(tmp_path: Path) -> None:
    bare = film(rows=(), verdict="not analysed: the view is lateral")
    text = page(sheet(bare), tmp_path)
    assert "No findings are given for this film." in text
    assert "not analysed: the view is lateral" in text


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize(
    ("colour", "ground"),
    [(c, "#181e24") for _, _, c in DECISIONS.values()]
    + [("#b4bec9", "#181e24"), ("#e8edf2", "#0f1317"), ("#9bd0ff", "#0f1317"), ("#1b1400", "#ffcf4d")],
)
def test_text_stands_out_by_four_and_a_half_to_one(colour: str, ground: str, tmp_path: Path) -> None:
    assert colour in page(sheet(), tmp_path)
    light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_the_png_holds_every_picture_and_the_banner(count: int, tmp_path: Path) -> None:
    pictures = tuple(SheetPicture(caption=f"picture {n} " * 9, source=RED) for n in range(count))
    write_png(sheet(film(pictures=pictures), film(rows=())), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as opened:
        pixels = np.asarray(opened.convert("RGB"))
    # Pictures smaller than their place are not blown up: 60 x 50 pixels each, and two more are of the second film.
    reds = int((pixels == (255, 0, 0)).all(axis=2).sum())
    assert reds == (count + 1) * 60 * 50
    assert tuple(pixels[2, 2]) == (0xFF, 0xCF, 0x4D)


def test_pictures_may_be_files_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(RED).save(tmp_path / "red.png")
    good = film(pictures=(SheetPicture(caption="from a file", source=tmp_path / "red.png"),))
    assert "from a file" in page(sheet(good), tmp_path)
    with pytest.raises(FileNotFoundError):
        page(sheet(film(pictures=(SheetPicture(caption="gone", source=tmp_path / "none.png"),))), tmp_path)
