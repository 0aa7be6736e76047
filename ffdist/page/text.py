"""Numbers and users' names as written on a page."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

from ffdist.options import text_of

NONE = "-"
"""The text where there is no number."""
MIB = 2**20


def number(value: Any) -> float | None:
    """A finite number, or None: a loss may be none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def percent(value: Any) -> str:
    """A fraction as per cent."""
    known = number(value)
    return NONE if known is None else f"{known:.2%}".replace("%", "\N{NO-BREAK SPACE}%")


def count(value: Any) -> str:
    """A whole number, or one of which the whole part is enough."""
    known = number(value)
    return NONE if known is None else f"{known:,.0f}"


def loss(value: Any) -> str:
    """A number with four digits."""
    known = number(value)
    return NONE if known is None else f"{known:.4g}"


def mebibytes(value: Any) -> str:
    """Bytes as MiB."""
    known = number(value)
    if known is None:
        return NONE
    return (
        f"{known / MIB:,.0f}\N{NO-BREAK SPACE}MiB" if known >= 10 * MIB else f"{known / MIB:.1f}\N{NO-BREAK SPACE}MiB"
    )


def duration(value: Any) -> str:
    """Seconds, in the units that people use."""
    known = number(value)
    if known is None:
        return NONE
    if known < 60:
        return f"{known:.1f} s"
    whole = round(known)
    hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def moment(seconds: float | None) -> str:
    """A time of the clock, with its zone."""
    return NONE if seconds is None else datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def visible(text: object) -> str:
    """A user's name, with what no page may hold, or what turns the text after it around, as escapes."""
    return "".join(c if is_visible(c) else f"\\u{ord(c):04x}" for c in str(text))


def is_visible(letter: str) -> bool:
    """True if a letter is no control, format or unassigned code point; joiners within words are visible."""
    return unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Cn") or letter in "\u200c\u200d"


def named(text: object) -> Markup:
    """A user's name as an element of its own: in whatever direction its letters run, the others' stays."""
    return Markup("<bdi>{}</bdi>").format(visible(text))


def setting_text(value: Any) -> str:
    """A setting's value."""
    if isinstance(value, (tuple, list)):
        return " ".join(map(text_of, value)) or "none"
    return "none" if value is None else text_of(value)


def evenly(values: Sequence[Any], limit: int) -> list[Any]:
    """Values at equal distances, at most so many, the first and the last among them."""
    if len(values) <= limit:
        return list(values)
    return [values[round(i * (len(values) - 1) / (limit - 1))] for i in range(limit)]


def escaped(text: object) -> str:
    """Text escaped for inside an element or an attribute."""
    return str(escape(visible(text)))
