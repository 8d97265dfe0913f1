"""Opening what is to be exported: a trained model wherever it lies, or an ONNX file."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from edgeprune.capture import Captured
from edgeprune.data import ImageData, Preprocessing, preprocessing_from_timm
from edgeprune.errors import DataError, ModelError, UsageError
from edgeprune.pipeline.artifact_metadata import artifact_metadata, preprocessing_in
from edgeprune.pipeline.export_images import PARITY_IMAGES, export_images
from edgeprune.pipeline.export_settings import ExportSettings
from edgeprune.pipeline.inputs import load_images
from edgeprune.pipeline.opening import open_subject
from edgeprune.pipeline.settings import CompressSettings
from edgeprune.progress import Reporter
from edgeprune.source import DEFAULT_CONFIG
from edgeprune_exporters import Exportable, Images, TorchModel
from edgeprune_exporters.onnx_model import OnnxModel, open_onnx

GREY: Final = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """A model, the images to export it with, and what its files say about themselves.

    Attributes:
        model: as exporters take it.
        captured: the model as a graph; None for an ONNX file.
        name: what to call it, without any folder of this machine.
        images: by purpose.
        metadata: texts for the files.
        notes: what a user should know, one sentence each.
    """

    model: Exportable
    captured: Captured | None
    name: str
    images: Images
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()


def open_material(settings: ExportSettings, reporter: Reporter, *, real: bool) -> Material:
    """Open the model and choose the images.

    real: whether a precision is wanted that is decided on images, so that noise
    would not do.

    Raises:
        UsageError: no images where they are needed, or options that do not fit.
        ExportError: an ONNX file that cannot be used.
        ModelError, DataError, BundleError: as ``open_subject`` raises them.
    """
    if settings.subject.model.lower().endswith(".onnx"):
        return _onnx(settings, reporter, real=real)
    return _captured(settings, reporter, real=real)


def _captured(settings: ExportSettings, reporter: Reporter, *, real: bool) -> Material:
    subject, folder = settings.subject, Path(settings.subject.model)
    if (folder / "bundle.json").is_file():
        subject = replace(subject, model=str(folder / "model"))
    opened = open_subject(subject, reporter, per_class=1, needs_images=False)
    how = opened.preprocessing
    notes: tuple[str, ...] = opened.dense.notes
    if opened.data is None:
        images, note = _without_data(opened.bundle, opened.dense, settings, real=real)
        notes = (*notes, note)
    else:
        images = export_images(
            opened.data,
            how,
            seed=opened.seed,
            calibration=settings.calibration,
            sampler=settings.sampler,
            model=opened.dense,
        )
    return Material(
        model=TorchModel(opened.dense),
        captured=opened.dense,
        name=opened.name,
        images=images,
        metadata=artifact_metadata(
            classes=opened.classes,
            multi_label=opened.data is not None and opened.data.multi_label,
            preprocessing=how,
            name=opened.name,
            model=opened.dense,
        ),
        notes=notes,
    )


def _onnx(settings: ExportSettings, reporter: Reporter, *, real: bool) -> Material:
    path = Path(settings.subject.model)
    _refuse_for_files(settings)
    reporter.stage(f"Read {path.name}")
    model = open_onnx(path)
    how, notes = _preprocessing(model)
    data = _data(settings, model, reporter)
    if data is None:
        _require_images(settings, real=real)
        images, note = Images(parity=_noise(model.shape, settings.subject.seed or 0)), NOISE_NOTE
        notes = (*notes, note)
    else:
        images = export_images(
            data,
            how,
            seed=settings.subject.seed or 0,
            calibration=settings.calibration,
            sampler=settings.sampler,
        )
    return Material(
        model=model,
        captured=None,
        name=path.name,
        images=images,
        metadata=artifact_metadata(
            classes=data.classes if data else (),
            multi_label=data is not None and data.multi_label,
            preprocessing=how,
            name=path.name,
        ),
        notes=notes,
    )


NOISE_NOTE: Final = "parity was proven on noise: give --data PATH to prove it on real images"


def _refuse_for_files(settings: ExportSettings) -> None:
    subject = settings.subject
    for option in ("weights", "image_size", "output"):
        if getattr(subject, option) is not None:
            raise UsageError(
                f"'{subject.model}' is an ONNX file, which is complete: leave out "
                f"--{option.replace('_', '-')}"
            )


def _data(settings: ExportSettings, model: OnnxModel, reporter: Reporter) -> ImageData | None:
    subject = settings.subject
    if subject.data is None:
        return None
    asked = CompressSettings(
        data=subject.data, seed=subject.seed or 0, skip_corrupt=subject.skip_corrupt, per_class=1
    )
    data = load_images(asked, reporter)
    classes = model.logits(_noise(model.shape, 0)[: model.fixed_batch or 1].numpy()).shape[1]
    if classes != len(data.classes):
        raise DataError(
            f"the model tells {classes} classes apart, but '{data.name}' has {len(data.classes)}: "
            "give the images it was trained for"
        )
    return data


def _preprocessing(model: OnnxModel) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return how images are prepared: as the file says, else as ImageNet's models take them."""
    if (found := preprocessing_in(model.metadata)) is not None:
        return found, ()
    channels = model.shape[0]
    if channels not in (GREY, 3):
        raise ModelError(f"the model takes images of {channels} channels: only 1 and 3 are known")
    config = dict(DEFAULT_CONFIG) | {"input_size": model.shape, "crop_pct": 1.0}
    how = preprocessing_from_timm(config)
    note = (
        "the ONNX file does not say how its images are prepared: they were resized to "
        f"{how.size[0]} × {how.size[1]} and standardised as ImageNet's are"
    )
    return how, (note,)


def _without_data(
    bundle: Path | None, dense: Captured, settings: ExportSettings, *, real: bool
) -> tuple[Images, str]:
    """Return the golden inputs of a bundle, or noise."""
    _require_images(settings, real=real)
    golden = bundle / "golden" / "inputs.npy" if bundle else None
    if golden is not None and golden.is_file():
        inputs = torch.from_numpy(np.load(golden, allow_pickle=False))
        if tuple(inputs.shape[1:]) == tuple(dense.sample.shape[1:]):
            return Images(parity=inputs), (
                f"parity was proven on the {len(inputs)} golden inputs of the bundle: give --data "
                "PATH for more, and for the accuracy of what is written"
            )
    seed = settings.subject.seed or 0
    channels, height, width = dense.sample.shape[1:]
    return Images(parity=_noise((channels, height, width), seed)), NOISE_NOTE


def _require_images(settings: ExportSettings, *, real: bool) -> None:
    if real:
        raise UsageError(
            "fp16 and int8 are decided by measurement on images: give --data PATH, or write "
            f"--precision fp32 of '{settings.subject.model}'"
        )


def _noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    return torch.randn(PARITY_IMAGES, *shape, generator=torch.Generator().manual_seed(seed))
