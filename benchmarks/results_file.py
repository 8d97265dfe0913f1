"""``RESULTS.md``: each benchmark owns the section between its two marks."""

from pathlib import Path
from typing import Final

from edgeprune.files import write_text

RESULTS: Final = Path(__file__).parent / "RESULTS.md"


def marks(name: str) -> tuple[str, str]:
    """Return the comments that enclose the section of ``benchmarks/NAME.py``."""
    return f"<!-- {name}: written by benchmarks/{name}.py -->", f"<!-- end of {name} -->"


def write_section(name: str, text: str, path: Path = RESULTS) -> None:
    """Put the section between its marks, or at the end where there are none yet."""
    old = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    begin, end = marks(name)
    before, found, rest = old.partition(begin)
    after = rest.partition(end)[2] if found else ""
    parts = (before, f"{begin}\n{text}\n{end}", after)
    write_text(path, "\n\n".join(part.strip() for part in parts if part.strip()) + "\n")
