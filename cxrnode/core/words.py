"""The words that tell body region and view in free text, in the languages of the sites. Pure; decides nothing.

Text is matched as whole words, without case, accents and punctuation. A site adds its own words in the
configuration; no word here was ever fitted to a file.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Self

from cxrnode.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WordList:
    """Words that tell region and view in free text. Case, accents and punctuation do not count.

    Each is matched as whole words ("a p" matches "A.P."); words of scripts that leave no spaces are matched anywhere.
    """

    chest: tuple[str, ...] = (
        *("chest", "cxr", "thorax", "lung", "lungs", "ribcage", "heart and lungs", "mediastinum", "chestabdomen"),
        *("chestabdpelvis", "neckchest", "thoraxaufnahme", "thoraxubersicht", "rontgenthorax", "lunge", "lungen"),
        *("lungenaufnahme", "brustkorb", "poumon", "poumons", "cage thoracique", "pulmonaire", "torax", "pulmon"),
        *("pulmones", "torace", "polmoni", "polmone", "pulmao", "pulmoes", "thoraxfoto", "borstkas", "longen"),
        *("brost", "lungor", "lungrontgen", "keuhkot", "klatka piersiowa", "klatki piersiowej", "hrudnik", "plice"),
        *("gogus", "akciger", "грудная клетка", "грудной клетки", "огк", "легкие", "легких", "胸部", "胸片", "肺"),
        *("흉부", "ทรวงอก"),
    )
    other_regions: tuple[str, ...] = (
        *("abdomen", "abdomenpelvis", "abdominal", "adrenal", "ankle", "arm", "axilla", "bladder", "brain"),
        *("breast", "buttock", "calcaneus", "calf", "carotid", "cspine", "ctspine", "cheek", "clavicle", "coccyx"),
        *("colon", "ear", "elbow", "extremity", "eye", "facial", "femur", "finger", "fingers", "foot", "forearm"),
        *("gallbladder", "hand", "hands", "head", "headneck", "hip", "hips", "humerus", "iac", "jaw", "kidney"),
        *("knee", "knees", "leg", "legs", "liver", "lspine", "lsspine", "mandible", "maxilla", "mouth", "neck"),
        *("nose", "orbit", "patella", "pelvis", "rib", "ribs", "sacrum", "scapula", "shoulder", "sinus", "sinuses"),
        *("skull", "spine", "sspine", "sternum", "stomach", "thigh", "thumb", "tibia", "fibula", "tlspine", "tmj"),
        *("toe", "toes", "tspine", "wholebody", "whole body", "wrist", "zygoma", "chestabdomen", "chestabdpelvis"),
        *("neckchest", "kub", "babygram", "bowel", "hip joint", "lumbar", "cervical", "c spine", "t spine"),
        *("l spine", "scoliosis", "teeth", "tooth", "dental", "panoramic", "opg", "mammo", "mammography"),
        *("long leg", "bone age", "becken", "bauch", "hufte", "knie"),
        *("fuss", "schulter", "ellenbogen", "handgelenk", "sprunggelenk", "schadel", "wirbelsaule", "hws", "bws"),
        *("lws", "rippen", "zahn", "zahne", "oberschenkel", "unterschenkel", "oberarm", "unterarm", "bassin"),
        *("hanche", "genou", "pied", "epaule", "coude", "poignet", "cheville", "crane", "rachis", "cotes"),
        *("main droite", "main gauche", "dents", "cadera", "rodilla", "hombro", "codo", "muneca", "tobillo"),
        *("craneo", "columna", "costillas", "mano", "manos", "dientes", "bacino", "anca", "ginocchio", "piede"),
        *("spalla", "gomito", "polso", "caviglia", "cranio", "colonna", "addome", "coste", "denti", "abdome"),
        *("bacia", "quadril", "joelho", "ombro", "cotovelo", "punho", "tornozelo", "coluna", "costelas", "dentes"),
        *("buik", "bekken", "heup", "voet", "schouder", "elleboog", "pols", "enkel", "schedel", "wervelkolom"),
        *("ribben", "tanden", "живот", "брюшной полости", "таз", "череп", "кисть", "стопа", "позвоночник", "ребра"),
        *("腹部", "骨盤", "骨盆", "頭部", "头颅", "頸椎", "颈椎", "胸椎", "腰椎", "脊椎", "脊柱", "股関節", "髋"),
        *("膝", "肩", "肘", "手関節", "手部", "足関節", "足部", "肋骨", "歯", "牙", "복부", "골반", "척추", "무릎"),
    )
    pa: tuple[str, ...] = (
        *("pa", "p a", "postero anterior", "posteroanterior", "posterior anterior", "dorsoventral"),
        *("dorso ventral", "postero anterieur", "posteroanterieur", "postero anteriore", "posteroanteriore"),
        *("後前", "后前", "후전"),
    )
    ap: tuple[str, ...] = (
        *("ap", "a p", "antero posterior", "anteroposterior", "anterior posterior", "ventrodorsal"),
        *("ventro dorsal", "antero posterieur", "anteroposterieur", "antero posteriore", "anteroposteriore"),
        *("前後", "前后", "전후"),
    )
    frontal: tuple[str, ...] = (
        *("frontal", "de face", "face", "frente", "frontale", "voorachterwaarts", "прямая", "正面", "正位", "정면"),
    )
    lateral: tuple[str, ...] = (
        *("lateral", "lat", "laterals", "ll", "rl", "l lat", "r lat", "side view", "seitlich", "seitl", "profil"),
        *("laterale", "lateraal", "dwars", "perfil", "latero lateral", "laterolateral", "laterolaterale"),
        *("sidobild", "боковая", "側面", "侧位", "側位", "측면"),
    )
    oblique: tuple[str, ...] = (
        *("oblique", "obl", "obliques", "rao", "lao", "rpo", "lpo", "schrag", "oblicua", "obliqua", "obliquo"),
        *("oblikuos", "schuin", "斜位", "第1斜位", "第2斜位", "lordotic", "lordotisch", "lordotique", "lordotica"),
        *("apical", "apikal"),
    )
    decubitus: tuple[str, ...] = (
        *("decubitus", "decub", "lld", "rld", "dekubitus", "seitenlage", "decubito lateral", "側臥位", "侧卧位"),
        *("cross table", "crosstable", "xtable"),
    )
    processed: tuple[str, ...] = (
        *("bone suppressed", "bone suppression", "soft tissue", "bone image", "rib suppressed", "dual energy"),
        *("subtraction", "subtracted", "tomosynthesis", "cad", "companion", "enhanced view"),
    )

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Iterable[str]]) -> Self:
        """Return the default list with the given fields replaced. Raises ConfigError for a field it does not have."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in raw:
            if key not in known:
                raise ConfigError(f"words.{key} is not a list of words; there are {', '.join(known)}")
        return cls(**{key: (words,) if isinstance(words, str) else tuple(words) for key, words in raw.items()})

    def extended(self, **more: Iterable[str]) -> Self:
        """Return this list with words added to its fields."""
        return dataclasses.replace(self, **{key: (*getattr(self, key), *words) for key, words in more.items()})


@functools.lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Return text as lower-case words with one space between and around them, without accents and punctuation."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
    spaced = re.sub(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " ", re.sub(r"[\W_]+", " ", bare))
    return f" {spaced.strip()} "


@functools.lru_cache(maxsize=256)
def _needles(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words as they are sought in `plain` text; those of unspaced scripts without their borders."""
    found = (plain(word) for word in words)
    return tuple(w.strip() if any(ord(c) >= 0x0E00 for c in w) else w for w in found if w.strip())


def mentions(text: str, words: tuple[str, ...]) -> bool:
    """Whether one of the words stands in the text."""
    if not text:
        return False
    hay = plain(text)
    return any(needle in hay for needle in _needles(words))


#: Used where the site names no words of its own.
DEFAULT_WORDS = WordList()
