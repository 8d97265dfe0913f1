"""What values of options look like, beyond numbers and words.

Functions, not classes of click's: those are generic in its newer versions only.
"""

import click


def alignment(value: object) -> int:
    """Read a multiple of widths, or ``off`` for 1."""
    if value == "off":
        return 1
    try:
        return int(str(value))
    except ValueError:
        raise click.BadParameter(f"'{value}' is neither a whole number nor 'off'.") from None


def pattern_share(value: object) -> tuple[str, float]:
    """Read a pattern of names with a share, as in ``layer4.*=0.5``."""
    if isinstance(value, tuple):  # click converts defaults again
        return value
    pattern, _, share = str(value).rpartition("=")
    try:
        number = float(share)
    except ValueError:
        pattern, number = "", 0.0
    if not pattern:
        raise click.BadParameter(f"'{value}' is no pattern with a share, as 'layer4.*=0.5'.")
    return pattern, number


def names(value: object) -> tuple[str, ...]:
    """Read names with commas between them."""
    if isinstance(value, tuple):
        return value
    return tuple(name.strip() for name in str(value).split(",") if name.strip())
