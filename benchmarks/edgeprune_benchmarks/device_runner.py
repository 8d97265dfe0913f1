"""Run one artifact on this device and say, in JSON, what that took.

This file travels alone to devices that have neither torch nor edgeprune: it
needs Python 3.8, numpy and the runtime that the artifact is for, which is why
it is one file. One process loads one artifact, so that two runtimes never spin
against each other and the peak memory belongs to one model.

In a bundle it predicts, tests that the bundle works, and times it: see --help.
``serve`` reads one JSON object per line, ``{"id": 1, "do": "block", ...}``, and
answers each with one line, ``{"id": 1, "ok": true, ...}``. Times are raw
nanoseconds of a monotonic clock. Invariant: only answers reach stdout;
whatever a runtime prints goes to stderr.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
import traceback
import zlib
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import (
    IO,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

if __name__ == "__main__":  # a statistics.py beside this file must not hide Python's own
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]

import numpy as np

Answer = Dict[str, Any]
FLAGS = (  # what decides how fast a CPU multiplies
    *("avx", "avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch", "numpy")
KERNELS = ("f32", "f16", "bf16", "i8", "u8")
COMPUTE = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention")
PROPERTIES = (  # of OpenVINO, to read back
    *("INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT", "PERFORMANCE_HINT", "NUM_STREAMS"),
    *("ENABLE_CPU_PINNING", "ENABLE_HYPER_THREADING", "SCHEDULING_CORE_TYPE"),
)
SPINNING = "session.intra_op.allow_spinning"  # of ONNX Runtime
WARM = 5  # inferences before layers are timed
TORCH_TYPES = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}
TENSORRT_TYPES = {"fp32": "f32", "fp16": "f16", "int8": "i8"}
ONNX_TYPES = {  # as ONNX Runtime's profiler says them
    **{"float": "f32", "float16": "f16", "bfloat16": "bf16", "double": "f64"},
    **{"int8": "i8", "uint8": "u8", "int32": "i32", "int64": "i64"},
}
FUSED = re.compile(r"(_nchwc|_token_\d+|/\w*Fusion/?)+$")  # what ONNX Runtime adds to a name
APPLIED = ("Add", "Sum", "Relu", "Sigmoid", "Tanh", "Clip", "LeakyRelu", "HardSigmoid")

ARM = {  # who made a core and which it is: arch/arm64/include/asm/cputype.h of Linux
    "0x41": (
        "Arm",
        {
            **{"0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55"},
            **{"0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd09": "Cortex-A73"},
            **{"0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1"},
            **{"0xd0d": "Cortex-A77", "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78"},
            **{"0xd42": "Cortex-A78AE", "0xd44": "Cortex-X1", "0xd46": "Cortex-A510"},
            **{"0xd47": "Cortex-A710", "0xd49": "Neoverse-N2", "0xd4f": "Neoverse-V2"},
            **{"0xd80": "Cortex-A520", "0xd81": "Cortex-A720", "0xd83": "Neoverse-V3AE"},
            **{"0xd84": "Neoverse-V3"},
        },
    ),
    "0x4e": ("NVIDIA", {"0x003": "Denver 2", "0x004": "Carmel"}),
    "0xc0": ("Ampere", {"0xac3": "Ampere-1", "0xac4": "Ampere-1A"}),
}
CPU_SENSORS = ("coretemp", "k10temp", "zenpower")  # CPUs that are no thermal zone
COOLED = ("cpu", "gpu", "devfreq", "processor", "powerclamp", "throttle")  # no fans, no alerts
PI_THROTTLED = ("under-voltage", "capped Arm clock", "throttling", "soft temperature limit")
GPU_SLOWED = {  # nvmlClocksEventReasons, nvml.h; of those, the ones that nobody asked for
    **{0x4: "the GPU's power limit", 0x8: "a hardware slowdown of the GPU"},
    **{0x20: "the GPU's temperature", 0x40: "the GPU's temperature, by hardware"},
    **{0x80: "the GPU's power brake"},
}
INPUTS = ("VIN", "VDD_IN", "POM_5V_IN")  # rails of a Jetson that feed all the others
UNSUMMED = ("NC", "VDDQ_VDD2_1V8AO")  # not connected; fed by VIN_SYS_5V0 of an AGX Orin
Started = Tuple[Callable[[], float], str]  # joules since now, and what is counted


class RunnerError(Exception):
    """Something that the one who asked can mend; the message says how."""

    code = 1  # exit codes are those of edgeprune


# ------------------------------------------------------------------ images

BUNDLE, FORMAT = "bundle.json", ("edgeprune-bundle", 1)
PICTURES = (*(".png", ".bmp", ".pgm", ".ppm", ".npy"), *(".jpg", ".jpeg", ".tif", ".tiff", ".webp"))
MAX_PIXELS = (1 << 30) // 12  # of a picture: as many as Pillow takes without a warning
MAX_BYTES = 1 << 30  # of its file
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = (  # the passes of an interlaced PNG: left, top, and steps to the right and down
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
STEPS: Dict[str, Dict[str, Tuple[Any, ...]]] = {
    "resize": {
        "edges": ("shortest", "squash"),
        "size": (),
        "interpolation": ("nearest", "bilinear", "bicubic"),
        "antialias": (True,),
    },
    "center_crop": {"size": (), "crop_pct": ()},
    "to_channels": {"channels": (1, 3)},
    "scale": {"by": ()},
    "normalize": {"mean": (), "std": ()},
}


class UnknownFormError(Exception):
    """A picture that the decoders of this file do not know; another may."""


def decode(path: Path, bits: int = 8) -> np.ndarray:
    """Read a picture as uint8 (H, W) or (H, W, 3), as training read its images.

    The decoders of this file come first, so that a file gives the same pixels on every
    device. ``bits`` is the depth of wide grey samples in training: its largest becomes 255.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RunnerError("it has more than %d MiB" % (MAX_BYTES >> 20))
        data = path.read_bytes()
        own = next((read for mark, read in DECODERS if data.startswith(mark)), None)
        try:
            samples = own(data) if own else decode_elsewhere(data)
        except UnknownFormError:
            samples = decode_elsewhere(data)
        return samples if samples.dtype == np.uint8 else narrowed(samples, bits)
    except OSError as error:
        raise RunnerError("it cannot be read: %s" % (error.strerror or error)) from error
    except (ValueError, IndexError, struct.error, zlib.error) as error:
        raise RunnerError("it is damaged: %s" % error) from error


def narrowed(samples: np.ndarray, bits: int) -> np.ndarray:
    """Scale wide grey samples (H, W) to 8 bits, by the depth that training scaled them by."""
    full, largest = 2**bits - 1, int(samples.max())
    if largest > full or samples.min() < 0:
        seen = (samples.min(), largest, bits, full)
        raise RunnerError(
            "its samples go from %d to %d, but the model was trained on images of %d bits, 0 to "
            "%d: how these are to be scaled is not known" % seen
        )
    return np.asarray((samples.astype(np.int64) * 255 + full // 2) // full, np.uint8)


def checked_size(width: int, height: int) -> Tuple[int, int]:
    """Refuse a size before memory is taken for it: a few bytes can claim to hold any."""
    if not (0 < width < 1 << 16 and 0 < height < 1 << 16 and width * height <= MAX_PIXELS):
        limit = "1 to 65535 pixels an edge and %d million in all" % (MAX_PIXELS // 10**6)
        raise RunnerError("it has %d × %d pixels; %s can be read" % (width, height, limit))
    return width, height


def decode_png(data: bytes) -> np.ndarray:
    """Decode a PNG; transparency is left out. Source: PNG specification, third edition."""
    chunks = png_chunks(data)
    head = struct.unpack(">IIBBBBB", chunks.get(b"IHDR", b""))
    (width, height), (depth, colour, *methods, interlaced) = checked_size(*head[:2]), head[2:]
    if depth not in PNG_DEPTHS.get(colour, ()) or any(methods) or interlaced > 1:
        raise ValueError("its header holds %s" % (head,))
    channels = {2: 3, 4: 2, 6: 4}.get(colour, 1)
    pieces = []
    for left, top, right, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        shape = (-(-(height - top) // down), -(-(width - left) // right))
        if min(shape) > 0:
            place = (slice(top, None, down), slice(left, None, right))
            pieces.append((place, shape, 1 + (shape[1] * channels * depth + 7) // 8))
    wanted = sum(rows * stride for _, (rows, _), stride in pieces)
    raw = np.frombuffer(zlib.decompressobj().decompress(chunks[b"IDAT"], wanted), np.uint8)
    if len(raw) < wanted:
        raise ValueError("its pixels end early")
    samples = np.empty((height, width, channels), np.uint16 if depth == 16 else np.uint8)
    at = 0
    for place, (rows, columns), stride in pieces:
        lines = raw[at : at + rows * stride].reshape(rows, stride)
        lines = unfiltered(lines, max(channels * depth // 8, 1))
        samples[place] = unpacked(lines, depth, columns * channels).reshape(rows, columns, channels)
        at += rows * stride
    return png_colours(samples, depth, colour, chunks.get(b"PLTE", b""))


def png_chunks(data: bytes) -> Dict[bytes, bytes]:
    """Bodies of the chunks that make the picture; those of one kind are joined."""
    chunks: Dict[bytes, bytes] = {}
    parts: Dict[bytes, List[bytes]] = {}
    at, kind = 8, b""
    while kind != b"IEND":
        (size,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        body, (crc,) = data[at + 8 : at + 8 + size], struct.unpack_from(">I", data, at + 8 + size)
        if kind[:1].isupper():  # the others are not needed
            if zlib.crc32(body, zlib.crc32(kind)) != crc:
                raise ValueError("the checksum of its %s is wrong" % kind.decode("latin-1"))
            parts.setdefault(kind, []).append(body)
        at += 12 + size
    chunks.update((kind, b"".join(bodies)) for kind, bodies in parts.items())
    if b"IDAT" not in chunks:
        raise ValueError("it holds no pixels")
    return chunks


def unfiltered(lines: np.ndarray, size: int) -> np.ndarray:
    """Undo the filters of PNG lines (H, 1 + bytes), where ``size`` bytes make a pixel.

    A pixel needs those to its left, above it and above left, so that all pixels on one
    diagonal can be had at once, whatever the filters of their lines are.
    """
    kinds, height, width = lines[:, :1], len(lines), (lines.shape[1] - 1) // size
    if kinds.max() > 4:
        raise ValueError("there is no filter %d" % kinds.max())
    if not kinds.any():
        return lines[:, 1:]
    padded = np.zeros((height + 1, width + 1, size), np.uint8)
    padded[1:, 1:] = lines[:, 1:].reshape(height, width, size)
    flat = padded.reshape(-1, size)
    for diagonal in range(height + width - 1):
        top = max(diagonal - width + 1, 0)
        count = min(diagonal + 1, height) - top
        start = (top + 1) * (width + 1) + diagonal - top + 1
        here, *beside = (
            flat[start - back :: width][:count] for back in (0, 1, width + 1, width + 2)
        )
        here += foretold(kinds[top : top + count], *(each.astype(np.int16) for each in beside))
    return padded[1:, 1:].reshape(height, -1)


def foretold(
    kinds: np.ndarray, left: np.ndarray, above: np.ndarray, corner: np.ndarray
) -> np.ndarray:
    """What PNG's filters (N, 1) foretell of pixels (N, size) from their neighbours."""
    a, b, c = abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)
    paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
    guesses = (np.zeros_like(left), left, above, (left + above) >> 1, paeth)
    return np.asarray(np.choose(kinds, guesses), np.uint8)


def unpacked(lines: np.ndarray, depth: int, count: int) -> np.ndarray:
    """Samples (H, count) of packed lines (H, bytes), the highest bits first."""
    if depth == 16:
        return np.ascontiguousarray(lines).view(">u2")[:, :count]
    if depth == 8:
        return lines[:, :count]
    bits = np.unpackbits(lines, axis=1).reshape(len(lines), -1, depth)
    return (bits @ (1 << np.arange(depth)[::-1]).astype(np.uint8))[:, :count]


def png_colours(samples: np.ndarray, depth: int, colour: int, palette: bytes) -> np.ndarray:
    """Make grey (H, W) or colour (H, W, 3) of samples (H, W, C) as they lie in a PNG."""
    if colour == 0:
        return samples[..., 0] if depth >= 8 else samples[..., 0] * np.uint8(255 // (2**depth - 1))
    if colour == 3:
        return np.asarray(np.frombuffer(palette, np.uint8).reshape(-1, 3)[samples[..., 0]])
    if depth == 16:  # of wide colours training sees the higher byte
        samples = (samples >> 8).astype(np.uint8)
        return samples[..., :3] if colour != 4 else samples[..., [0, 0, 0]]
    return samples[..., 0] if colour == 4 else samples[..., :3]


def decode_bmp(data: bytes) -> np.ndarray:
    """Decode a BMP without compression."""
    head = struct.unpack_from("<IIiiHHI12xI", data, 10)
    offset, size, width, height, _, depth, packed, used = head
    if size < 40 or packed or depth not in (1, 4, 8, 24, 32):
        raise UnknownFormError
    checked_size(width, abs(height))
    stride = (width * depth + 31) // 32 * 4
    lines = np.frombuffer(data, np.uint8, stride * abs(height), offset).reshape(-1, stride)
    lines = lines[::-1] if height > 0 else lines
    if depth >= 24:
        pixels = lines[:, : width * depth // 8].reshape(abs(height), width, -1)
        return np.ascontiguousarray(pixels[..., 2::-1])
    count = used or 1 << depth
    palette = np.frombuffer(data, np.uint8, 4 * count, 14 + size).reshape(-1, 4)[:, 2::-1]
    indices = unpacked(lines, depth, width)
    ramp = np.array([0, 255]) if count == 2 else np.arange(count)
    grey = bool((palette == ramp[:, None]).all())
    return np.asarray(palette[indices][..., 0] if grey else palette[indices])


def decode_pnm(data: bytes) -> np.ndarray:
    """Decode a binary PGM or PPM; what is wider than 8 bits is brought to 16 if it is grey."""
    head = re.match(rb"P([56])" + 3 * rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})" + rb"\s", data)
    if head is None:
        raise ValueError("its header cannot be read")
    channels = 1 if head.group(1) == b"5" else 3
    width, height, most = (int(number) for number in head.groups()[1:])
    checked_size(width, height)
    if not 0 < most < 1 << 16:
        raise ValueError("its largest sample is %d" % most)
    kind = np.dtype(np.uint8 if most < 256 else ">u2")
    samples = np.frombuffer(data, kind, width * height * channels, head.end())
    samples = samples.reshape((height, width, 3) if channels == 3 else (height, width))
    wide = most > 255 and channels == 1
    if most != (full := 65535 if wide else 255):
        samples = np.minimum(np.rint(np.divide(samples, most) * full), full)
    return samples.astype(np.uint16 if wide else np.uint8)


def decode_npy(data: bytes) -> np.ndarray:
    """Read a picture that is an array."""
    image = np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        seen = "%s of shape %s" % (image.dtype, image.shape)
        raise RunnerError("it holds %s; a picture is uint8 (H, W) or (H, W, 3)" % seen)
    checked_size(image.shape[1], image.shape[0])
    return image


def decode_elsewhere(data: bytes) -> np.ndarray:
    """Let Pillow, as training did, or else OpenCV decode a picture: JPEG, TIFF, WebP."""
    for package, read in (("PIL.Image", decode_pillow), ("cv2", decode_opencv)):
        try:
            module = import_module(package)
        except ImportError:
            continue
        return read(module, data)
    raise RunnerError(
        "PNG, BMP, PGM, PPM and .npy can be read here; for other pictures install one of two "
        "packages: pip install pillow, or pip install opencv-python-headless"
    )


def decode_pillow(pillow: Any, data: bytes) -> np.ndarray:  # noqa: ANN401  a module without types
    """Decode as training does."""
    try:
        with pillow.open(io.BytesIO(data)) as picture:
            checked_size(*picture.size)
            if picture.mode.startswith("I"):
                return np.asarray(picture).astype(np.int64)
            if picture.mode == "F":
                raise RunnerError("its samples are floating-point numbers: save it with 8 bits")
            grey = picture.mode in ("1", "L", "LA", "La")
            return np.asarray(picture.convert("L" if grey else "RGB"))
    except (OSError, SyntaxError, EOFError, pillow.DecompressionBombError) as error:
        raise RunnerError("it cannot be read: %s" % error) from error


def decode_opencv(cv2: Any, data: bytes) -> np.ndarray:  # noqa: ANN401  a module without types
    """Decode with OpenCV, whose colours come in the order blue, green, red."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise RunnerError("OpenCV cannot read it as a picture of 8 or 16 bits")
    checked_size(image.shape[1], image.shape[0])
    if image.ndim == 2:
        return np.asarray(image)
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    return np.ascontiguousarray(image[..., 2::-1])


DECODERS = (
    (b"\x89PNG\r\n\x1a\n", decode_png),
    (b"BM", decode_bmp),
    (b"P5", decode_pnm),
    (b"P6", decode_pnm),
    (b"\x93NUMPY", decode_npy),
)


def read_steps(document: Answer) -> Dict[str, Answer]:
    """Return a bundle's preprocessing by the names of its steps; unknown ones are refused."""
    steps = {str(step.get("op")): step for step in document.get("steps", ())}
    if list(steps) != list(STEPS) or set(document) != {"steps"}:
        text = "preprocessing has the fields %s and the steps %s; known are %s"
        raise RunnerError(text % (sorted(document), list(steps), list(STEPS)))
    for name, known in STEPS.items():
        for odd in sorted({"op", *known} ^ set(steps[name])):
            what = "is missing" if odd in known else "is not known"
            raise RunnerError("preprocessing step '%s': field '%s' %s" % (name, odd, what))
        for key, values in known.items():
            if values and steps[name][key] not in values:
                seen = (name, key, steps[name][key], values)
                raise RunnerError("preprocessing step '%s' has %s %r, not one of %s" % seen)
    return steps


def fit(image: np.ndarray, steps: Dict[str, Answer]) -> np.ndarray:
    """Resize, crop and convert: uint8 (H, W) or (H, W, 3) to uint8 (H, W, C)."""
    how, (rows, columns) = steps["resize"], steps["center_crop"]["size"]
    height, width = how["size"]
    if how["edges"] == "shortest":
        tall, wide = image.shape[:2]
        height, width = max(height, tall * width // wide), max(width, wide * height // tall)
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    image = image.reshape(*image.shape[:2], -1).transpose(1, 0, 2)
    image = resampled(image, width, (left, columns), how["interpolation"]).transpose(1, 0, 2)
    image = resampled(image, height, (top, rows), how["interpolation"])
    if steps["to_channels"]["channels"] == image.shape[2]:
        return image
    if image.shape[2] == 1:
        return image.repeat(3, axis=2)
    luma = image.astype(np.int64) @ np.array([19595, 38470, 7471])  # BT.601 × 2**16
    return np.asarray((luma + 0x8000) >> 16, np.uint8)[..., None]


def resampled(image: np.ndarray, size: int, part: Tuple[int, int], kind: str) -> np.ndarray:
    """Resize the first axis of uint8 (L, M, C) to ``size``, and return a part (first, count) of it.

    Equals Pillow, whose kernels widen when they shrink an image, and whose weights are
    whole numbers of 2**-22: their sums are exact in float64, in whatever order.
    """
    first, count = part
    length = len(image)
    if size == length:
        return image[first : first + count]
    if kind == "nearest":
        steps = np.full(first + count, length / size)
        steps[0] /= 2
        return image[np.cumsum(steps)[first:].astype(np.intp)]
    out = np.empty((count, *image.shape[1:]), np.uint8)
    flat = image.reshape(length, -1)
    for at in range(count):
        start, weights = pillow_weights(first + at, length, size, kind)
        sums = weights @ flat[start : start + len(weights)].astype(np.float64)
        rounded = np.floor((sums + 2**21) / 2**22).clip(0, 255)
        out[at] = rounded.reshape(out.shape[1:])
    return out


def pillow_weights(at: int, length: int, size: int, kind: str) -> Tuple[int, np.ndarray]:
    """Return where the samples that make one resized sample start, and their weights × 2**22."""
    scale = length / size
    stretch = max(scale, 1.0)
    support = stretch * (1.0 if kind == "bilinear" else 2.0)
    center = (at + 0.5) * scale
    start, end = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), length)
    x = np.abs((np.arange(start, end) - center + 0.5) * (1.0 / stretch))
    if kind == "bilinear":
        weights = np.maximum(1.0 - x, 0.0)
    else:  # Keys' cubic convolution, a = -0.5
        near, far = (1.5 * x - 2.5) * x * x + 1.0, (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
        weights = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    weights = weights / np.cumsum(weights)[-1]  # added one by one, as Pillow does
    return start, np.trunc(weights * 2**22 + np.copysign(0.5, weights))


def normalized(pixels: np.ndarray, steps: Dict[str, Answer]) -> np.ndarray:
    """Scale and standardise: uint8 (H, W, C) to float32 (C, H, W)."""
    how = [steps["normalize"]["mean"], steps["normalize"]["std"]]
    mean, std = np.array(how, dtype=np.float32)
    values = (pixels.astype(np.float32) * np.float32(steps["scale"]["by"]) - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1))


# ------------------------------------------------------------------ runtimes


@dataclass(frozen=True)
class Loading:
    """Which artifact to load, and how it is to run."""

    path: Path
    threads: int = 1
    precision: str = "f32"  # for OpenVINO; the others run what the file holds
    batch: Optional[int] = None
    gpu: Optional[int] = None  # number of the CUDA device; None is the CPU
    cuda_graph: bool = False


@dataclass(frozen=True)
class Profile:
    """What a runtime's own profiler tells; slower than without it."""

    profiler: str
    layers: List[Answer]
    total_ns: List[int]  # of whole inferences, by our own clock


@dataclass(frozen=True)
class Model:
    """A loaded artifact; ``infer`` maps a float32 batch (B, C, H, W) to logits (B, K)."""

    infer: Callable[[np.ndarray], np.ndarray]
    shape: Tuple[Optional[int], ...]  # of the input; None where any size goes
    precision: str  # what the layers with weights really run in, "f32" or "f32+i8"
    threads: Optional[int]  # as the runtime reports it; None where it computes on none
    version: str
    properties: Dict[str, str]  # of the runtime, as read back
    profile: Optional[Callable[[np.ndarray, int], Profile]]
    device: str = "cpu"
    batches: Optional[Tuple[int, int]] = None  # the least and the most, where it has limits
    spinning: Optional[bool] = None  # whether idle threads keep their CPUs, where that is told
    compute_ns: Optional[Callable[[], int]] = None  # of the last inference, without copies


def load_onnxruntime(how: Loading) -> Model:
    """Load an ONNX file on the CPU or a GPU; the precision is the one stored in the graph."""
    precision = onnx_precision(how.path)
    ort = runtime("onnxruntime")
    options, providers = onnxruntime_options(ort, how), onnxruntime_providers(ort, how)
    session = ort.InferenceSession(str(how.path), options, providers)
    chosen = session.get_providers()[0]
    if how.gpu is not None and chosen == "CPUExecutionProvider":  # it falls back in silence
        raise RunnerError("ONNX Runtime could not start its CUDA provider, and says why on stderr")
    ends = session.get_inputs()
    source, used = only(ends, [end.type for end in ends]), session.get_session_options()
    return Model(
        infer=lambda images: np.asarray(session.run(None, {source.name: images})[0]),
        shape=tuple(size if isinstance(size, int) else None for size in source.shape),
        precision=precision,
        threads=used.intra_op_num_threads,
        version=ort.__version__,
        properties={
            "providers": ", ".join(session.get_providers()),
            "graph_optimization_level": used.graph_optimization_level.name,
        },
        # On a GPU its profiler times how long kernels take to launch.
        profile=None if how.gpu is not None else partial(onnxruntime_profile, ort, how),
        device=device_name(how.gpu),
        spinning=used.get_session_config_entry(SPINNING) == "1",
    )


def onnxruntime_options(ort: Any, how: Loading) -> Any:  # noqa: ANN401  a module without types
    """Options that set what is left to chance otherwise."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = how.threads, 1
    options.add_session_config_entry(SPINNING, "1")
    # Arm builds may otherwise multiply float32 matrices in bfloat16.
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    return options


def onnxruntime_providers(ort: Any, how: Loading) -> List[Any]:  # noqa: ANN401
    """What is to compute, the first choice first; TF32 would round float32 to 10 bits."""
    found = ort.get_available_providers()
    if how.gpu is None:
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in found:
        raise RunnerError(
            "this ONNX Runtime cannot use a GPU: it has %s; install onnxruntime-gpu in its place"
            % ", ".join(found)
        )
    cuda = {"device_id": str(how.gpu), "use_tf32": "0"}
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


def load_openvino(how: Loading) -> Model:
    """Compile an IR or ONNX file for the CPU, for one batch size when one is given.

    Left alone, OpenVINO runs float32 models in bfloat16 wherever the CPU can.
    """
    ov = runtime("openvino")
    core = ov.Core()
    graph = core.read_model(str(how.path))
    only(graph.inputs, [end.get_element_type().get_type_name() for end in graph.inputs])
    shape = graph.input(0).partial_shape
    if how.batch is not None and shape[0].is_dynamic:
        graph.reshape(ov.PartialShape([how.batch, *list(shape)[1:]]))
    hints = {
        "INFERENCE_PRECISION_HINT": how.precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": how.threads,
    }
    compiled = core.compile_model(graph, "CPU", hints)
    request = compiled.create_infer_request()

    def infer(images: np.ndarray) -> np.ndarray:
        request.infer([images], share_inputs=True, share_outputs=True)
        return np.asarray(request.get_output_tensor(0).data)

    layers = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    found = {kernel_type(e) for e in layers if e["layerType"].astype(str) in COMPUTE}
    properties = {name: plain(compiled.get_property(name)) for name in PROPERTIES}
    return Model(
        infer=infer,
        shape=tuple(
            s.get_length() if s.is_static else None for s in compiled.input(0).partial_shape
        ),
        precision="+".join(sorted(found)) or properties["INFERENCE_PRECISION_HINT"],
        threads=compiled.get_property("INFERENCE_NUM_THREADS"),
        version=ov.__version__,
        properties=properties,
        profile=partial(openvino_profile, core, graph, hints),
    )


def kernel_type(layer: Any) -> str:  # noqa: ANN401  a map without types
    """What the kernel of an executed layer computes in.

    Its name ends so, as brgconv_avx512_f32; the precision of the layer itself can be
    that of weights in the file, f16, which are widened when it is loaded.
    """
    end = layer["primitiveType"].astype(str).rpartition("_")[2].lower()
    return str(end if end in KERNELS else layer["runtimePrecision"].astype(str))


def plain(value: Any) -> str:  # noqa: ANN401  a property of OpenVINO's
    """Say a property's value as short as it can be said, "f32" for <Type: 'float32'>."""
    if hasattr(value, "get_type_name"):
        return str(value.get_type_name())
    return str(getattr(value, "name", value))


def load_torch(how: Loading) -> Model:
    """Load a program that ``torch.export.save`` wrote. Only for files one trusts."""
    torch = runtime("torch")
    if how.gpu is not None and not torch.cuda.is_available():
        seen = (torch.__version__, torch.version.cuda or "none", torch.cuda.device_count())
        text = "torch.cuda.is_available() is false (torch %s, CUDA: %s, GPUs seen: %d)"
        raise RunnerError("torch cannot use a GPU here: " + text % seen)
    torch.set_num_threads(how.threads)
    torch.set_num_interop_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    program, device = torch.export.load(str(how.path)), device_name(how.gpu)
    named = {node.name: node.meta.get("val") for node in program.graph.nodes}
    ends = [named[name] for name in program.graph_signature.user_inputs]
    source = only(ends, [str(end.dtype) for end in ends])
    types = {str(t.dtype) for t in program.state_dict.values() if t.is_floating_point()}
    cuda = None
    if how.gpu is not None:
        cuda = torch.cuda
        cuda.set_device(how.gpu)  # where events and streams are made
        passes = import_module("torch.export.passes")
        program = passes.move_to_device_pass(program, device)
    tf32 = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    inference = TorchInference(torch, program.module(), device, cuda, how.cuda_graph)
    return Model(
        infer=inference.infer,
        shape=tuple(size if isinstance(size, int) else None for size in source.shape),
        precision="+".join(sorted(TORCH_TYPES.get(name, name) for name in types)) or "f32",
        threads=torch.get_num_threads(),
        version=torch.__version__,
        properties={
            "tf32": str(cuda is not None and any(tf32)),
            "cudnn.benchmark": str(torch.backends.cudnn.benchmark),
            "cuda_graph": str(how.cuda_graph),
        },
        profile=inference.profile,
        device=device,
        compute_ns=inference.compute_ns if cuda else None,
    )


class TorchInference:
    """A torch program, run one batch at a time and waited for.

    On a GPU the images start and the logits end in ordinary memory; CUDA events tell
    how much of the time is computing. A CUDA graph is captured at the first inference of
    a shape, from tensors that stay where they are, as its replay writes to them.
    """

    def __init__(
        self,
        torch: Any,  # noqa: ANN401  a module that is imported late
        module: Callable[..., Any],
        device: str,
        cuda: Any,  # noqa: ANN401  torch.cuda, or None for the CPU
        capture: bool = False,
    ) -> None:
        """Take a module whose parameters are on the device."""
        self.torch, self.module, self.device, self.cuda = torch, module, device, cuda
        self.capture = capture
        self.captured: Dict[Tuple[int, ...], Tuple[Any, Any, Any]] = {}
        self.events = [cuda.Event(enable_timing=True) for _ in range(2)] if cuda else []

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return the logits (B, K) of images (B, C, H, W)."""
        with self.torch.inference_mode():
            source = self.torch.from_numpy(images)
            if self.cuda is None:
                return np.asarray(self.module(source).numpy())
            return np.asarray(self.on_gpu(source).cpu().numpy())

    def on_gpu(self, source: Any) -> Any:  # noqa: ANN401  tensors
        """Launch one inference between two events."""
        begin, end = self.events
        if self.capture:
            graph, held, result = self.graph(source)
            held.copy_(source)
            begin.record()
            graph.replay()
        else:
            held = source.to(self.device)
            begin.record()
            result = self.module(held)
        end.record()
        return result

    def graph(self, source: Any) -> Tuple[Any, Any, Any]:  # noqa: ANN401
        """Return the CUDA graph for images of this shape, its input and its output.

        torch's documentation wants a few inferences on another stream before a capture.
        """
        shape = tuple(source.shape)
        if shape not in self.captured:
            held, side, graph = source.to(self.device), self.cuda.Stream(), self.cuda.CUDAGraph()
            side.wait_stream(self.cuda.current_stream())
            with self.cuda.stream(side):
                for _ in range(3):
                    self.module(held)
            self.cuda.current_stream().wait_stream(side)
            with self.cuda.graph(graph):
                result = self.module(held)
            self.captured[shape] = (graph, held, result)
        return self.captured[shape]

    def compute_ns(self) -> int:
        """How long the last inference computed, which has ended."""
        begin, end = self.events
        return int(begin.elapsed_time(end) * 1e6)

    def profile(self, images: np.ndarray, count: int) -> Profile:
        """Time every operator of the graph by torch's interpreter of graphs."""
        torch, cuda = self.torch, self.cuda
        marks: List[Tuple[Any, Answer, Any, Any]] = []

        def mark() -> Any:  # noqa: ANN401  a time or an event
            if cuda is None:
                return time.perf_counter_ns()
            event = cuda.Event(enable_timing=True)
            event.record()
            return event

        class Timed(torch.fx.Interpreter):  # type: ignore[misc, name-defined]
            def run_node(self, node: Any) -> Any:  # noqa: ANN401
                start = mark()
                result = super().run_node(node)
                if node.op == "call_function" and isinstance(result, torch.Tensor):
                    kind = TORCH_TYPES.get(str(result.dtype), str(result.dtype))
                    seen = {"precision": kind, "shape": list(result.shape)}
                    marks.append((node, seen, start, mark()))
                return result

        interpreter = Timed(self.module)

        def infer() -> None:
            with torch.inference_mode():
                interpreter.run(torch.from_numpy(images).to(self.device)).cpu()

        stopwatch(infer, WARM)
        marks.clear()
        totals, layers = stopwatch(infer, count), []
        per = len(marks) // count
        for k, (node, seen, _, _) in enumerate(marks[:per]):
            times = [
                end - start if cuda is None else start.elapsed_time(end) * 1e6
                for _, _, start, end in marks[k::per]
            ]
            weights = [each.target for each in node.all_input_nodes if each.op == "get_attr"]
            names = {"name": node.name, "type": str(node.target), "origins": [node.name, *weights]}
            layers.append({**names, "ns": centre(times), **seen})
        return Profile("torch.fx.Interpreter", layers, totals)


def load_tensorrt(how: Loading) -> Model:
    """Load the engine that the recipe beside it has built here and proven.

    An inference is one request by itself, from images in ordinary memory to logits in
    ordinary memory: copy in, compute, copy out, wait. trtexec calls this latency, and
    leaves out the copies by default from version 11 on.
    """
    folder = how.path.parent
    run = recipe_program(folder)
    try:
        proof = proven(run, folder)
        if how.gpu:
            run.Cuda().call("cudaSetDevice", how.gpu)
        engine = run.Engine.load(folder / run.PLAN, (proof["dla"] or {}).get("core"))
        layers, batches = engine.layers(), engine.batches()
    except run.RunError as error:
        raise RunnerError(str(error)) from error
    found = {str(layer["precision"]) for layer in layers if layer["precision"]}
    shape = tuple(engine.engine.get_tensor_shape(engine.input))
    return Model(
        infer=engine.infer,
        shape=tuple(size if size >= 0 else None for size in shape),
        precision="+".join(sorted(TENSORRT_TYPES.get(name, name) for name in found)) or "unknown",
        threads=None,
        version=str(engine.trt.__version__),
        properties={"gpu": proof["device"]["gpu"], "dla": str(proof["dla"] is not None)},
        profile=partial(tensorrt_profile, run, engine),
        device=device_name(how.gpu or 0),
        batches=batches,
    )


def recipe_program(folder: Path) -> Any:  # noqa: ANN401  a module without types
    """Import the recipe's own run.py, under a name that cannot meet another's."""
    path = folder / "run.py"
    if not path.is_file():
        raise RunnerError("there is no run.py beside the engine: copy the recipe's whole folder")
    name = "edgeprune_tensorrt_recipe"
    spec = spec_from_file_location(name, str(path))
    if spec is None or spec.loader is None:
        raise RunnerError("%s cannot be imported" % path)
    module = sys.modules[name] = module_from_spec(spec)
    sys.dont_write_bytecode = True  # a __pycache__ would be a file that no bundle lists
    spec.loader.exec_module(module)
    return module


def proven(run: Any, folder: Path) -> Answer:  # noqa: ANN401
    """Return the engine's proof; recipe, engine and TensorRT have to be those it speaks of."""
    if not (folder / run.PLAN).is_file():
        raise RunnerError("there is no engine yet, build it first: python3 run.py build")
    proof: Answer = run.read_json(folder / run.PROOF, run.PROOF_FORMAT)
    run.read_recipe(folder)
    version = str(runtime("tensorrt").__version__)
    same = {
        "recipe.json": (proof["recipe_sha256"], digest(folder / run.RECIPE)),
        "engine.plan": (proof["engine_sha256"], digest(folder / run.PLAN)),
        "TensorRT": (proof["device"]["tensorrt"], version),
    }
    for name, (then, now) in same.items():
        if then != now:
            text = "%s was %s when the engine was proven and is %s now: python3 run.py build"
            raise RunnerError(text % (name, then[:12], now[:12]))
    return proof


LOADERS = {
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "torch": load_torch,
    "tensorrt": load_tensorrt,
}
SUFFIXES = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch", ".plan": "tensorrt"}
RECIPE = "recipe.json"  # of TensorRT, which stands for the engine that it builds


def back_end(path: Path, name: Optional[str] = None) -> str:
    """Return the back end for a file, the one that is named or the one for its suffix."""
    chosen = name or ("tensorrt" if path.name == RECIPE else SUFFIXES.get(path.suffix.lower()))
    if chosen in LOADERS:
        return chosen
    known = "%s (%s %s)" % (", ".join(LOADERS), " ".join(SUFFIXES), RECIPE)
    raise RunnerError("there is no back end for %s: there are %s" % (chosen or path.name, known))


def runtime(name: str) -> Any:  # noqa: ANN401  a module without types
    """Import a runtime, which must not happen before the process has its CPUs.

    OpenVINO reports its import over the network unless its telemetry package is
    absent: a clinic's device opens no connection, so here it is absent. ONNX Runtime
    from 1.31 on collects what to report in a file, on threads that start at its import.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    advice = "pip install %s" % name
    if name == "tensorrt":
        advice = "on a Jetson, install JetPack's python3-libnvinfer and use the system's python3"
    try:
        return __import__(name)
    except ImportError as error:
        text = "%s cannot be imported here (%s): %s"
        raise RunnerError(text % (name, error, advice)) from error


def only(ends: Sequence[Any], types: Sequence[str]) -> Any:  # noqa: ANN401  of any runtime
    """Return the one input, which has to take float32."""
    if len(ends) != 1:
        text = "this artifact has %d inputs; one is wanted, of images (N, C, H, W)"
        raise RunnerError(text % len(ends))
    if types[0] not in ("tensor(float)", "f32", "torch.float32"):
        raise RunnerError("this artifact takes %s; float32 images are wanted" % types[0])
    return ends[0]


def gpu_number(device: str) -> Optional[int]:
    """Number of the GPU that "cuda" or "cuda:1" means; None for "cpu"."""
    if device == "cpu":
        return None
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        raise RunnerError("there is no device '%s': say cpu, cuda:0, cuda:1, …" % device)
    return int(number or 0)


def device_name(gpu: Optional[int]) -> str:
    """Say a device as it is asked for."""
    return "cpu" if gpu is None else "cuda:%d" % gpu


# ------------------------------------------------------------------ files


def artifact_files(path: Path) -> List[Path]:
    """Return the file to load, and after it those that the runtime loads with it.

    Raises RunnerError where one of them is missing.
    """
    if path.name == RECIPE or path.suffix.lower() == ".plan":
        beside = [p for p in sorted(path.parent.iterdir()) if p.is_file() and p.name[0] != "."]
        return [path, *(p for p in beside if p != path)]
    names: List[str] = []
    if path.suffix.lower() == ".onnx":
        names = external_data(path)
    elif path.suffix.lower() == ".xml" and b'type="Const"' in path.read_bytes():
        names = [path.with_suffix(".bin").name]
    for name in names:
        place = Path(name)
        if place.is_absolute() or ".." in place.parts:
            raise RunnerError("%s keeps its weights outside its folder, in %s" % (path.name, name))
        if not (path.parent / place).is_file():
            text = "%s keeps its weights in %s, which is not beside it: copy both"
            raise RunnerError(text % (path.name, name))
    return [path, *(path.parent / name for name in names)]


def digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits, read in pieces so that no memory is kept."""
    import hashlib  # OpenSSL, 4 MB

    sha, piece = hashlib.sha256(), bytearray(1 << 16)
    with path.open("rb", buffering=0) as file:
        for size in iter(lambda: file.readinto(piece) or 0, 0):
            sha.update(memoryview(piece)[:size])
    return sha.hexdigest()


def digests(paths: Sequence[Path]) -> List[str]:
    """Hash files in a child process, whose memory is not this one's peak.

    OpenSSL would be, and freed pieces make the allocator keep larger ones afterwards.
    """
    if sys.platform != "linux":
        return [digest(path) for path in paths]
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(target, " ".join(digest(path) for path in paths).encode())
        finally:
            os._exit(0)  # whatever this process has open is the parent's
    os.close(target)
    with os.fdopen(source) as file:
        told = file.read().split()
    os.waitpid(child, 0)
    return told if len(told) == len(paths) else [digest(path) for path in paths]


def onnx_precision(path: Path) -> str:
    """Name the types of an ONNX graph's weights, from the protobuf itself.

    ONNX Runtime does not tell, and devices do not have the onnx package.
    """
    names = {1: "f32", 2: "u8", 3: "i8", 10: "f16", 11: "f64", 16: "bf16"}
    with onnx_file(path) as (file, whole):
        found = {names.get(span[0], "") for span in inside(file, whole, 7, 5, 2)}
    return "+".join(sorted(found - {""})) or "f32"


def external_data(path: Path) -> List[str]:
    """Name the files beside an ONNX graph that hold its weights, each once."""
    names = []
    with onnx_file(path) as (file, whole):
        for entry in inside(file, whole, 7, 5, 13):
            pair = {key: string(file, span) for key, span in wire(file, *entry)}
            names += [pair[2]] if pair.get(1) == "location" else []
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Node:
    """One node of an ONNX graph."""

    name: str
    kind: str
    inputs: List[str]
    outputs: List[str]


def onnx_nodes(path: Path) -> List[Node]:
    """Read the nodes of an ONNX graph, in the order of the file; nameless ones get a name."""
    nodes = []
    with onnx_file(path) as (file, whole):
        for span in inside(file, whole, 7, 1):
            told: Dict[int, List[str]] = {key: [] for key in (1, 2, 3, 4)}
            for key, value in wire(file, *span):
                if key in told:
                    told[key].append(string(file, value))
            name = "".join(told[3]) or "".join(told[2][:1])
            nodes.append(Node(name, "".join(told[4]), told[1], told[2]))
    return nodes


@contextmanager
def onnx_file(path: Path) -> Iterator[Tuple[IO[bytes], Tuple[int, int]]]:
    """Open a protobuf, to be read in pieces: mapped into memory it would count as the peak."""
    with path.open("rb") as file:
        try:
            yield file, (0, path.stat().st_size)
        except (KeyError, ValueError) as error:
            raise RunnerError("%s is no ONNX file, or is cut off" % path.name) from error


def inside(file: IO[bytes], span: Tuple[int, int], *keys: int) -> Iterator[Tuple[int, int]]:
    """Yield the spans under a chain of fields, as graph (7) and its initializers (5)."""
    for key, found in wire(file, *span):
        if key != keys[0]:
            continue
        if keys[1:]:
            yield from inside(file, found, *keys[1:])
        else:
            yield found


def wire(file: IO[bytes], at: int, end: int) -> Iterator[Tuple[int, Tuple[int, int]]]:
    """Yield (field, (start, end)) of a protobuf message; a varint's span is (value, value)."""

    def varint() -> int:
        value = shift = 0
        while True:
            byte = file.read(1)
            if not byte:
                raise ValueError("a message that ends too early")
            value |= (byte[0] & 127) << shift
            shift += 7
            if byte[0] < 128:
                return value

    while at < end:
        file.seek(at)
        key = varint()
        if key & 7 == 0:
            value = varint()
            at = file.tell()
            yield key >> 3, (value, value)
            continue
        size = varint() if key & 7 == 2 else {1: 8, 5: 4}[key & 7]
        start, at = file.tell(), file.tell() + size
        yield key >> 3, (start, at)


def string(file: IO[bytes], span: Tuple[int, int]) -> str:
    """Read a string of a protobuf message."""
    file.seek(span[0])
    return file.read(span[1] - span[0]).decode()


# ------------------------------------------------------------------ profiles


def stopwatch(work: Callable[[], object], count: int) -> List[int]:
    """Do something so many times; return the nanoseconds of each."""
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - start)
    return times


def centre(times: Sequence[float]) -> float:
    """Mean of the middle half: as calm as a median, finer than the profilers' microseconds."""
    cut = len(times) // 4
    return float(np.mean(np.sort(np.asarray(times, float))[cut : len(times) - cut]))


def onnxruntime_profile(
    ort: Any,  # noqa: ANN401  a module without types
    how: Loading,
    images: np.ndarray,
    count: int,
) -> Profile:
    """Time the nodes that are left after fusing, in a session of their own."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        options = onnxruntime_options(ort, how)
        options.enable_profiling, options.profile_file_prefix = True, folder + "/profile"
        session = ort.InferenceSession(str(how.path), options, onnxruntime_providers(ort, how))
        feed = {session.get_inputs()[0].name: images}
        stopwatch(lambda: session.run(None, feed), WARM)
        totals = stopwatch(lambda: session.run(None, feed), count)
        told = Path(session.end_profiling()).read_text(encoding="utf-8")
    seen: Dict[str, List[Answer]] = {}
    for event in json.loads(told):
        name, ends, _ = event["name"].rpartition("_kernel_time")
        if event.get("cat") == "Node" and ends:
            seen.setdefault(name, []).append(event)
    kinds = {name: str(events[0]["args"]["op_name"]) for name, events in seen.items()}
    sources, layers = origins(onnx_nodes(how.path), kinds), []
    for name, events in seen.items():
        given, made = (events[0]["args"][key] for key in ("input_type_shape", "output_type_shape"))
        type_name = next(iter((given or made)[0]), "")
        layers.append(
            {
                "name": name,
                "type": kinds[name],
                "ns": 1e3 * centre([event["dur"] for event in events[-count:]]),
                "precision": ONNX_TYPES.get(type_name, type_name) or None,
                "origins": sources[name],
                "shape": next(iter(made[0].values()), None) if made else None,
            }
        )
    return Profile("onnxruntime", layers, totals)


def origins(nodes: Sequence[Node], kinds: Mapping[str, str]) -> Dict[str, List[str]]:
    """Name the nodes of the graph that each layer of ONNX Runtime computes.

    A layer that several nodes were fused into keeps the name of one of them, or of what
    that one gives, with a suffix; ``kinds`` has its operator. From there the others are
    found: backwards, what only this layer reads, as far as a node of its own operator;
    forwards, what its kernel for blocks of channels (nchwc) applies to its result.
    """
    makers = {name: node for node in nodes for name in node.outputs}
    named = {**makers, **{node.name: node for node in nodes}}
    readers: Dict[str, List[str]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node.name)
    starts = {layer: named.get(layer, named.get(FUSED.sub("", layer))) for layer in kinds}
    taken = {node.name for node in starts.values() if node}
    found: Dict[str, Set[str]] = {}
    for layer, start in starts.items():
        waiting, own = [start] if start else [], found.setdefault(layer, set())
        while waiting:
            node = waiting.pop()
            own.add(node.name)
            if kinds[layer].endswith(node.kind):
                continue
            for maker in filter(None, map(makers.get, node.inputs)):
                users = {name for output in maker.outputs for name in readers.get(output, ())}
                if maker.name not in taken and users <= own:
                    taken.add(maker.name)
                    waiting.append(maker)
    blocked = [layer for layer in kinds if layer.endswith("_nchwc")]
    for layer in reversed(blocked):  # of two whose results are summed, the later one sums
        last = starts[layer]
        while last is not None:
            after = [named[name] for name in readers.get(last.outputs[0], ())]
            alone = len(after) == 1 and after[0].name not in taken and after[0].kind in APPLIED
            last = after[0] if alone else None
            if last is not None:
                taken.add(last.name)
                found[layer].add(last.name)
    return {
        layer: [node.name for node in nodes if node.name in own] for layer, own in found.items()
    }


def openvino_profile(
    core: Any,  # noqa: ANN401  a module without types
    graph: Any,  # noqa: ANN401
    hints: Mapping[str, Any],
    images: np.ndarray,
    count: int,
) -> Profile:
    """Time the layers that are executed, of the model compiled once more.

    OpenVINO tells the mean over all inferences since compiling, in whole microseconds.
    So the first ones, which are slow, are taken off again, and no median is possible.
    """
    compiled = core.compile_model(graph, "CPU", {**hints, "PERF_COUNT": True})
    request = compiled.create_infer_request()

    def infer() -> None:
        request.infer([images], share_inputs=True, share_outputs=True)

    def told() -> Dict[str, Tuple[str, float]]:
        every = request.get_profiling_info()
        done = [info for info in every if info.status == info.Status.EXECUTED]
        return {
            info.node_name: (info.node_type, 1e9 * info.real_time.total_seconds()) for info in done
        }

    stopwatch(infer, WARM)
    before, totals, after = told(), stopwatch(infer, count), told()
    facts = {op.get_friendly_name(): op for op in compiled.get_runtime_model().get_ops()}
    layers = []
    for name, (kind, mean) in after.items():
        notes, shape = facts[name].get_rt_info(), facts[name].get_output_partial_shape(0)
        spent = (WARM + count) * mean - WARM * before.get(name, (kind, 0.0))[1]
        layers.append(
            {
                "name": name,
                "type": kind,
                "ns": max(spent / count, 0.0),
                "precision": kernel_type(notes),
                "origins": [n for n in notes["originalLayersNames"].astype(str).split(",") if n],
                "shape": [int(size) for size in shape.to_shape()] if shape.is_static else None,
            }
        )
    return Profile("openvino", layers, totals)


def tensorrt_profile(
    run: Any,  # noqa: ANN401  the recipe's run.py
    engine: Any,  # noqa: ANN401  its Engine
    images: np.ndarray,
    count: int,
) -> Profile:
    """Time the engine's layers, in a context of their own."""
    trt, unwatched = engine.trt, engine.context
    told: Dict[str, List[float]] = {}

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # pybind11 takes no object that skipped this

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            told.setdefault(layer_name, []).append(1e6 * ms)

    profiler, engine.context = Profiler(), engine.engine.create_execution_context()
    try:
        engine.context.profiler = profiler
        stopwatch(lambda: engine.infer(images), WARM)
        told.clear()
        totals = stopwatch(lambda: engine.infer(images), count)
        inspector = engine.engine.create_engine_inspector()
        inspector.execution_context = engine.context  # or sizes that are free are not told
        form = trt.LayerInformationFormat.JSON
        listed = json.loads(inspector.get_engine_information(form), strict=False)["Layers"]
    finally:
        engine.context = unwatched
    facts = {str(layer.get("Name")): layer for layer in listed}
    layers = []
    for name, times in told.items():
        fact = facts.get(name, {})
        seen, made = run.described(fact), (fact.get("Outputs") or [{}])[0]
        merged = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(fact.get("Metadata", "")))
        layers.append(
            {
                "name": name,
                "type": seen["type"] or "unknown",
                "ns": centre(times),
                "precision": TENSORRT_TYPES.get(seen["precision"], seen["precision"]),
                "origins": merged or name.split(" + "),
                "shape": made.get("Dimensions"),
            }
        )
    return Profile("tensorrt IProfiler", layers, totals)


# ------------------------------------------------------------------ this device


def read(path: str, root: str = "/") -> str:
    """Text of a small system file, or nothing where there is none."""
    try:
        return Path(root, path.lstrip("/")).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def number(path: str, root: str = "/") -> Optional[int]:
    """The whole number in a small system file, or None."""
    text = read(path, root)
    return int(text) if text.lstrip("-").isdigit() else None


def find(pattern: str, root: str) -> List[str]:
    """Paths below a root that match, in order; ``read`` and ``number`` take them as they are."""
    return sorted(str(path) for path in Path(root).glob(pattern))


def numbers(pattern: str, root: str) -> List[int]:
    """The whole numbers in all files that match."""
    found = (number(path) for path in find(pattern, root))
    return [value for value in found if value is not None]


def fields(text: str, name: str) -> List[str]:
    """Values of all ``name : value`` lines."""
    lines = (line.partition(":") for line in text.splitlines())
    return [value.strip() for key, _, value in lines if key.strip() == name]


def field(text: str, name: str) -> str:
    """Value of the first ``name : value`` line, or nothing."""
    return next(iter(fields(text, name)), "")


def said(command: Sequence[str]) -> str:
    """What a command prints, or nothing where it does not exist or takes seconds."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace")


def cgroup(controller: str, name_v2: str, name_v1: str, root: str) -> List[str]:
    """Texts of one file in every cgroup from this process up to the root of all."""
    texts = []
    for line in read("proc/self/cgroup", root).splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        v2 = hierarchy == "0"
        if v2 or controller in controllers.split(","):
            base, name = ("", name_v2) if v2 else ("/" + controller, name_v1)
            folders = (Path(path), *Path(path).parents)
            texts += [read("sys/fs/cgroup%s%s/%s" % (base, f, name), root) for f in folders]
    return [text for text in texts if text]


def quota(root: str = "/") -> Optional[float]:
    """How many CPUs the cgroup grants, or None when it sets no limit."""
    texts = cgroup("cpu", "cpu.max", "cpu.cfs_quota_us", root)
    limits = [text.split() for text in texts if text[:3] != "max"]
    grants = [int(limit[0]) / float(limit[1] if limit[1:] else 100000) for limit in limits]
    return min((grant for grant in grants if grant > 0), default=None)


def memory_limit(root: str) -> Optional[int]:
    """How much memory the cgroup grants, in bytes, or None when it sets no limit."""
    texts = cgroup("memory", "memory.max", "memory.limit_in_bytes", root)
    limits = [int(text) for text in texts if text.isdigit()]
    return min((limit for limit in limits if limit < 1 << 60), default=None)  # v1 has no "max"


def cpu_model(cpuinfo: str, root: str) -> str:
    """Name the CPU; Arm's cores say by number what they are, each for itself."""
    parts = zip(fields(cpuinfo, "CPU implementer"), fields(cpuinfo, "CPU part"))
    names = []
    for maker, part in parts:
        house, cores = ARM.get(maker, ("implementer " + maker, {}))
        names.append("%s %s" % (house, cores.get(part, "part " + part)))
    named = field(cpuinfo, "model name") or board(root) or platform.processor()
    return " + ".join(dict.fromkeys(names)) or named


def board(root: str) -> Optional[str]:
    """Name of the board as its device tree has it."""
    return read("proc/device-tree/model", root) or None


def turbo(root: str) -> Optional[bool]:
    """Whether the CPU may clock above its nominal frequency."""
    off = number("sys/devices/system/cpu/intel_pstate/no_turbo", root)
    if off is not None:
        return not off
    boost = number("sys/devices/system/cpu/cpufreq/boost", root)
    return None if boost is None else bool(boost)


def hypervisor(cpuinfo: str, root: str) -> Optional[bool]:
    """Whether this is a virtual machine; None where the CPU does not tell."""
    flags = field(cpuinfo, "flags").split()
    tree = Path(root, "proc/device-tree/hypervisor").exists()
    if tree or read("sys/hypervisor/type", root) or "hypervisor" in flags:
        return True
    return False if flags else None


def clocks(root: str) -> Dict[str, str]:
    """Between which bounds the CPUs and other engines may clock now.

    This is what jetson_clocks sets, and what it needs root to show.
    """
    found: Dict[str, List[str]] = {}
    places = [(path, "scaling_", 1e3) for path in find("sys/devices/system/cpu/cpufreq/*", root)]
    places += [(path, "", 1e6) for path in find("sys/class/devfreq/*", root)]
    for folder, prefix, unit in places:
        low, high = (number("%s/%s%s_freq" % (folder, prefix, end)) for end in ("min", "max"))
        if low and high:
            bounds = "%.0f to %.0f MHz" % (low / unit, high / unit)
            text = "locked at %.0f MHz" % (high / unit) if low == high else bounds
            found.setdefault("cpu" if prefix else Path(folder).name, []).append(text)
    return {name: ", ".join(dict.fromkeys(texts)) for name, texts in found.items()}


def machine(gpu: Optional[Gpu] = None, root: str = "/") -> Answer:
    """What this device is; nothing that names its owner, its host or its folders.

    Where there is an NVIDIA GPU this loads NVML into the process, a few megabytes.
    """
    cpuinfo, cpu = read("proc/cpuinfo", root), "sys/devices/system/cpu/cpu0/"
    flags = (field(cpuinfo, "flags") or field(cpuinfo, "Features")).split()
    total = field(read("proc/meminfo", root), "MemTotal").split()
    siblings = spread(read(cpu + "topology/thread_siblings_list", root))
    least, most = (
        numbers("sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_%s_freq" % end, root)
        for end in ("min", "max")
    )
    return {
        "cpu": cpu_model(cpuinfo, root),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "threads_per_core": len(siblings) or None,
        "numa_nodes": len(find("sys/devices/system/node/node[0-9]*", root)) or None,
        "governor": read(cpu + "cpufreq/scaling_governor", root) or None,
        "min_mhz": min(least) / 1e3 if least else None,
        "max_mhz": max(most) / 1e3 if most else None,
        "turbo": turbo(root),
        "clocks": clocks(root),
        "hypervisor": hypervisor(cpuinfo, root),
        "cgroup_cpus": quota(root),
        "cgroup_memory_bytes": memory_limit(root),
        "memory_bytes": int(total[0]) * 1024 if total else None,
        "board": board(root),
        "l4t": l4t(root),
        "power_mode": power_mode(root),
        **(gpu or Gpu()).about(),
        "system": "%s %s" % (platform.system(), platform.release()),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": installed(),
    }


def installed() -> Dict[str, str]:
    """Versions of the runtimes that are installed, none of which is imported."""
    versions, metadata = {}, import_module("importlib.metadata")  # 4 MB that measuring is spared
    for name in RUNTIMES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def spread(text: str) -> List[int]:
    """CPU numbers of a list such as 0-3,8, in the kernel's writing."""
    ends = [[int(end) for end in part.split("-")] for part in text.split(",") if part]
    return [cpu for part in ends for cpu in range(part[0], part[-1] + 1)]


def state(gpu: Optional[Gpu] = None, root: str = "/") -> Answer:
    """What this device is doing: counters since it started, to be read before and after."""
    first = read("proc/stat", root).partition("\n")[0]
    ticks = [int(count) for count in first.split()[1:9]]
    texts = cgroup("cpu", "cpu.stat", "cpu.stat", root)
    quotas = [field(text.replace(" ", ":"), "nr_throttled") for text in texts]
    hot = numbers("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count", root)
    current = numbers("sys/class/hwmon/hwmon*/oc*_event_cnt", root)  # Jetson: over-current
    celsius, headroom = heat(root)
    return {
        "at_ns": time.monotonic_ns(),
        "ticks": sum(ticks) if ticks else None,
        "busy_ticks": sum(ticks) - ticks[3] - ticks[4] - ticks[7] if ticks else None,
        "steal_ticks": ticks[7] if ticks else None,
        "tick_s": 1.0 / os.sysconf("SC_CLK_TCK") if ticks else None,
        "process_s": time.process_time(),
        "waited_s": waited(root),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "throttled": sum(int(count) for count in quotas if count) + sum(hot) + sum(current),
        "slowed": slowed(root) + (gpu.slowed() if gpu else []),
        "mhz": frequencies(root),
        "celsius": celsius,
        "headroom": headroom,
        "power_mode": power_mode(root),
        **(gpu.doing() if gpu else {}),
    }


def waited(root: str) -> Optional[float]:
    """Seconds that threads of this process were ready and had no CPU.

    The second number of schedstat (Linux, Documentation/scheduler/sched-stats.rst).
    """
    texts = [read(path).split() for path in find("proc/self/task/*/schedstat", root)]
    return sum(int(text[1]) for text in texts if len(text) == 3) / 1e9 if texts else None


def frequencies(root: str) -> Optional[List[float]]:
    """Lowest and highest clock, in MHz, of the CPUs this process may use."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    base = "sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq"
    known = [number(base % cpu, root) for cpu in cpus]
    mhz = [khz / 1e3 for khz in known if khz]
    if not mhz:  # virtual machines have no cpufreq, and often tell the truth here
        told = fields(read("proc/cpuinfo", root), "cpu MHz")
        mhz = [float(told[cpu]) for cpu in cpus if cpu < len(told)]
    return [min(mhz), max(mhz)] if mhz else None


def heat(root: str) -> Tuple[Optional[float], Optional[float]]:
    """Temperature of the hottest sensor, and how far the nearest is from being cooled, in °C.

    A passive trip point is where the kernel begins to slow things down; hot and
    critical ones come later. A PMIC-Die of a Jetson always reads the same.
    """
    hottest, room = [], []
    for zone in find("sys/class/thermal/thermal_zone*", root):
        now = number(zone + "/temp")
        if now is None or now <= -256000 or read(zone + "/type") == "PMIC-Die":
            continue
        hottest.append(now / 1e3)
        for trip in find("trip_point_*_type", zone):
            limit = number(trip[: -len("type")] + "temp") or 0
            if read(trip) in ("passive", "hot", "critical") and limit > 40000:
                room.append((limit - now) / 1e3)
    for path in find("sys/class/hwmon/hwmon*/temp*_input", root):
        now = number(path)
        if now is not None and read(str(Path(path).with_name("name"))) in CPU_SENSORS:
            limit = number(path[: -len("input")] + "crit") or 0  # where the CPU slows itself down
            hottest.append(now / 1e3)
            room += [(limit - now) / 1e3] if limit > 40000 else []
    return max(hottest, default=None), min(room, default=None)


def slowed(root: str) -> List[str]:
    """What holds this device's clocks down at this moment, besides its governor."""
    found = []
    for path in find("sys/class/thermal/cooling_device*/cur_state", root):
        name = read(path[: -len("cur_state")] + "type")
        if (number(path) or 0) > 0 and any(part in name.lower() for part in COOLED):
            found.append("cooling of %s" % name)
    for path in find("sys/devices/platform/soc*/soc*firmware/get_throttled", root):
        bits = int(read(path) or "0", 16)  # Raspberry Pi, as vcgencmd get_throttled
        found += [name for bit, name in enumerate(PI_THROTTLED) if bits >> bit & 1]
    return list(dict.fromkeys(found))


def memory(gpu: Optional[Gpu] = None, root: str = "/") -> Answer:
    """Peak resident memory of this process, and the GPU memory that it holds now.

    getrusage's figure would include whatever the parent held when it forked.
    """
    peak = field(read("proc/self/status", root), "VmHWM").split()
    held, reason = gpu.held() if gpu else (None, "it does not run on a GPU that NVML knows")
    return {
        "peak_bytes": int(peak[0]) * 1024 if peak else None,
        "peak_reason": None if peak else "this system has no VmHWM in /proc/self/status",
        "gpu_bytes": held,
        "gpu_reason": reason,
    }


class Gpu:
    """One GPU as NVIDIA's management library (NVML) knows it.

    The library comes with the driver, so no package is needed. ``reason`` says why
    it tells nothing; single answers are None where a GPU or a driver lacks them.
    """

    def __init__(self, index: Optional[int] = None, library: str = "libnvidia-ml.so.1") -> None:
        """Find the GPU that CUDA has under this number, or the first that NVML has."""
        self.handle = ctypes.c_void_p()
        self.reason = self.open(index, library)

    def open(self, index: Optional[int], library: str) -> Optional[str]:
        """Open the library and the GPU, or say why that cannot be."""
        try:
            self.library = ctypes.CDLL(library)
        except OSError:
            return "there is no NVIDIA driver (%s) here" % library
        code = self.library.nvmlInit_v2()
        if code:
            return "NVML does not start (error %d)" % code
        count = ctypes.c_uint()
        self.library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        if index is not None and count.value > 1:
            name = bus_id(index)
            if name is None:
                return "CUDA does not tell which of %d GPUs it uses" % count.value
            code = self.library.nvmlDeviceGetHandleByPciBusId_v2(name, ctypes.byref(self.handle))
        else:
            code = self.library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.handle))
        return "NVML has no such GPU (error %d)" % code if code else None

    def ask(self, name: str, answer: Any, *words: Any) -> Any:  # noqa: ANN401  C types
        """Call nvmlDeviceGet<name>; the filled answer, or None where that is not supported."""
        call = None if self.reason else getattr(self.library, "nvmlDeviceGet" + name, None)
        if call is None or call(self.handle, *words, ctypes.byref(answer)):
            return None
        return answer

    def value(self, name: str, *words: int, wide: bool = False) -> Optional[int]:
        """Ask for one number."""
        answer = self.ask(name, ctypes.c_ulonglong() if wide else ctypes.c_uint(), *words)
        return None if answer is None else int(answer.value)

    def about(self) -> Answer:
        """What it is: its name, its memory and the driver."""
        name, driver = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
        total = self.ask("MemoryInfo", (ctypes.c_ulonglong * 3)())
        if self.reason or self.library.nvmlDeviceGetName(self.handle, name, 96):
            return {"gpu": None, "gpu_memory_bytes": None, "gpu_driver": None}
        unknown = self.library.nvmlSystemGetDriverVersion(driver, 96)
        return {
            "gpu": name.value.decode(errors="replace"),
            "gpu_memory_bytes": None if total is None else int(total[0]),
            "gpu_driver": None if unknown else driver.value.decode(errors="replace"),
        }

    def doing(self) -> Answer:
        """Its clock and temperature, and for how long it was slowed since the driver was loaded."""
        power, heat = (self.ask("ViolationStatus", (ctypes.c_ulonglong * 2)(), k) for k in (0, 1))
        return {
            "gpu_mhz": self.value("ClockInfo", 1),  # of the multiprocessors
            "gpu_celsius": self.value("Temperature", 0),
            "gpu_capped_ns": None if power is None else int(power[1]),
            "gpu_hot_ns": None if heat is None else int(heat[1]),
        }

    def slowed(self) -> List[str]:
        """What holds its clock down at this moment, besides having nothing to do."""
        bits = self.value("CurrentClocksEventReasons", wide=True)
        if bits is None:  # drivers before 535 call them throttle reasons
            bits = self.value("CurrentClocksThrottleReasons", wide=True)
        return [name for bit, name in GPU_SLOWED.items() if (bits or 0) & bit]

    def held(self) -> Tuple[Optional[int], Optional[str]]:
        """Memory that this process holds now, in bytes, or None and why."""
        count, room = ctypes.c_uint(256), (GpuProcess * 256)()
        call = None
        if not self.reason:
            call = getattr(self.library, "nvmlDeviceGetComputeRunningProcesses_v3", None)
        if call is None:
            return None, self.reason or "this driver's NVML does not list processes (before 510)"
        if call(self.handle, ctypes.byref(count), room):
            return None, "NVML does not list this GPU's processes"
        ours = [each.bytes for each in room[: count.value] if each.pid == os.getpid()]
        if not ours:
            return None, "NVML does not list this process: in a container it has another number"
        known = ours[0] != ctypes.c_ulonglong(-1).value
        return (
            (int(ours[0]), None) if known else (None, "NVML does not tell memory by process here")
        )

    def joules(self) -> float:
        """Energy since the driver was loaded; ``OSError`` where it is not counted."""
        millijoules = self.value("TotalEnergyConsumption", wide=True)
        if millijoules is None:
            raise OSError(self.reason or "this GPU does not count its energy (Volta and later do)")
        return millijoules / 1e3


class GpuProcess(ctypes.Structure):
    """nvmlProcessInfo_t, as versions 2 and 3 of the call fill it."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


def bus_id(index: int, library: str = "libcuda.so.1") -> Optional[bytes]:
    """Where on the bus CUDA's device of this number is; NVML numbers them otherwise."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(32)
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), index)
        or cuda.cuDeviceGetPCIBusId(name, 32, device)
    )
    return None if failed else name.value


# What a Jetson says


def tegra(root: str) -> bool:
    """Whether this is a Jetson."""
    return "nvidia,tegra" in read("proc/device-tree/compatible", root) or l4t(root) is not None


def l4t(root: str) -> Optional[str]:
    """Release of Jetson Linux, as R36.4.4."""
    seen = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read("etc/nv_tegra_release", root))
    return "R%s.%s" % seen.groups() if seen else None


def nvpmodel(text: str) -> Optional[str]:
    """Name of the power mode in what ``nvpmodel -q`` prints."""
    seen = re.search(r"NV Power Mode:[ \t]*(\S+)", text)
    return seen.group(1) if seen else None


def power_mode(root: str) -> Optional[str]:
    """Name of a Jetson's power mode, asked without root and never changed."""
    if not tegra(root):
        return None
    tool = shutil.which("nvpmodel") or str(Path(root, "usr/sbin/nvpmodel"))
    mode = nvpmodel(said([tool, "-q"]))
    stored = re.search(r"pmode:0*(\d+)", read("var/lib/nvpmodel/status", root))
    if mode or not stored:
        return mode
    name = r"POWER_MODEL\s+ID=%s\s+NAME=(\w+)" % stored.group(1)
    seen = re.search(name, read("etc/nvpmodel.conf", root))
    return seen.group(1) if seen else "mode %s" % stored.group(1)


def tegrastats_line(text: str) -> Answer:
    """Read one line of tegrastats; what it does not say is None or left out.

    Powers are the first number of each group: the second is an average since
    tegrastats was started.
    """
    ram = re.search(r"\bRAM (\d+)/(\d+)MB", text)
    load = re.search(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?([\w,]+)\]?)?", text)
    sensors = re.findall(r"(\w+)@(-?[\d.]+)C(?=[\s/]|$)", text)
    power = re.findall(r"(?<!\S)([A-Za-z]\w*) (\d+)(?:mW(?:/\d+mW)*|(?:/\d+)+)(?=\s|$)", text)
    rails = {name: int(milliwatts) for name, milliwatts in power}
    percent, mhz = load.groups() if load else (None, None)
    return {
        "ram_mb": [int(size) for size in ram.groups()] if ram else None,
        "gpu_percent": int(percent) if percent else None,
        "gpu_mhz": [int(n) for n in mhz.split(",") if n.isdigit()] if mhz else None,
        "celsius": {name: float(t) for name, t in sensors if float(t) > -256},
        "milliwatts": rails,
        "total_milliwatts": total_power(rails),
    }


def total_power(rails: Mapping[str, float]) -> Optional[float]:
    """Power of a whole module: that of its input, or else the sum of its rails.

    Left out of the sum are what is not connected and what another rail feeds.
    """
    for name in INPUTS:
        if name in rails:
            return rails[name]
    return sum(power for name, power in rails.items() if name not in UNSUMMED) if rails else None


def ina3221(root: str) -> Dict[str, float]:
    """Power in milliwatts of every rail with a sensor of its own.

    The kernel gives mV and mA (Documentation/hwmon/ina3221.rst). Thor has an ina238
    at its input, which has no label.
    """
    rails = {}
    for folder in find("sys/class/hwmon/hwmon*", root):
        chip = read(folder + "/name")
        for channel in (1, 2, 3) if chip == "ina3221" else (1,) if chip == "ina238" else ():
            volts = number("%s/in%d_input" % (folder, channel))
            amperes = number("%s/curr%d_input" % (folder, channel))
            label = "VIN" if chip == "ina238" else read("%s/in%d_label" % (folder, channel))
            if volts is not None and amperes is not None and label:
                rails[label] = volts * amperes / 1e3
    return rails


# Energy


class Meter:
    """Energy that this device has used since it was first asked, by its best counter.

    A GPU's own where the artifact runs on one; else a Jetson's sensors; else RAPL.
    All of them count what everything else on the device uses, too.
    """

    def __init__(self, gpu: Optional[Gpu] = None, root: str = "/", pause: float = 0.1) -> None:
        """Choose the counter; sensors that only know power are read every ``pause`` seconds."""
        self.source: Optional[str] = None
        self.reason = "there is no energy counter here: no RAPL, no Jetson"
        self.joules: Callable[[], float] = float
        reasons = []
        for source, start in self.sources(gpu, root, pause):
            try:
                self.joules, self.reason = start()
            except OSError as error:
                reasons.append(str(error))
                continue
            self.source = source
            return
        self.reason = "; ".join(reasons) or self.reason

    @staticmethod
    def sources(
        gpu: Optional[Gpu], root: str, pause: float
    ) -> Iterator[Tuple[str, Callable[[], Started]]]:
        """Yield what could count here, the best first, each with how to start it."""
        if tegra(root):
            yield "ina3221", lambda: powers(root, pause)
            yield "tegrastats", lambda: tegrastats(pause)
        elif gpu is not None:
            known = gpu
            yield "nvml", lambda: (rising(known.joules), "the whole GPU, all processes")
        elif find("sys/class/powercap/intel-rapl:*", root):
            yield "rapl", lambda: rapl(root)

    def read(self) -> Answer:
        """Joules so far, or None with the reason; otherwise the reason says what is counted."""
        joules, reason = None, self.reason
        if self.source is not None:
            try:
                joules = self.joules()
            except OSError as error:
                reason = str(error)
        at = time.monotonic_ns()
        return {"source": self.source, "joules": joules, "at_ns": at, "reason": reason}


def rising(counter: Callable[[], float], wraps_at: float = float("inf")) -> Callable[[], float]:
    """Follow a counter from now on, past the point where it starts again at 0."""
    last, total = counter(), 0.0

    def joules() -> float:
        nonlocal last, total
        seen = counter()
        total += seen - last + (wraps_at if seen < last else 0.0)
        last = seen
        return total

    return joules


def rapl(root: str) -> Started:
    """Count the energy of all CPU packages, Intel's and AMD's.

    In µJ, up to max_energy_range_uj (Linux, Documentation/power/powercap/powercap.rst).
    Zones of cores and memory lie inside those of packages; psys is the whole platform.
    """
    followed = []
    for folder in find("sys/class/powercap/intel-rapl:*", root):
        if read(folder + "/name").startswith("package"):
            span = (number(folder + "/max_energy_range_uj") or 0) / 1e6

            def counter(path: str = folder + "/energy_uj") -> float:
                micro = number(path)
                if micro is None:
                    raise OSError(
                        "RAPL's energy_uj is for root only (since CVE-2020-8694): "
                        "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
                    )
                return micro / 1e6

            followed.append(rising(counter, span))
    if not followed:
        raise OSError("RAPL has no CPU package here")
    return lambda: sum(joules() for joules in followed), "the CPU packages, all processes"


def powers(root: str, pause: float) -> Started:
    """Add up the power that a Jetson's INA3221 sensors show."""
    rails = ina3221(root)
    if total_power(rails) is None:
        raise OSError("no INA3221 sensor can be read in /sys/class/hwmon")

    def watts() -> Iterator[float]:
        now = rails
        while set(now) == set(rails):  # without one of them the total would mean another thing
            yield (total_power(now) or 0.0) / 1e3
            time.sleep(pause)
            now = ina3221(root)

    named = [name for name in INPUTS if name in rails][:1]
    parts = named or [name for name in rails if name not in UNSUMMED]
    return Integral(watts(), "INA3221").joules, "the module (%s), all processes" % " + ".join(parts)


def tegrastats(pause: float) -> Started:
    """Add up the power that tegrastats prints, where its sensors are not in /sys."""
    tool = shutil.which("tegrastats") or "/usr/bin/tegrastats"
    command = [tool, "--interval", "%d" % (pause * 1000)]
    if not os.access(tool, os.X_OK):
        raise OSError("there is no tegrastats here")

    def watts() -> Iterator[float]:
        # Once this process is gone nobody reads the pipe, and the child ends at its next line.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as child:
            for line in child.stdout or ():
                power = tegrastats_line(line.decode(errors="replace"))["total_milliwatts"]
                if power is not None:
                    yield power / 1e3

    return Integral(watts(), "tegrastats").joules, "the module, all processes"


class Integral:
    """Energy from single readings of power, each taken to last until the next."""

    def __init__(self, watts: Iterator[float], name: str) -> None:
        """Read in a thread, which is kept off the CPUs that are measured where others are left."""
        self.name, self.total, self.ended = name, 0.0, False
        self.last: Optional[Tuple[float, float]] = None
        self.lock, self.ready = threading.Lock(), threading.Event()
        threading.Thread(target=self.follow, args=(watts,), daemon=True).start()
        if not self.ready.wait(5) or self.last is None:
            raise OSError("%s shows no power here" % name)

    def follow(self, watts: Iterator[float]) -> None:
        """Take in readings until there are no more."""
        keep_off()
        for power in watts:
            with self.lock:
                self.advance()
                self.last = (time.monotonic(), power)
            self.ready.set()
        self.ended = True
        self.ready.set()

    def advance(self) -> None:
        """Count the last reading up to now."""
        if self.last is not None:
            now = time.monotonic()
            self.total += (now - self.last[0]) * self.last[1]
            self.last = (now, self.last[1])

    def joules(self) -> float:
        """Energy since the first reading."""
        if self.ended:
            raise OSError("%s shows no power any more" % self.name)
        with self.lock:
            self.advance()
            return self.total


def keep_off() -> None:
    """Move this thread to CPUs that the process was not pinned to, if there are any."""
    if hasattr(os, "sched_setaffinity"):
        others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, others or os.sched_getaffinity(0))
        except OSError:
            return  # a cpuset grants none of the others


def pin(threads: int, cpus: Optional[Sequence[int]]) -> Optional[List[int]]:
    """Keep this process on the named CPUs, or on the fastest, one per physical core."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    base = "/sys/devices/system/cpu/cpu%d/"

    def rank(cpu: int) -> Tuple[int, int, int]:
        siblings = read(base % cpu + "topology/thread_siblings_list").replace("-", ",").split(",")
        speed = int(read(base % cpu + "cpufreq/cpuinfo_max_freq") or 0)
        return (int(siblings[0] not in ("", str(cpu))), -speed, -cpu)  # CPU 0 serves interrupts

    allowed = sorted(os.sched_getaffinity(0), key=rank)
    try:
        os.sched_setaffinity(0, cpus or allowed[:threads])
    except OSError as error:
        raise RunnerError(
            "CPUs %s cannot be used here, these can: %s" % (cpus, sorted(allowed))
        ) from error
    return sorted(os.sched_getaffinity(0))


# ------------------------------------------------------------------ commands


class Runner:
    """One artifact and what can be asked about it."""

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self.model: Optional[Model] = None
        self.batches: List[np.ndarray] = []
        self.gpu: Optional[Gpu] = None
        self.meter: Optional[Meter] = None

    def loaded(self) -> Model:
        """Return the model, which has to be loaded first."""
        if self.model is None:
            raise RunnerError("no artifact is loaded yet: send 'load' first")
        return self.model

    def load(
        self,
        artifact: str,
        *,
        backend: Optional[str] = None,
        threads: int = 1,
        cpus: Optional[List[int]] = None,
        precision: str = "f32",
        batch: Optional[int] = None,
        device: str = "cpu",
        cuda_graph: bool = False,
        profile: bool = False,
    ) -> Answer:
        """Load an artifact, once in a process's life, and read back how it will run.

        Its files are hashed first, so what is timed finds them in the page cache.
        """
        path, name = self.checked(artifact, backend)
        how = Loading(path, threads, precision, batch, gpu_number(device), cuda_graph)
        if name == "openvino" and how.gpu is not None:
            raise RunnerError("OpenVINO is used on the CPU only: leave out device '%s'" % device)
        if cuda_graph and (name != "torch" or how.gpu is None):
            raise RunnerError("a CUDA graph needs the back end torch and a GPU: device cuda:0")
        paths = artifact_files(path)
        names = [each.relative_to(path.parent).as_posix() for each in paths]
        files = dict(zip(names, digests(paths)))
        used = pin(threads, cpus)
        start = time.perf_counter_ns()
        runtime(name)
        imported = time.perf_counter_ns()
        self.model = model = loaded_model(name, how, profile=profile)
        load_ns = time.perf_counter_ns() - imported
        number = gpu_number(model.device)  # TensorRT needs one, and is not asked
        self.gpu = None if number is None else Gpu(number)
        return {
            "backend": name,
            "version": model.version,
            "precision": model.precision,
            "threads": model.threads,
            "cpus": used,
            "shape": model.shape,
            "device": model.device,
            "spinning": model.spinning,
            "properties": model.properties,
            "files": files,
            "import_ns": imported - start,
            "load_ns": load_ns,
            "peak_bytes": memory()["peak_bytes"],
        }

    def checked(self, artifact: str, backend: Optional[str]) -> Tuple[Path, str]:
        """Return the file to load and its back end; nothing else has been loaded."""
        path = Path(artifact)
        if self.model is not None:
            raise RunnerError("this process has loaded an artifact already: start another")
        if path.suffix == ".plan" and not path.is_file() and path.with_name(RECIPE).is_file():
            raise RunnerError("there is no engine yet, build it first: python3 run.py build")
        if not path.is_file():
            raise RunnerError("there is no file %s" % path)
        return path, back_end(path, backend)

    def prepare(self, inputs: Optional[str], batch: int) -> None:
        """Read the images (N, C, H, W) that timed inferences take in turns, or make noise."""
        shape = self.loaded().shape
        least, most = self.limits()
        if not least <= batch <= (most or batch):
            sizes = str(least) if least == most else "%d to %d" % (least, most or 0)
            raise RunnerError("this artifact takes batches of %s, not of %d" % (sizes, batch))
        size = [length for length in shape[1:] if length is not None]
        if inputs is None and len(size) != 3:
            raise RunnerError("this artifact takes images of any size: give an .npy of some")
        images = (
            read_images(inputs)
            if inputs
            else np.random.default_rng(0).standard_normal((batch, *size), np.float32)
        )
        self.check(images)
        starts = range(0, max(len(images) - batch + 1, 1), batch)
        self.batches = [padded(images[at : at + batch], batch) for at in starts]

    def limits(self) -> Tuple[int, Optional[int]]:
        """The smallest and the largest batch that the artifact takes."""
        model = self.loaded()
        return model.batches or (model.shape[0] or 1, model.shape[0])

    def check(self, images: np.ndarray) -> None:
        """Refuse images of a size that the artifact does not take."""
        shape = self.loaded().shape
        fits = [size in (None, n) for size, n in zip(shape[1:], images.shape[1:])]
        if len(images.shape) != len(shape) or not all(fits):
            wanted, seen = ("×".join(str(n or "any") for n in s[1:]) for s in (shape, images.shape))
            raise RunnerError("this artifact takes images of %s, not of %s" % (wanted, seen))

    def warmup(
        self,
        inputs: Optional[str] = None,
        batch: int = 1,
        seconds: float = 0.5,
        limit: float = 10.0,
        idle: float = 0.0,
    ) -> Answer:
        """Run blocks until two in a row have medians within 2 %, or the limit is over.

        A second and two blocks of five inferences are waited for, if the limit allows.
        """
        self.prepare(inputs, batch)
        begin, medians = time.perf_counter(), []
        first = self.block(0.0, 1, settle=0.0)["ns"][0]
        while True:
            times = self.block(seconds, 5, settle=0.0, idle=idle)["ns"]
            medians.append(float(np.median(times)))
            spent = time.perf_counter() - begin
            steady = len(medians) > 1 and abs(medians[-1] / medians[-2] - 1) <= 0.02
            if spent > limit or (steady and spent >= 1.0):
                return {"first_ns": first, "steady": steady, "warmup_ns": medians}

    def block(
        self, seconds: float, iterations: int, settle: float = 0.03, idle: float = 0.0
    ) -> Answer:
        """Time single inferences for at least so long and at least so many.

        The other model ran just before and left its data in the caches: what
        happens in the first ``settle`` seconds is not counted. With ``idle`` seconds
        of rest before every inference, cold caches are what is to be measured.
        """
        model, batches = self.loaded(), self.batches
        infer, settled = model.infer, 0
        samples: List[int] = []
        computing: List[int] = []
        if not batches:
            raise RunnerError("there are no images yet: send 'warmup' first")
        clock = time.perf_counter_ns
        begin = clock()
        while not idle and clock() - begin < settle * 1e9:
            infer(batches[0])
            settled += 1
        end = clock() + int(seconds * 1e9)
        while len(samples) < iterations or clock() < end:
            images = batches[len(samples) % len(batches)]
            if idle:
                time.sleep(idle)
            start = clock()
            infer(images)
            samples.append(clock() - start)
            if model.compute_ns is not None:
                computing.append(model.compute_ns())
        computed = {"compute_ns": computing} if computing else {}
        return {"ns": samples, "settled": settled, **computed}

    def layers(self, iterations: int = 20) -> Answer:
        """Time every layer; times add up to more than an inference that is not watched."""
        profile = self.loaded().profile
        if profile is None:
            raise RunnerError("layers are timed after 'load' with profile=true only")
        if not self.batches:
            raise RunnerError("there are no images yet: send 'warmup' first")
        told = profile(self.batches[0], max(iterations, 1))
        total = float(np.median(told.total_ns))
        return {"profiler": told.profiler, "layers": told.layers, "total_ns": total}

    def logits(self, images: np.ndarray, batch: int = 1) -> np.ndarray:
        """Return the logits (N, K) of float32 images (N, C, H, W), any number of them."""
        self.check(images)
        least, most = self.limits()
        size, results = min(max(batch, least), most or max(batch, least)), []
        for at in range(0, len(images), size):
            part = images[at : at + size]
            full = padded(part, least) if len(part) < least else np.ascontiguousarray(part)
            results.append(np.array(self.loaded().infer(full)[: len(part)]))
        return np.concatenate(results)

    def energy(self) -> Answer:
        """Energy that this device has used since it was first asked for."""
        if self.meter is None:
            self.meter = Meter(self.gpu)
        return self.meter.read()

    def predict(self, inputs: str, outputs: str, batch: int = 1) -> Answer:
        """Write the logits (N, K) of images (N, C, H, W), both as .npy."""
        images = read_images(inputs)
        logits = self.logits(images, batch)
        target = Path(outputs)
        partial_file = target.with_name(target.name + ".partial")
        with partial_file.open("wb") as file:
            np.save(file, logits)
        partial_file.replace(target)
        return {"images": len(images)}


def loaded_model(name: str, how: Loading, *, profile: bool) -> Model:
    """Load an artifact; whatever its runtime throws becomes one sentence."""
    try:
        model = LOADERS[name](how)
    except RunnerError:
        raise
    except Exception as error:  # a runtime may raise anything
        lines = [line.strip() for line in str(error).splitlines()]
        told = " ".join(line for line in lines if line and not line.startswith("Exception from"))
        seen = (how.path.name, name, told[:400] or type(error).__name__)
        raise RunnerError("%s cannot be loaded by %s: %s" % seen) from error
    if len(model.shape) != 4:
        wanted = "images (N, C, H, W) are what is measured"
        raise RunnerError("this artifact takes inputs of shape %s; %s" % (model.shape, wanted))
    if profile and model.profile is None:
        text = "%s has no profiler of layers on %s: use the back end torch or tensorrt"
        raise RunnerError(text % (name, model.device))
    return model if profile else replace(model, profile=None)


def read_images(path: str) -> np.ndarray:
    """Images (N, C, H, W) as float32 from an .npy file that holds no Python objects."""
    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RunnerError("%s cannot be read as .npy: %s" % (path, error)) from error
    if images.ndim != 4 or not len(images) or images.dtype != np.float32:
        seen = "%s of shape %s" % (images.dtype, images.shape)
        raise RunnerError("%s holds %s; float32 (N, C, H, W) is wanted" % (path, seen))
    return np.ascontiguousarray(images)


def padded(images: np.ndarray, batch: int) -> np.ndarray:
    """Repeat images until they fill a batch."""
    return np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))


def answer(runner: Runner, message: Answer) -> Answer:
    """Carry out one command; a failure is an answer too."""
    commands: Dict[Any, Callable[..., Answer]] = {
        "load": runner.load,
        "warmup": runner.warmup,
        "block": runner.block,
        "layers": runner.layers,
        "predict": runner.predict,
        "memory": lambda: memory(runner.gpu),
        "energy": runner.energy,
        "state": lambda: state(runner.gpu),
        "info": lambda: {"machine": machine(runner.gpu), "state": state(runner.gpu)},
        "quit": dict,
    }
    name = message.get("do")
    if name not in commands:
        known = ", ".join(commands)
        return {"ok": False, "error": "there is no command %r; there are %s" % (name, known)}
    words = {key: value for key, value in message.items() if key not in ("id", "do")}
    try:
        return {"ok": True, **commands[name](**words)}
    except RunnerError as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:  # a runtime may raise anything
        traceback.print_exc()
        return {"ok": False, "error": "%s: %s" % (type(error).__name__, error)}


def serve(commands: IO[str], answers: IO[str]) -> None:
    """Answer commands until ``quit`` or until nobody is there to ask."""
    runner = Runner()
    for line in commands:
        try:
            message = dict(json.loads(line))
        except (TypeError, ValueError) as error:
            message = {"do": "a line that is no JSON object: %s" % error}
        reply = {"id": message.get("id"), **answer(runner, message)}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
        if message.get("do") == "quit":
            return


# ------------------------------------------------------------------ bundle


class DamagedError(RunnerError):
    """A bundle that is not as it was made."""

    code = 5


@dataclass(frozen=True)
class Artifact:
    """The slim model of a bundle in one form; ``file`` is relative to the bundle."""

    backend: str
    precision: str
    file: str


@dataclass(frozen=True)
class Bundle:
    """What ``bundle.json`` says, as far as a device needs it."""

    folder: Path
    title: str
    artifacts: Tuple[Artifact, ...]  # the one that the target is for first
    classes: Tuple[str, ...]
    multi_label: bool
    bits: int  # of wide grey samples in training
    steps: Dict[str, Answer]
    files: Dict[str, Tuple[int, str]]  # bytes and SHA-256


def open_bundle() -> Bundle:
    """Read the bundle that this file lies in."""
    folder = Path(__file__).resolve().parent
    document = read_document(folder / BUNDLE)
    if (document.get("format"), document.get("version")) != FORMAT:
        text = "%s is %s version %s; this file reads %s version %s"
        raise RunnerError(text % (BUNDLE, document.get("format"), document.get("version"), *FORMAT))
    try:
        target, data = document["target"], document["data"]
        first = (target["runtime"], target["measured_in"])
        made = [artifact_of(each) for each in document["artifacts"] if each["model"] == "slim"]
        made.sort(key=lambda each: first.index(each.backend) if each.backend in first else 2)
        seen = (document["source"]["name"], target["name"], document["created"])
        return Bundle(
            folder=folder,
            title="%s for %s, made %s" % seen,
            artifacts=tuple(made),
            classes=tuple(data["classes"]),
            multi_label=data["multi_label"],
            bits=data["bits"],
            steps=read_steps(document["preprocessing"]),
            files={each["path"]: (each["bytes"], each["sha256"]) for each in document["files"]},
        )
    except (KeyError, TypeError, AttributeError) as error:
        text = "%s was made by another version of edgeprune (%s: %s)"
        raise RunnerError(text % (BUNDLE, type(error).__name__, error)) from error


def read_document(path: Path) -> Answer:
    """Read one of a bundle's JSON documents."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunnerError("there is no %s beside %s" % (path.name, Path(__file__).name)) from error
    except ValueError as error:
        raise DamagedError("%s is damaged: %s" % (path.name, error)) from error
    if not isinstance(document, dict):
        raise DamagedError("%s is damaged: it holds no JSON object" % path.name)
    return document


def artifact_of(listed: Answer) -> Artifact:
    """Return an artifact as the bundle lists it; of TensorRT, the engine that is built here."""
    file = Path(listed["files"][0]["path"])
    file = file.with_name("engine.plan") if listed["runtime"] == "tensorrt" else file
    return Artifact(listed["runtime"], listed["precision"], file.as_posix())


def lacking(bundle: Bundle, artifact: Artifact) -> Optional[str]:
    """Say why an artifact cannot be run here, or None."""
    if not find_spec(artifact.backend):
        return "%s is not installed" % artifact.backend
    if artifact.backend == "tensorrt" and not (bundle.folder / artifact.file).is_file():
        return "its engine is not built yet: python3 run.py build"
    return None


def chosen(bundle: Bundle, backend: Optional[str]) -> Artifact:
    """Return the best artifact that can be run here, whole; what was passed over is told."""
    passed: List[str] = []
    for artifact in bundle.artifacts:
        reason = lacking(bundle, artifact)
        if backend not in (None, artifact.backend):
            reason = "--backend %s was asked for" % backend
        if reason is None:
            for _, fault in damages(bundle, folder_of(artifact.file)):
                raise DamagedError("%s; copy the bundle again" % fault)
            for text in passed if backend is None else ():
                tell("not used: " + text)
            return artifact
        passed.append("%s: %s" % (artifact.file, reason))
    raise RunnerError("no artifact of this bundle can be run here: %s" % "; ".join(passed))


def folder_of(name: str) -> str:
    """Return the folder of a file of the bundle; an artifact has one to itself."""
    return Path(name).parent.as_posix()


def damages(bundle: Bundle, folder: Optional[str] = None) -> Iterator[Tuple[str, str]]:
    """Yield the files, all or a folder's, that are not those ``bundle.json`` lists, and why."""
    for name, (size, sha) in bundle.files.items():
        path = bundle.folder / name
        if folder not in (None, folder_of(name)):
            continue
        if Path(name).is_absolute() or ".." in Path(name).parts:
            yield name, "%s would lie outside the bundle" % name
        elif not path.is_file():
            yield name, "%s is missing" % name
        elif path.stat().st_size != size:
            yield name, "%s has %d bytes, not %d" % (name, path.stat().st_size, size)
        elif digest(path) != sha:
            yield name, "%s is not the file that was listed: its SHA-256 differs" % name


def tell(text: str) -> None:
    """Say something that is no part of the answer."""
    print("%s: %s" % (Path(__file__).name, text), file=sys.stderr, flush=True)


# ------------------------------------------------------------------ as a program


def predict(options: argparse.Namespace, out: IO[str]) -> int:
    """Say what pictures show; one that cannot be read does not stop the others."""
    if options.artifact:
        return predict_arrays(options)
    if not options.images:
        raise UsageError("name pictures, or folders of them, to predict what they show")
    bundle = open_bundle()
    artifact, runner = chosen(bundle, options.backend), Runner()
    loaded = runner.load(str(bundle.folder / artifact.file), **loading(options, artifact))
    words = (artifact.file, artifact.precision, artifact.backend, short(loaded["version"]))
    rows = []
    if not options.json:
        tell("%s, %s, in %s %s" % words)
    for row in predictions(bundle, runner, list(pictures(options.images)), options.batch or 1):
        rows.append(row)
        if not options.json:
            print(prediction_line(row, bundle.multi_label), file=out, flush=True)
    if options.json:
        head = dict(zip(("artifact", "precision", "backend", "version"), words))
        told = {**head, "classes": bundle.classes, "multi_label": bundle.multi_label}
        write_json({**told, "images": rows}, out)
    return int(any("error" in row for row in rows))


def predict_arrays(options: argparse.Namespace) -> int:
    """Write the logits of prepared images, without a bundle."""
    if not (options.inputs and options.outputs) or options.images:
        raise UsageError("--artifact goes with --inputs and --outputs, and without pictures")
    runner = Runner()
    runner.load(options.artifact, **loading(options))
    runner.predict(options.inputs, options.outputs, options.batch or 1)
    return 0


def loading(options: argparse.Namespace, artifact: Optional[Artifact] = None) -> Answer:
    """Pick the options that say how to load an artifact."""
    words = {name: getattr(options, name) for name in ("backend", "threads", "device")}
    return {**words, "backend": artifact.backend if artifact else options.backend}


def pictures(names: Sequence[str]) -> Iterator[Path]:
    """Yield the files that are named, and the pictures of folders that are."""
    for path in map(Path, names):
        inside = sorted(path.rglob("*")) if path.is_dir() else []
        found = [
            each
            for each in inside
            if each.suffix.lower() in PICTURES
            and not any(part.startswith(".") for part in each.relative_to(path).parts)
        ]
        yield from found or [path]


def predictions(
    bundle: Bundle, runner: Runner, paths: Sequence[Path], batch: int
) -> Iterator[Answer]:
    """Yield what each picture shows, or the error that it has."""
    for start in range(0, len(paths), batch):
        part = [prepared(path, bundle) for path in paths[start : start + batch]]
        images = [image for image in part if not isinstance(image, str)]
        logits = iter(runner.logits(np.stack(images), batch) if images else ())
        for path, image in zip(paths[start:], part):
            told = {"error": image} if isinstance(image, str) else findings(next(logits), bundle)
            yield {"file": str(path), **told}


def prepared(path: Path, bundle: Bundle) -> Union[np.ndarray, str]:
    """Return a picture as the model wants it, float32 (C, H, W), or why there is none."""
    if path.is_dir():
        return "it is a folder without pictures"
    try:
        return normalized(fit(decode(path, bundle.bits), bundle.steps), bundle.steps)
    except RunnerError as error:
        return str(error)


def findings(logits: np.ndarray, bundle: Bundle) -> Answer:
    """Return what logits (K,) say: the class, or all findings above one half."""
    if len(logits) != len(bundle.classes):
        seen = (len(logits), len(bundle.classes))
        raise DamagedError("the artifact gives %d logits for the bundle's %d classes" % seen)
    values = logits.astype(np.float64)
    if not np.isfinite(values).all():
        return {"error": "the model gives no finite numbers for it"}
    if bundle.multi_label:
        shares = 0.5 * (1.0 + np.tanh(0.5 * values))  # the sigmoid, without overflow
    else:
        shares = np.exp(values - values.max())
        shares /= shares.sum()
    most = int(shares.argmax())
    told: Answer = {"class": bundle.classes[most], "probability": float(shares[most])}
    if bundle.multi_label:
        above = [name for name, share in zip(bundle.classes, shares) if share > 0.5]
        told = {"findings": above, "most": bundle.classes[most]}
    chances = {name: float(share) for name, share in zip(bundle.classes, shares)}
    return {**told, "probabilities": chances, "logits": [float(value) for value in logits]}


def prediction_line(row: Answer, multi_label: bool) -> str:
    """Say in one line what a picture shows."""
    if "error" in row:
        text = "cannot be used: %s" % row["error"]
    elif not multi_label:
        text = "%s %.3f" % (row["class"], row["probability"])
    else:
        chances = row["probabilities"]
        found = sorted(row["findings"], key=chances.__getitem__, reverse=True)
        text = ", ".join("%s %.3f" % (name, chances[name]) for name in found)
        text = text or "no finding above one half; most: %s %.3f" % (
            row["most"],
            chances[row["most"]],
        )
    return printable("%s: %s" % (row["file"], text))


def short(version: str) -> str:
    """Leave out what builds add to a version."""
    return version.partition("-")[0]


def printable(text: str) -> str:
    """Replace what could steer a terminal: names of files and classes are others'."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def selftest(options: argparse.Namespace, out: IO[str]) -> int:
    """Check files, preprocessing and every artifact that can be run; 5 if anything is wrong."""
    rows = []
    for row in selftests(open_bundle()):
        rows.append(row)
        if not options.json:
            mark = {"pass": "ok", "fail": "FAIL", "note": "note"}.get(row["status"], "-")
            line = printable("%-4s  %s: %s" % (mark, row["what"], row["detail"]))
            print(line, file=out, flush=True)
    found = [row["status"] for row in rows]
    ran = any("measure" in row for row in rows)
    code = 5 if "fail" in found else 0 if ran else 3
    skipped = found.count("skipped")
    verdict = {
        0: "what was run works here as where it was made; not run: %d of its artifacts" % skipped
        if skipped
        else "this bundle works here as where it was made",
        3: "nothing could be run here: install a runtime that the bundle is for",
        5: "this bundle is not, or does not work, as it was made",
    }[code]
    if options.json:
        write_json({"exit_code": code, "verdict": verdict, "checks": rows}, out)
    else:
        print(verdict, file=out)
    return code


def selftests(bundle: Bundle) -> Iterator[Answer]:
    """Yield one check after another: what, pass, fail, skipped or note, and what was seen."""
    damaged = dict(damages(bundle))
    for name, fault in damaged.items():
        yield {"what": name, "status": "fail", "detail": fault}
    if not damaged:
        text = "%d files have the size and SHA-256 of %s" % (len(bundle.files), BUNDLE)
        yield {"what": "files", "status": "pass", "detail": text}
    for path in sorted(bundle.folder.rglob("*")):
        name = path.relative_to(bundle.folder).as_posix()
        if path.is_file() and name not in (*bundle.files, BUNDLE, "signature.json"):
            yield {"what": name, "status": "note", "detail": "not listed, so not checked"}
    golden = sorted(name for name in damaged if name.startswith("golden/"))
    if golden:
        yield {"what": "golden", "status": "fail", "detail": "%s cannot be used" % golden[0]}
        return
    yield preprocessing_test(bundle)
    for artifact in bundle.artifacts:
        reason = lacking(bundle, artifact)
        if folder_of(artifact.file) in map(folder_of, damaged):
            told: Answer = {"status": "fail", "detail": "not run, since a file of it is damaged"}
        elif reason:
            told = {"status": "skipped", "detail": "not run: " + reason}
        else:
            told = artifact_test(bundle, artifact)
        yield {"what": artifact.file, **told}


def preprocessing_test(bundle: Bundle) -> Answer:
    """Prepare the golden picture here, and compare with what training made of it."""
    place, told = bundle.folder / "golden", {"what": "preprocessing", "status": "fail"}
    try:
        pixels = fit(decode(place / "picture.png"), bundle.steps)
        wanted = np.load(str(place / "pixels.npy"), allow_pickle=False)
        image = read_images(str(place / "inputs.npy"))[golden_of(bundle)["picture"]]
    except RunnerError as error:
        return {**told, "detail": "golden/picture.png: %s" % error}
    if pixels.shape != wanted.shape:
        return {**told, "detail": "pixels %s, not %s" % (pixels.shape, wanted.shape)}
    levels = int(np.abs(pixels.astype(int) - wanted).max())
    ready = float(np.abs(normalized(wanted, bundle.steps) - image).max())
    text = "golden/picture.png is prepared to %d grey levels and %.0e of the model's input"
    status = "pass" if levels <= 1 and ready <= 1e-5 else "fail"
    return {**told, "status": status, "detail": text % (levels, ready), "levels": levels}


def golden_of(bundle: Bundle) -> Answer:
    """Read what the golden files are."""
    golden = read_document(bundle.folder / "golden" / "golden.json")
    if not {"limits", "picture"} <= set(golden):
        raise RunnerError("golden.json was made by another version of edgeprune")
    return golden


def artifact_test(bundle: Bundle, artifact: Artifact) -> Answer:
    """Run the golden inputs, and compare with the model's own logits as its proof did."""
    place, runner = bundle.folder / "golden", Runner()
    limits = golden_of(bundle)["limits"]
    own = folder_of(artifact.file)
    limit = next((limits[name] for name in limits if folder_of(name) == own), None)
    if limit is None:
        return {"status": "fail", "detail": "golden.json does not say how far it may be"}
    try:
        loaded = runner.load(str(bundle.folder / artifact.file), backend=artifact.backend)
        found = runner.logits(read_images(str(place / "inputs.npy")))
    except RunnerError as error:
        return {"status": "fail", "detail": str(error)}
    wanted = np.load(str(place / "outputs.npy"), allow_pickle=False)
    if found.shape != wanted.shape:
        return {"status": "fail", "detail": "logits %s, not %s" % (found.shape, wanted.shape)}
    far = distance(found, wanted, limit["measure"])
    same = found > 0 if bundle.multi_label else found.argmax(1)
    agreement = float((same == (wanted > 0 if bundle.multi_label else wanted.argmax(1))).mean())
    words = {"max_rel": "of the largest logit", "noise": "of what images change in the logits"}
    text = "%s in %s, %.1e %s from the model (%.1e is allowed); %.0f %% of its calls are the same"
    name = "%s %s" % (artifact.backend, short(loaded["version"]))
    seen = (artifact.precision, name, far, words[limit["measure"]], limit["tolerance"])
    return {
        "status": "pass" if far <= limit["tolerance"] else "fail",
        "detail": text % (*seen, 100 * agreement),
        "error": far if np.isfinite(far) else None,
        "tolerance": limit["tolerance"],
        "measure": limit["measure"],
        "agreement": agreement,
    }


def distance(found: np.ndarray, wanted: np.ndarray, measure: str) -> float:
    """Return how far logits (N, K) are from those wanted; what is not finite is infinitely far.

    ``noise`` is relative to what images change in the logits, if they change them at all.
    """
    apart = np.abs(found.astype(np.float64) - wanted)
    apart[~np.isfinite(apart)] = np.inf
    largest = max(float(np.abs(wanted).max()), 1e-12)
    spread_ = float(np.sqrt(np.square(wanted - wanted.mean(0), dtype=np.float64).mean()))
    if measure == "noise" and spread_ > 1e-4 * largest:
        return float(np.sqrt(np.square(apart).mean())) / spread_
    return float(apart.max()) / largest


def benchmark(options: argparse.Namespace, out: IO[str]) -> int:
    """Load, warm up and time an artifact: the one that is named, or the bundle's best."""
    path, inputs, artifact, runner = options.artifact, options.inputs, None, Runner()
    if path is None:
        bundle = open_bundle()
        artifact = chosen(bundle, options.backend)
        path = str(bundle.folder / artifact.file)
        inputs = inputs or str(bundle.folder / "golden" / "inputs.npy")
    words = {name: getattr(options, name) for name in ("cpus", "precision", "cuda_graph")}
    loaded = runner.load(path, batch=options.batch or 1, **words, **loading(options, artifact))
    batch = options.batch or runner.limits()[0]
    warm = runner.warmup(inputs, batch, idle=options.idle)
    before, energy = state(runner.gpu), runner.energy()
    times = np.array(runner.block(options.seconds, 10, idle=options.idle)["ns"]) / 1e6
    used, after = runner.energy(), state(runner.gpu)
    spent = None if used["joules"] is None else used["joules"] - (energy["joules"] or 0.0)
    unsettled = [] if warm["steady"] else ["the warm-up did not settle"]
    shares = zip((50, 90, 99), np.percentile(times, (50, 90, 99)).tolist())
    report = {
        "artifact": artifact.file if artifact else Path(path).name,
        **loaded,
        "inputs": Path(inputs).name if inputs else None,
        "batch": batch,
        "idle_s": options.idle,
        **warm,
        "inferences": len(times),
        **{"p%d_ms" % n: time_ if n < 99 or len(times) >= 1000 else None for n, time_ in shares},
        **memory(runner.gpu),
        "energy": {**used, "joules": None if spent is None else spent / len(times)},
        "remarks": [*unsettled, *remarks(before, after)],
    }
    if options.json:
        write_json(report, out)
    else:
        print("\n".join(benchmark_lines(report)), file=out)
    return 0


def remarks(before: Answer, after: Answer) -> List[str]:
    """Say what makes a measurement between two states doubtful, if anything."""
    found, ticks = [], (after["ticks"] or 0) - (before["ticks"] or 0)
    if ticks > 0:
        own = (after["process_s"] - before["process_s"]) / after["tick_s"]
        others = (after["busy_ticks"] - before["busy_ticks"] - own) / ticks
        steal = (after["steal_ticks"] - before["steal_ticks"]) / ticks
        if others > 0.1:
            found.append("other processes used %.0f %% of the CPU time" % (100 * others))
        if steal > 0.01:
            found.append("the hypervisor took %.1f %% of the CPU time" % (100 * steal))
    if after["throttled"] > before["throttled"]:
        found.append("the CPU was throttled")
    return found + ["the device was slowed down: " + why for why in sorted({*after["slowed"]})]


def benchmark_lines(report: Answer) -> List[str]:
    """Lay a report out for people."""
    size = "×".join(str(n or "any") for n in report["shape"][1:])
    far, joules = report["p99_ms"], report["energy"]["joules"]
    gpu, many = report["gpu_bytes"], report["inferences"]
    rows = (
        ("artifact", report["artifact"]),
        ("runtime", "%s %s" % (report["backend"], short(report["version"]))),
        ("precision", report["precision"]),
        ("runs on", "%s, threads: %s" % (report["device"], report["threads"] or "none")),
        ("input", "%d × %s, %s" % (report["batch"], size, report["inputs"] or "noise")),
        ("load", "%.3f s, import %.3f s" % (report["load_ns"] / 1e9, report["import_ns"] / 1e9)),
        ("first", "%.3f ms" % (report["first_ns"] / 1e6)),
        ("p50", "%.3f ms" % report["p50_ms"]),
        ("p90", "%.3f ms" % report["p90_ms"]),
        ("p99", "%.3f ms" % far if far else "not told: it takes 1,000 inferences"),
        ("n", "%d inferences" % many),
        ("memory", "%.1f MB at most" % ((report["peak_bytes"] or 0) / 1e6)),
        ("GPU memory", "%.1f MB" % (gpu / 1e6) if gpu else None),
        ("energy", "%.4g mJ an inference, %s" % (1e3 * joules, report["energy"]["reason"]))
        if joules is not None
        else ("energy", "not known: %s" % report["energy"]["reason"]),
        *(("doubtful", text) for text in report["remarks"]),
    )
    return [printable("%-10s  %s" % row) for row in rows if row[1]]


def info(options: argparse.Namespace, out: IO[str]) -> int:
    """Say what this device is, and what of the bundle can be run on it."""
    report: Answer = {"machine": machine(), "bundle": None}
    if (Path(__file__).resolve().parent / BUNDLE).is_file():
        bundle = open_bundle()
        report["bundle"] = {
            "title": bundle.title,
            "classes": bundle.classes,
            "artifacts": [
                {**asdict(each), "lacking": lacking(bundle, each)} for each in bundle.artifacts
            ],
        }
    if options.json:
        write_json(report, out)
        return 0
    rows = [(name.replace("_", " "), plainly(value)) for name, value in report["machine"].items()]
    if report["bundle"]:
        rows.append(("bundle", report["bundle"]["title"]))
    for each in (report["bundle"] or {}).get("artifacts", ()):
        words = (each["file"], each["precision"], each["lacking"] or "runs in " + each["backend"])
        rows.append(("artifact", "%s, %s: %s" % words))
    for row in rows:
        if row[1]:
            print(printable("%-20s  %s" % row), file=out)
    return 0


def plainly(value: Any) -> str:  # noqa: ANN401  a JSON value
    """Write a value of the machine's description; nothing where it is not known."""
    if isinstance(value, dict):
        return ", ".join("%s %s" % pair for pair in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def build(rest: List[str]) -> int:
    """Build and prove the TensorRT engine by the recipe beside this file."""
    recipes = sorted(Path(__file__).resolve().parent.glob("artifacts/tensorrt*/run.py"))
    if not recipes:
        raise RunnerError("there is no recipe for TensorRT in artifacts/ beside this file")
    commands = [[sys.executable, str(recipe), "build", *rest] for recipe in recipes]
    return max(subprocess.call(command) for command in commands)


def write_json(document: Answer, out: IO[str]) -> None:
    """Print one document."""
    out.write(json.dumps(document, indent=1, allow_nan=False) + "\n")


class UsageError(RunnerError):
    """Options that do not go together."""

    code = 2


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def duration(text: str) -> float:
    """Read a length of time."""
    if not 0.0 <= float(text) < float("inf"):
        raise ValueError(text)
    return float(text)


def cpu_list(text: str) -> List[int]:
    """Read the numbers of CPUs, as 2,3."""
    return [int(number) for number in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(
        prog=Path(__file__).name,
        description="Run the model of the bundle that this file lies in, or any artifact, on "
        "this device: Python 3.8, numpy and the artifact's runtime are all it needs.",
        epilog="Each command has help of its own: %(prog)s predict --help",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        usage = "example: %(prog)s " + example
        return verbs.add_parser(name, help=text, description=text, epilog=usage)

    shown = verb("predict", "say what pictures show", "scan.png more/ --json")
    tried = verb("selftest", "check that the bundle is whole and works here", "")
    timed = verb("benchmark", "time an artifact on this device", "--threads 2 --seconds 10")
    about = verb("info", "say what this device is and what can be run on it", "--json")
    add_predict(shown)
    add_benchmark(timed)
    for each in (shown, timed):
        text = "the runtime to use: %s" % ", ".join(LOADERS)
        each.add_argument("--backend", choices=list(LOADERS), metavar="NAME", help=text)
        text = "CPU threads (default 1)"
        each.add_argument("--threads", type=positive, default=1, metavar="N", help=text)
        text = "images per inference (default 1, or what the artifact takes)"
        each.add_argument("--batch", type=positive, metavar="N", help=text)
        text = "cpu (default), or a GPU: cuda:0"
        each.add_argument("--device", default="cpu", metavar="DEVICE", help=text)
    for each in (shown, tried, timed, about):
        each.add_argument("--json", action="store_true", help="print one JSON document")
    text = "build the TensorRT engine of a bundle, and prove it; see build --help"
    verbs.add_parser("build", add_help=False, help=text)  # the recipe's run.py has its own help
    verbs.add_parser("serve", help="answer JSON commands, one a line, on stdin and stdout")
    return top


def add_predict(verb: argparse.ArgumentParser) -> None:
    """Describe what is predicted: pictures, or arrays by a file of the user's choice."""
    verb.add_argument(
        "images",
        metavar="IMAGE",
        nargs="*",
        help="PNG, BMP, PGM, PPM, .npy (uint8), or a folder of such; JPEG, TIFF and WebP where "
        "Pillow or OpenCV is installed. Pictures are prepared as the model's training did",
    )
    arrays = verb.add_argument_group("prepared arrays, without a bundle")
    arrays.add_argument("--artifact", metavar="FILE", help="what to load: .onnx .xml .pt2 .plan")
    arrays.add_argument("--inputs", metavar="NPY", help="prepared images, float32 (N, C, H, W)")
    arrays.add_argument("--outputs", metavar="NPY", help="file to write the logits (N, K) to")


def add_benchmark(verb: argparse.ArgumentParser) -> None:
    """Describe what is timed, and how."""
    text = "what to load: .onnx .xml .pt2 .plan (default: the bundle's artifact for this device)"
    verb.add_argument("artifact", metavar="ARTIFACT", nargs="?", help=text)
    text = "prepared images, float32 (N, C, H, W) (default: the bundle's golden inputs, or noise)"
    verb.add_argument("--inputs", metavar="NPY", help=text)
    text = "time for so long (default 5)"
    verb.add_argument("--seconds", type=duration, default=5.0, metavar="S", help=text)
    text = "rest before each inference, as between a clinic's images (default 0)"
    verb.add_argument("--idle", type=duration, default=0.0, metavar="S", help=text)
    verb.add_argument("--cpus", type=cpu_list, metavar="N,N", help="CPUs to keep to")
    text = "of OpenVINO's arithmetic: f32 (default), bf16 or f16"
    verb.add_argument("--precision", default="f32", metavar="NAME", help=text)
    verb.add_argument("--cuda-graph", action="store_true", help="with torch on a GPU")


def run(options: argparse.Namespace, rest: List[str], out: IO[str]) -> int:
    """Carry out one command, and return its exit code."""
    if options.verb == "build":
        return build(rest)
    if options.verb == "serve":
        serve(sys.stdin, out)
        return 0
    verbs = {"predict": predict, "selftest": selftest, "benchmark": benchmark, "info": info}
    return verbs[options.verb](options, out)


def main() -> int:
    """Serve, or do one thing and print it; what the user can mend is one line and no traceback."""
    top = parser()
    options, rest = top.parse_known_args()
    if rest and options.verb != "build":
        top.error("unrecognized arguments: %s" % " ".join(rest))
    with os.fdopen(os.dup(1), "w", errors="backslashreplace") as out:
        os.dup2(2, 1)  # runtimes print from C++ too, past sys.stdout
        try:
            code = run(options, rest, out)
            out.flush()
        except RunnerError as error:
            tell(printable(str(error)))
            code = error.code
        except BrokenPipeError:  # nobody reads on, as in a pipe to head
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
            code = 141
        except OSError as error:
            tell("%s: %s" % (error.filename or "the system", error.strerror or error))
            code = 1
        except KeyboardInterrupt:
            tell("stopped")
            code = 130
    return code


if __name__ == "__main__":
    sys.exit(main())
