"""What an artifact says about itself, as texts that every format can store."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from edgeprune.capture import Captured
from edgeprune.data import Preprocessing
from edgeprune.errors import EdgepruneError, ModelError
from edgeprune.files import json_text


def artifact_metadata(
    *,
    classes: Sequence[str],
    multi_label: bool,
    preprocessing: Preprocessing | None,
    name: str,
    model: Captured | None = None,
) -> dict[str, str]:
    """Return labels, preprocessing, the model's name, and the hash of the plan it was cut by.

    classes: their names; none where they are not known. name: without any folder
    of this machine.
    """
    texts = {"edgeprune.source": name, "edgeprune.multi_label": json.dumps(multi_label)}
    if classes:
        texts["edgeprune.classes"] = json.dumps(list(classes))
    if preprocessing is not None:
        texts["edgeprune.preprocessing"] = json.dumps(preprocessing.to_dict())
    if model is not None and model.plan is not None:
        texts["edgeprune.plan_sha256"] = plan_sha256(model.plan)
    return texts


def plan_sha256(plan: Mapping[str, object]) -> str:
    """Return the SHA-256 of the ``plan.json`` that holds this plan."""
    return hashlib.sha256(json_text(plan).encode()).hexdigest()


def preprocessing_in(metadata: Mapping[str, str]) -> Preprocessing | None:
    """Return how images are prepared, if an artifact says so.

    Raises:
        ModelError: it says something that is no preprocessing.
    """
    text = metadata.get("edgeprune.preprocessing")
    if text is None:
        return None
    try:
        return Preprocessing.from_dict(json.loads(text))
    except (ValueError, TypeError, KeyError, EdgepruneError) as error:
        raise ModelError(
            f"the file's metadata 'edgeprune.preprocessing' cannot be read: {error}"
        ) from error
