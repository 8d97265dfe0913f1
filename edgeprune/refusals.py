"""What cannot be captured, told in the user's terms before torch tells it in its own."""

import inspect
import re
import sysconfig
import traceback
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edgeprune.errors import CaptureError
from edgeprune.graph_io import is_plain_name
from edgeprune.tensors import state

STANDARD_LIBRARY: Final = Path(sysconfig.get_path("stdlib"))
TORCH: Final = Path(torch.__file__).parent
OURS: Final = Path(__file__).parent
FOLDERS: Final = re.compile(r"(?<!\w)(?<!:/)(?!(?<=:)//)(?:[A-Za-z]:)?[\\/](?:[^\\/\s]+[\\/])+")
CUDA: Final = re.compile(r"\b(cuda|nvidia)\b", re.IGNORECASE)
KINDS: Final = {
    3: "a sequence (N, T, …)",
    4: "a feature map (N, C, H, W), as of a segmentation or of a network without its head",
}


def sample_problem(sample: object) -> str | None:
    """Say why this is no sample input, or None."""
    if not isinstance(sample, Tensor):
        return f"the sample is a {type(sample).__name__}; give a float tensor (N, C, H, W)"
    if sample.dim() != 4 or not sample.is_floating_point():
        return (
            f"the sample is {sample.dtype} of shape {tuple(sample.shape)}; "
            "give a float tensor (N, C, H, W)"
        )
    if not sample.numel():
        return f"the sample of shape {tuple(sample.shape)} is empty; give one image or more"
    return None


def model_problem(model: object, sample: Tensor) -> str | None:
    """Say why this model cannot be run on one tensor of images, or None."""
    if isinstance(model, torch.jit.ScriptModule):
        return "the model is TorchScript; give the nn.Module that it was made from"
    if not isinstance(model, nn.Module):
        return f"the model is a {type(model).__name__}; give an nn.Module"
    return _signature_problem(model) or _device_problem(model, sample) or _name_problem(model)


def answer(model: nn.Module, sample: Tensor, name: str) -> Tensor:
    """Run the model; name it in what is raised.

    Raises:
        CaptureError: it fails on the sample.
    """
    try:
        with torch.no_grad():
            logits: Tensor = model(sample.clone())
    except CaptureError:
        raise
    except Exception as error:  # the user's own code runs here
        if CUDA.search(str(error)):
            raise CaptureError(
                f"{name} asks for CUDA, while its parameters and the sample are on "
                f"{sample.device} ({first_line(error)}){user_line(error)}; take the device in that "
                "line from the input, or capture where there is a GPU with both moved there"
            ) from error
        raise CaptureError(
            f"{name} fails on a sample of shape {tuple(sample.shape)}: "
            f"{first_line(error)}{user_line(error)}; give a sample that the model takes"
        ) from error
    return logits


def export_problem(error: Exception, name: str) -> str:
    """Say what torch.export met in the model's code."""
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        return (
            f"torch.export cannot capture {name}: its code takes another way depending on the "
            f"values of a tensor{user_line(error)}; rewrite that line with torch.where or the like"
        )
    return (
        f"torch.export cannot capture {name}: {first_line(error)}{user_line(error)}; "
        "rewrite that line with torch operators on tensors"
    )


def logits_problem(logits: Tensor, samples: int) -> str | None:
    """Say why this is not what a classifier returns for so many samples, or None."""
    wanted = f"logits of shape ({samples}, classes) are needed"
    if not logits.is_floating_point():
        return f"the model returns {logits.dtype} of shape {tuple(logits.shape)}; float {wanted}"
    if logits.dim() != 2 or len(logits) != samples or not logits.shape[1]:
        kind = KINDS.get(logits.dim())
        what = f", {kind}" if kind else ""
        return f"the model returns a tensor of shape {tuple(logits.shape)}{what}; {wanted}"
    if not logits.isfinite().all():
        return (
            "the model's logits for the sample are not finite; give a sample and weights "
            "for which they are"
        )
    return None


def first_line(error: BaseException) -> str:
    """Quote an error in one line, without the folders of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    return f"{kind}: {FOLDERS.sub('', lines[0])[:300]}" if lines else kind


def user_line(error: BaseException) -> str:
    """Name the innermost line of code that the user can change, or nothing."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if _is_user_code(path):
            found = f" ({path.name}, line {line})"
    return found


def _is_user_code(path: Path) -> bool:
    if path.suffix != ".py" or path.is_relative_to(TORCH) or path.is_relative_to(OURS):
        return False
    # Installed packages may live inside the folder of the standard library.
    return not path.is_relative_to(STANDARD_LIBRARY) or "site-packages" in path.parts


def _signature_problem(model: nn.Module) -> str | None:
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # built-in callables have no signature
        return None
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    wrapped = "wrap the model so that forward(images) returns the logits"
    if len(needed) > 1:
        names = ", ".join(f"'{name}'" for name in needed)
        return (
            f"forward needs {len(needed)} inputs ({names}); edgeprune gives images only: {wrapped}"
        )
    if not any(p.kind is not p.KEYWORD_ONLY for p in parameters):
        return f"forward takes no positional input; edgeprune gives it images: {wrapped}"
    return None


def _device_problem(model: nn.Module, sample: Tensor) -> str | None:
    tensors = [*model.parameters(), *model.buffers()]
    if any(is_lazy(t) for t in tensors):
        return "the model has lazy layers without weights yet; run it once on a sample first"
    devices = sorted({str(tensor.device) for tensor in tensors})
    if "meta" in devices:
        return "the model's weights are on the device 'meta', where they have no values; load them"
    if len(devices) > 1:
        return f"the model is spread over {', '.join(devices)}; move it to one device"
    if devices and devices != [str(sample.device)]:
        return f"the sample is on {sample.device}, the model on {devices[0]}; move one of them"
    return None


def _name_problem(model: nn.Module) -> str | None:
    name = next((name for name in state(model) if not is_plain_name(name)), None)
    if name is None:
        return None
    return f"'{name}' is a name for which no code can be generated; rename that module"
