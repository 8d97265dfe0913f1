"""Look for a faulty layer in an int8 artifact whose logits do not tell of one.

A trained classifier forgives much: in int8, the weights of a late layer in
another order may move its logits no more than rounding does. Within, they do not
pass: of the trained models measured no value had a noise above 0.18, and rounding
adds up slowly, while the output of a layer with swapped channels had 0.9 to 5.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from edgeprune_exporters.deviation import Inspectable
from edgeprune_exporters.distances import Array, noise
from edgeprune_exporters.model import Exportable
from edgeprune_exporters.probes import Probe, open_probe

AT_ONCE: Final = 32  # values in memory
WRONG: Final = 0.75  # noise of a value
RIGHT: Final = 0.25  # noise of all that it is computed from


def faulty_layer(path: Path, model: Exportable, images: Array) -> str | None:
    """Say which layer turns right values into wrong ones, or None where none does.

    Args:
        path: the artifact.
        model: what it was made from; one that cannot name its values tells of no fault.
        images: more than one, (N, C, H, W); noise is measured between them.
    """
    if not isinstance(model, Inspectable):
        return None
    probe = open_probe(path)
    found = noises(probe, model, images)
    before: dict[str, float] = {}
    for name, value in probe.values.items():
        before[name] = max((found.get(s, before.get(s, 0.0)) for s in value.inputs), default=0.0)
        if found.get(name, 0.0) > WRONG and before[name] < RIGHT:
            place = model.place(name, frozenset(found))
            where = f", in {place}" if place else ""
            return (
                f"a layer is wrong: '{name}' ({value.operator}{where}) is off by "
                f"{found[name]:.1e} of what images change there, and what it is computed from "
                f"by {before[name]:.1e}"
            )
    return None


def noises(probe: Probe, model: Exportable, images: Array) -> Mapping[str, float]:
    """Return the noise of every value that both have and that differs from image to image."""
    names = iter(probe.values)
    if isinstance(model, Inspectable):
        names = (name for name in probe.values if name in model.value_names)
    found = {}
    while chunk := list(islice(names, AT_ONCE)):
        wanted = model.values(images, chunk)
        for name, actual in probe.read(images, list(wanted)).items():
            if actual.shape == wanted[name].shape:
                measured = noise(actual.astype(np.float32), wanted[name])
                if measured is not None:
                    found[name] = measured
    return found
