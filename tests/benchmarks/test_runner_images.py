"""The device's decoders and preprocessing against those of training: Pillow and edgeprune.data."""

import io
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgeprune.data.images import read_image
from edgeprune.data.preprocessing import Preprocessing, normalize
from edgeprune.data.preprocessing import fit as training_fit
from edgeprune_benchmarks import device_runner as runner

from .png_writer import CHANNELS, chunk, write_png

Pixels = NDArray[np.uint8]
SIZES = [(1, 1), (3, 40), (5, 7), (16, 9), (33, 20)]
FORMS = [(colour, depth) for colour, depths in runner.PNG_DEPTHS.items() for depth in depths]


def noise(*shape: int, seed: int = 0, high: int = 256) -> NDArray[Any]:
    dtype = np.uint8 if high <= 256 else np.uint16
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def picture(path: Path, array: NDArray[Any], mode: str | None = None, **words: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **words)
    return path


def assert_read_alike(path: Path, bits: int = 16, *, own: bool = True) -> None:
    """Compare with training; ``own``: no other package may have a hand in it."""
    wanted = read_image(path, bits=bits)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PIL.Image", "cv2") if own else ():
            patch.setitem(sys.modules, name, None)
        np.testing.assert_array_equal(runner.decode(path, bits), wanted)


# ------------------------------------------------------------------ decoding


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), FORMS)
def test_every_form_of_png_is_read_as_in_training(
    tmp_path: Path, colour: int, depth: int, interlaced: bool
) -> None:
    palette = chunk(b"PLTE", noise(3 * 2**depth).tobytes()) if colour == 3 else b""
    for height, width in SIZES:
        samples = noise(height, width, CHANNELS[colour], high=2**depth)
        content = write_png(
            samples,
            colour=colour,
            depth=depth,
            filters=(4, 0, 1, 2, 3),
            interlaced=interlaced,
            extra=palette,
            pieces=3,
        )
        assert_read_alike(saved(tmp_path / "image.png", content))


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_of_png_is_undone(tmp_path: Path, kind: int) -> None:
    content = write_png(noise(21, 34, 3), colour=2, depth=8, filters=(kind,))
    assert_read_alike(saved(tmp_path / "image.png", content))


def test_transparency_is_left_out_as_in_training(tmp_path: Path) -> None:
    clear = chunk(b"tRNS", b"\0\1\0\2\0\3")
    content = write_png(noise(4, 5, 3), colour=2, depth=8, extra=clear)
    assert_read_alike(saved(tmp_path / "image.png", content))
    assert runner.decode(picture(tmp_path / "a.png", noise(4, 5, 4))).shape == (4, 5, 3)


def test_a_png_of_pillow_is_read_exactly(tmp_path: Path) -> None:
    smooth = np.indices((150, 211)).sum(0).astype(np.uint8)
    assert_read_alike(picture(tmp_path / "smooth.png", smooth))
    assert_read_alike(picture(tmp_path / "colour.png", noise(150, 211, 3)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_bitmaps_are_read_as_in_training(tmp_path: Path, mode: str) -> None:
    assert_read_alike(picture(tmp_path / "image.bmp", noise(13, 21, 3), mode))


def bitmap(depth: int, palette: bytes, height: int, lines: bytes, used: int = 0) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, 5, height, 1, depth, 0, 0, 0, 0, used, 0)
    return struct.pack("<2sIII", b"BM", 0, 0, 54 + len(palette)) + head + palette + lines


@pytest.mark.parametrize(("depth", "used"), [(1, 0), (4, 0), (4, 7), (8, 9), (24, 0), (32, 0)])
@pytest.mark.parametrize("height", [3, -3])
def test_bitmaps_from_the_bottom_and_the_top_and_with_palettes_are_read(
    tmp_path: Path, depth: int, used: int, height: int
) -> None:
    stride = (5 * depth + 31) // 32 * 4
    count = (used or 1 << depth) if depth <= 8 else 0
    lines = noise(3 * stride, high=256 if depth != 8 else 9)
    lines = lines % count * np.uint8(17) if depth == 4 and count < 16 else lines
    palette = noise(4 * count, seed=1).tobytes()
    assert_read_alike(
        saved(tmp_path / "image.bmp", bitmap(depth, palette, height, lines.tobytes(), used))
    )


@pytest.mark.parametrize("most", [1, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_portable_maps_of_any_depth_are_read_as_in_training(
    tmp_path: Path, most: int, channels: int
) -> None:
    samples = noise(6, 9, channels, high=most + 1).astype(np.uint8 if most < 256 else ">u2")
    head = b"P%d\n# made by hand\n9 6\n# and by a scanner\n%d\n" % (5 if channels == 1 else 6, most)
    assert_read_alike(saved(tmp_path / "image.pnm", head + samples.tobytes()))


def test_arrays_are_pictures_too(tmp_path: Path) -> None:
    for shape in ((4, 6), (4, 6, 3)):
        np.save(tmp_path / "image.npy", noise(*shape))
        np.testing.assert_array_equal(runner.decode(tmp_path / "image.npy"), noise(*shape))


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp"])
def test_other_pictures_are_read_by_pillow_as_in_training(tmp_path: Path, suffix: str) -> None:
    assert_read_alike(picture(tmp_path / f"image.{suffix}", noise(20, 30, 3)), own=False)
    assert_read_alike(picture(tmp_path / f"grey.{suffix}", noise(20, 30)), own=False)


def test_what_own_decoders_do_not_know_goes_to_pillow(tmp_path: Path) -> None:
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0)
    content = bytearray(bitmap(32, masks, 2, noise(40).tobytes()))
    content[30] = 3  # the colours lie where masks say that they do
    assert_read_alike(saved(tmp_path / "image.bmp", bytes(content)), own=False)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Hide what can read JPEG; ``setitem`` brings one back."""
    for name in ("PIL.Image", "PIL", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)
    return monkeypatch


def test_without_a_package_that_reads_jpeg_both_are_named(
    tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "image.jpg", b"\xff\xd8\xff\xe0 not looked at")
    with pytest.raises(runner.RunnerError, match=r"pip install pillow, or pip install opencv"):
        runner.decode(path)


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 3), (6, 7, 4)])
def test_opencv_reads_what_pillow_is_not_there_for(
    tmp_path: Path, bare: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    stored = noise(*shape)
    opencv = ModuleType("cv2")
    opencv.IMREAD_UNCHANGED = -1  # type: ignore[attr-defined]
    opencv.imdecode = lambda data, how: stored if how == -1 else None  # type: ignore[attr-defined]
    bare.setitem(sys.modules, "cv2", opencv)
    found = runner.decode(saved(tmp_path / "image.jpg", b"\xff\xd8"))
    wanted = stored if stored.ndim == 2 else stored[..., [2, 1, 0]]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_wide_samples_are_scaled_by_the_depth_of_training(tmp_path: Path, bits: int) -> None:
    samples = noise(20, 30, high=2**bits).astype(np.uint16)
    samples[0, :2] = 0, 2**bits - 1
    for suffix in ("png", "tif"):
        path = picture(tmp_path / f"wide.{suffix}", samples)
        assert_read_alike(path, bits, own=suffix == "png")
        assert runner.decode(path, bits).max() == 255


def test_samples_that_are_wider_than_in_training_are_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "wide.png", noise(5, 5, high=5000).astype(np.uint16))
    with pytest.raises(runner.RunnerError, match=r"to 4\d\d\d, but .* of 12 bits, 0 to 4095"):
        runner.decode(path, 12)


# ------------------------------------------------------------------ bad files


def test_a_size_that_no_memory_holds_is_refused_before_any_is_taken(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 6, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    png = saved(tmp_path / "bomb.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body)
    pnm = saved(tmp_path / "bomb.pgm", b"P5 100000 1 255\n")
    bmp = saved(tmp_path / "bomb.bmp", bitmap(24, b"", -(2**31), b""))
    for path in (png, pnm, bmp):
        with pytest.raises(runner.RunnerError, match=r"pixels; 1 to 65535 pixels an edge and 89"):
            runner.decode(path)


def test_pixels_beyond_the_pictures_size_are_not_unpacked(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 200_000_000)) + chunk(b"IEND", b"")
    path = saved(tmp_path / "bomb.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body)
    tracemalloc.start()
    try:
        assert runner.decode(path).shape == (4, 4)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_damaged_png_is_not_handed_on_to_a_lenient_reader(tmp_path: Path) -> None:
    content = bytearray(write_png(noise(9, 9, 1), colour=0, depth=8))
    content[60] ^= 1
    with pytest.raises(runner.RunnerError, match="it is damaged: the checksum of its IDAT"):
        runner.decode(saved(tmp_path / "image.png", bytes(content)))


@pytest.mark.parametrize("form", ["png", "bmp", "ppm", "npy", "jpg"])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"image.{form}"
    if form == "npy":
        np.save(path, noise(20, 20))
    else:
        picture(path, noise(20, 20, 3))
    content = path.read_bytes()
    for share in (0.02, 0.5, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(runner.RunnerError):
            runner.decode(path)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["png", "bmp", "ppm"]), st.data())
def test_whatever_a_file_holds_it_is_read_or_refused_in_words(
    form: str, data: st.DataObject
) -> None:
    stream = io.BytesIO()
    Image.fromarray(noise(6, 5, 3)).save(stream, form)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for mark, read in runner.DECODERS:
        if content.startswith(mark):
            try:
                assert read(bytes(content)).dtype in (np.uint8, np.uint16)
            except (ValueError, IndexError, struct.error, zlib.error):
                pass  # what ``decode`` calls damaged
            except (runner.RunnerError, runner.UnknownFormError):
                pass


def test_a_file_that_is_not_there_or_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(runner.RunnerError, match="cannot be read: No such file"):
        runner.decode(tmp_path / "nowhere.png")
    with pytest.raises(runner.RunnerError, match="cannot be read: cannot identify"):
        runner.decode(saved(tmp_path / "notes.txt", b"no picture"))
    np.save(tmp_path / "image.npy", noise(3, 3, 5))
    with pytest.raises(runner.RunnerError, match=r"uint8 of shape \(3, 3, 5\); a picture is"):
        runner.decode(tmp_path / "image.npy")


# ------------------------------------------------------------------ preprocessing


@st.composite
def preparations(draw: st.DrawFn) -> Preprocessing:
    edge = st.integers(1, 90)
    channels = draw(st.sampled_from([1, 3]))
    return Preprocessing(
        size=(draw(edge), draw(edge)),
        channels=channels,
        resize=draw(st.sampled_from(["shortest", "squash"])),
        crop_pct=draw(st.sampled_from([0.5, 0.875, 0.95, 1.0])),
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "bicubic"])),
        mean=(0.485, 0.456, 0.406)[:channels],
        std=(0.229, 0.224, 0.225)[:channels],
    )


@settings(max_examples=400, deadline=None)
@given(
    preparations(),
    st.tuples(st.integers(1, 200), st.integers(1, 200), st.sampled_from([0, 3])),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_the_device_prepares_images_exactly_as_training_does(
    how: Preprocessing, shape: tuple[int, int, int], hard: bool, seed: int
) -> None:
    image = noise(*(edge for edge in shape if edge), seed=seed)
    image = (image > 127).astype(np.uint8) * 255 if hard else image  # bicubic overshoots here
    steps = runner.read_steps(how.to_dict())
    found, wanted = runner.fit(image, steps), training_fit(image, how)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(runner.normalized(found, steps), normalize(wanted[None], how)[0])


STEPS = Preprocessing(
    size=(4, 4),
    channels=1,
    resize="squash",
    crop_pct=1.0,
    interpolation="bilinear",
    mean=(0.5,),
    std=(0.5,),
).to_dict()["steps"]


@pytest.mark.parametrize(
    ("step", "change", "message"),
    [
        (0, {"op": "warp"}, r"the steps \['warp', 'center_crop'"),
        (0, {"edges": "longest"}, r"'resize' has edges 'longest', not one of \('shortest'"),
        (0, {"interpolation": "lanczos"}, "'resize' has interpolation 'lanczos'"),
        (0, {"antialias": False}, "'resize' has antialias False"),
        (2, {"channels": 4}, "'to_channels' has channels 4"),
        (4, {"gamma": 2.2}, "'normalize': field 'gamma' is not known"),
    ],
)
def test_steps_that_the_device_does_not_know_are_refused_by_name(
    step: int, change: dict[str, object], message: str
) -> None:
    steps = [dict(each) for each in STEPS]
    steps[step] |= change
    with pytest.raises(runner.RunnerError, match=message):
        runner.read_steps({"steps": steps})


def test_a_step_that_misses_a_field_is_refused_by_name() -> None:
    steps = [dict(each) for each in STEPS]
    del steps[1]["size"]
    with pytest.raises(runner.RunnerError, match="'center_crop': field 'size' is missing"):
        runner.read_steps({"steps": steps})
