"""Numbers as people read them: grouped, with units, with the digits that matter.

Every function takes None for what was not measured, and says so.
"""

from typing import Final

ABSENT: Final = "not measured"
THIN: Final = "\u202f"  # between groups of digits, and before a unit: it never breaks
MINUS: Final = "\u2212"
SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
PREFIXES: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float | None) -> str:
    """Write an integer in groups of three digits."""
    return ABSENT if value is None else _signed(f"{round(value):,}").replace(",", THIN)


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share as per cent."""
    return ABSENT if share is None else f"{_signed(f'{100 * share:.{digits}f}')}{THIN}%"


def score(value: float | None) -> str:
    """Write an AUROC or a correlation."""
    return ABSENT if value is None else _signed(f"{value:.3f}")


def change(value: float | None, digits: int = 3) -> str:
    """Write a difference with its sign."""
    if value is None:
        return ABSENT
    text = f"{value:+.{digits}f}"
    return _signed(text if float(text) else text[1:])


def points(share: float | None) -> str:
    """Write a difference of shares in percentage points."""
    return ABSENT if share is None else f"{change(100 * share, 1)}{THIN}points"


def quantity(value: float | None, unit: str = "") -> str:
    """Write a large number in three digits, as in 1.82 GMAC."""
    if value is None:
        return ABSENT
    rounded = abs(float(f"{value:.2e}"))  # 999,600 is 1.00 M, not 1,000 k
    scale, prefix = next(((s, p) for s, p in PREFIXES if rounded >= s), (1.0, ""))
    return f"{significant(value / scale)}{THIN}{prefix}{unit}".rstrip(THIN)


def size(value: float | None) -> str:
    """Write bytes in kB, MB or GB (powers of ten)."""
    return quantity(value, "B")


def milliseconds(value: float | None) -> str:
    """Write a time of inference."""
    return ABSENT if value is None else f"{significant(value)}{THIN}ms"


def joules(value: float | None) -> str:
    """Write the energy of an inference, as 420 mJ."""
    if value is None:
        return ABSENT
    unit, scale = ("J", 1.0) if abs(value) >= 1 else ("mJ", 1e3)
    return f"{significant(value * scale)}{THIN}{unit}"


def megabytes(value: float | None) -> str:
    """Write a size that is given in units of 10⁶ bytes."""
    return ABSENT if value is None else size(value * 1e6)


def power(value: float | None) -> str:
    """Write a small number as 3.1 × 10⁻⁷."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    digits, exponent = f"{value:.1e}".split("e")
    digits = digits.removesuffix(".0")
    exponent = str(int(exponent)).translate(SUPERSCRIPT)
    return f"10{exponent}" if digits == "1" else f"{digits}{THIN}×{THIN}10{exponent}"


def times(ratio: float | None, digits: int | None = None) -> str:
    """Write a ratio as 1.8×."""
    if ratio is None:
        return ABSENT
    return f"{ratio:.{(1 if ratio >= 1.5 else 2) if digits is None else digits}f}×"


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many digits that matter, its integer part whole."""
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])
    return _signed(f"{value:,.{max(digits - 1 - exponent, 0)}f}").replace(",", THIN)


def small(value: float | None) -> str:
    """Write a number that may be tiny, as the score of a unit."""
    return power(value) if value is None or abs(value) < 1e-3 else significant(value)


def _signed(text: str) -> str:
    return text.replace("-", MINUS)
