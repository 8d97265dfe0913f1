"""How it was made: everything one needs to know to make it again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgeprune.report import formats
from edgeprune.report.document import Document, Documents

Fact = tuple[str, str]
WORDS: Final = {
    "in_chans": "input channels",
    "lr": "learning rate",
    "num_classes": "classes",
    "val": "validation",
}


@dataclass(frozen=True, kw_only=True)
class Making:
    """The eighth section: titled lists of facts."""

    facts: tuple[tuple[str, tuple[Fact, ...]], ...]
    preprocessing: tuple[Fact, ...]
    scored: str
    notes: tuple[str, ...]


def making(documents: Documents) -> Making:
    """Collect settings, data, preprocessing and versions."""
    bundle = documents.bundle
    made = (
        ("Model", tuple(_flat(bundle.at("source")))),
        ("Data", tuple(_data(bundle.at("data")))),
        ("Target", tuple(_flat(bundle.at("target")))),
        ("Settings", tuple(_flat(bundle.at("settings")))),
        ("Training the dense model", tuple(_flat(bundle.at("training", "settings")))),
        ("Recovery", tuple(_flat(bundle.at("recovery", "settings")))),
        ("Versions", tuple(_versions(documents))),
    )
    samples = documents.plan.each("made_from", "samples")
    return Making(
        facts=tuple((title, facts) for title, facts in made if facts),
        preprocessing=tuple(
            (_words(step.text("op") or "step"), ", ".join(f"{k} {v}" for k, v in _flat(step, "op")))
            for step in bundle.each("preprocessing", "steps")
        ),
        scored=formats.count(len(samples)) if samples else "",
        notes=(*bundle.texts("data", "notes"), *bundle.texts("training", "notes")),
    )


def _data(data: Document) -> Iterator[Fact]:
    if name := data.text("name"):
        yield "name", name
    classes = data.texts("classes")
    if classes:
        kind = "findings, several per image" if data.flag("multi_label") else "one per image"
        yield f"{len(classes)} classes ({kind})", ", ".join(classes)
    for split, number in data.items("splits"):
        yield f"{_words(split)} images", formats.count(number.number())


def _versions(documents: Documents) -> Iterator[Fact]:
    if version := documents.bundle.text("edgeprune"):
        yield "edgeprune", version
    machine = documents.record.at("comparison", "machine")
    if python := machine.text("python"):
        yield "python", python
    yield from _flat(machine.at("versions"))


def _flat(document: Document, *leave: str, before: str = "") -> Iterator[Fact]:
    """Yield every value under an object, its keys joined; empty ones are left out."""
    for key, value in document.items():
        name = f"{before} {_words(key)}".strip()
        if key in leave or value.value is None:
            continue
        nested = list(value.items())
        if nested:
            yield from _flat(value, before=name)
        elif text := _value(value, " × " if key == "size" else ", "):
            yield name, text


def _value(document: Document, between: str) -> str:
    match document.value:
        case bool() as truth:
            return "yes" if truth else "no"
        case int() | float() as number:
            return formats.count(number) if number == int(number) else f"{number:.6g}"
        case str() as text:
            return text
        case list():
            return between.join(filter(None, (_value(each, between) for each in document.each())))
        case _:
            return ""


def _words(key: str) -> str:
    return WORDS.get(key, key.replace("_", " "))
