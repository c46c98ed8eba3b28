"""Each compiled operator against torchvision's functional operator with the same numbers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from headrace.pipeline.batch import rgb_to_lab
from headrace.pipeline.engines import kernels
from headrace.pipeline.engines.blur import COLUMNS, gaussian_blur
from headrace.pipeline.engines.resize import crop_resize
from headrace.pipeline.images.noise import noise_planes
from tests.pipeline.colour import lab_of
from tests.pipeline.plain import philox, unit

PHOTO = np.ascontiguousarray(load_sample_images().images[1][20:395, 60:560])
SIZE = 96


def planes(image: np.ndarray) -> list[np.ndarray]:
    return [plane.reshape(-1) for plane in image]


def differences(ours: np.ndarray, theirs: torch.Tensor) -> tuple[int, float]:
    """Largest difference in grey levels and the share of levels that differ."""
    difference = np.abs(ours.astype(int) - theirs.numpy().astype(int))
    return int(difference.max()), float((difference > 0).mean())


def resized(
    crop: tuple[int, int, int, int],
    size: int,
    mirrored: bool = False,
    image: np.ndarray = PHOTO,
    bicubic: bool = False,
) -> np.ndarray:
    out = np.empty((3, size, size), np.uint8)
    crop_resize(image, *crop, mirrored, bicubic, np.empty((crop[2] + 1, size), np.uint32), out)
    return out


@pytest.mark.parametrize("size", [1, 7, 32, 75, 96, 224])
@pytest.mark.parametrize(
    "crop",
    [
        (0, 0, 375, 500),
        (30, 41, 200, 333),
        (374, 0, 1, 500),
        (10, 499, 300, 1),
        (300, 420, 75, 80),
        (5, 5, 224, 224),
    ],
)
@pytest.mark.parametrize("interpolation", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
def test_crop_resize(crop: tuple[int, int, int, int], size: int, interpolation: InterpolationMode) -> None:
    theirs = F.resized_crop(torch.from_numpy(PHOTO).permute(2, 0, 1), *crop, [size, size], interpolation)
    # torch computes the same fixed-point sums where it has AVX2, and rounds floats elsewhere.
    largest, share = differences(resized(crop, size, bicubic=interpolation is InterpolationMode.BICUBIC), theirs)
    assert largest <= 1
    assert share == 0 or (share < 0.02 and "AVX" not in torch.backends.cpu.get_cpu_capability())


def test_bicubic_levels_stay_levels() -> None:
    """Weights below 0 overshoot at an edge of black and white."""
    edge = np.zeros((40, 40, 3), np.uint8)
    edge[:, 20:] = 255
    edge[20:] = 255 - edge[20:]
    for size in (7, 33, 64):
        theirs = F.resize(torch.from_numpy(edge).permute(2, 0, 1), [size, size], InterpolationMode.BICUBIC)
        largest, _ = differences(resized((0, 0, 40, 40), size, image=edge, bicubic=True), theirs)
        assert largest <= 1


@pytest.mark.parametrize("size", [7, 96])
def test_crop_resize_mirrors(size: int) -> None:
    crop = (30, 41, 200, 333)
    assert np.array_equal(resized(crop, size, mirrored=True), resized(crop, size)[:, :, ::-1])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 33])
def test_crop_resize_writes_nothing_beyond_its_memory(size: int) -> None:
    rows = np.full((13, size), 0xA5A5A5A5, np.uint32)  # twelve for the crop, one to spare, one that is not ours
    out = np.full(3 * size * size + 64, 7, np.uint8)
    crop_resize(PHOTO, 3, 4, 11, 40, False, False, rows[:12], out[: 3 * size * size].reshape(3, size, size))
    assert np.all(rows[12] == 0xA5A5A5A5)
    assert np.all(out[3 * size * size :] == 7)


def test_crop_resize_reads_nothing_beyond_the_image() -> None:
    """The image's last byte is the last of a page, as in a shard's mapping; the next page cannot be read."""
    import ctypes
    import mmap

    height, width = 16, 16
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    begin = mmap.PAGESIZE - height * width * 3
    image = np.frombuffer(memory, np.uint8)[begin : mmap.PAGESIZE].reshape(height, width, 3)
    image[:] = PHOTO[:height, :width]
    libc = ctypes.CDLL(None, use_errno=True)
    beyond = ctypes.c_void_p(image.ctypes.data + height * width * 3)
    assert libc.mprotect(beyond, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    for crop in ((0, 0, height, width), (0, 9, height, 7), (15, 15, 1, 1)):
        for size in (24, 5):
            for bicubic in (False, True):
                ours = resized(crop, size, image=image, bicubic=bicubic)
                copied = np.ascontiguousarray(PHOTO[:height, :width])
                assert np.array_equal(ours, resized(crop, size, image=copied, bicubic=bicubic))
    assert libc.mprotect(beyond, ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_WRITE) == 0


CANVAS = resized((30, 41, 200, 333), SIZE)
TENSOR = torch.from_numpy(CANVAS)
FACTORS = [np.float32(f) for f in (0.0, 0.2, 0.7, 1.0, 1.3, 1.8)]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
    ("kernel", "reference"),
    [
        (lambda image, factor: kernels.brightness(image.reshape(-1), factor), F.adjust_brightness),
        (lambda image, factor: kernels.contrast(*planes(image), factor), F.adjust_contrast),
        (lambda image, factor: kernels.saturation(*planes(image), factor), F.adjust_saturation),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_blends(kernel: Callable, reference: Callable, factor: np.float32) -> None:
    ours = CANVAS.copy()
    kernel(ours, factor)
    assert differences(ours, reference(TENSOR, float(factor)))[0] == 0


def every_colour() -> np.ndarray:
    """All RGB triples of 32 levels, as one planar image."""
    levels = np.linspace(0, 255, 32).astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels)).reshape(3, 128, 256)


@pytest.mark.parametrize("shift", [-0.5, -0.2, -0.01, 0.0, 0.1, 1 / 3, 0.5])
@pytest.mark.parametrize("image", [CANVAS, every_colour()], ids=["photo", "every colour"])
def test_hue(image: np.ndarray, shift: float) -> None:
    ours = image.copy()
    kernels.hue(*planes(ours), np.float32(shift))
    largest, share = differences(ours, F.adjust_hue(torch.from_numpy(image), float(np.float32(shift))))
    assert largest <= 1
    assert share < 1e-3


def test_grayscale_and_solarize() -> None:
    ours = every_colour()
    kernels.grayscale(*planes(ours))
    assert differences(ours, F.rgb_to_grayscale(torch.from_numpy(every_colour()), 3))[0] == 0
    for threshold in (0, 1, 128, 255):
        ours = CANVAS.copy()
        kernels.solarize(ours.reshape(-1), threshold)
        assert differences(ours, F.solarize(TENSOR, threshold))[0] == 0


@pytest.mark.parametrize("size", [1, 2, 7, 96])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turn(turns: int, size: int) -> None:
    image = np.ascontiguousarray(CANVAS[:, :size, :size])
    ours = image.copy()
    kernels.turn(ours, turns)
    assert np.array_equal(ours, F.rotate(torch.from_numpy(image), 90.0 * turns).numpy())
    assert np.array_equal(ours, np.rot90(image, turns, axes=(1, 2)))


@pytest.mark.parametrize("image", [CANVAS, every_colour()], ids=["photo", "every colour"])
def test_project(image: np.ndarray) -> None:
    """The paper's matrix in float64, rounded; green and magenta become gray."""
    ours = image.copy()
    kernels.project(*planes(ours))
    axis = np.array([[-1.0, 2.0, -1.0]])
    exact = np.einsum("ij,jhw->ihw", np.eye(3) - axis.T @ axis / (axis @ axis.T), image.astype(float))
    assert np.array_equal(ours, np.clip(np.floor(exact + 0.5 + 1e-9), 0, 255))
    for colour in ((0, 255, 0), (255, 0, 255)):
        one = np.array(colour, np.uint8).reshape(3, 1, 1).copy()
        kernels.project(*planes(one))
        assert len(np.unique(one)) == 1


def plain_noise(word: int, pixels: int) -> np.ndarray:
    """Two planes, float64 (2, N), by numpy's Philox and Box and Muller; a pixel takes two of a counter's words."""
    words = [philox(word, "noise", pixel // 2, 0, 0, 0)[2 * (pixel % 2) :][:2] for pixel in range(pixels)]
    radius, turn = np.array([[1.0 - unit(first), unit(second)] for first, second in words]).T
    radius = np.sqrt(-2 * np.log(radius))
    return np.stack([radius * np.cos(2 * np.pi * turn), radius * np.sin(2 * np.pi * turn)])


@pytest.mark.parametrize("size", [1, 3, 16])
def test_noise_is_a_function_of_its_number(size: int) -> None:
    words = np.array([7, 2**63 + 5], np.uint64)
    planes = noise_planes(words, size)
    assert (planes.shape, planes.dtype) == ((2, 2, size, size), np.float32)
    for plane, word in zip(planes, words.tolist(), strict=True):
        np.testing.assert_allclose(plane.reshape(2, -1), plain_noise(word, size * size), rtol=1e-6, atol=1e-6)


def test_noise_is_gaussian() -> None:
    planes = noise_planes(np.array([3], np.uint64), 200)[0]
    assert kstest(planes.ravel(), "norm").pvalue > 1e-4
    neighbours = planes[:, :, 1:].ravel(), planes[:, :, :-1].ravel()
    assert abs(np.corrcoef(*neighbours)[0, 1]) < 0.02
    assert abs(np.corrcoef(planes[0].ravel(), planes[1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("side", [1, 31, SIZE])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_drop_channels(kept: int, side: int) -> None:
    """Context prediction's noise around the mean of the channel that remains, which stays as it is."""
    image = np.ascontiguousarray(CANVAS[:, :side, :side])
    ours = image.copy()
    kernels.drop_channels(ours.reshape(-1), kept, np.uint64(99))
    mean, deviation = image[kept].mean(), image[kept].std()
    noise = noise_planes(np.array([99], np.uint64), side)[0].astype(np.float64)
    gone = [channel for channel in range(3) if channel != kept]
    assert np.array_equal(ours[kept], image[kept])
    assert np.array_equal(ours[gone], np.clip(np.floor(mean + deviation / 100 * noise + 0.5), 0, 255))
    if side == SIZE:
        assert 0.2 < (ours[gone] - mean).std() / (deviation / 100) < 2, "rounded to levels"


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (10, 20, 30, 40), (0, 5, 95, 90)])
def test_erase(box: tuple[int, int, int, int]) -> None:
    ours, value = CANVAS.copy(), np.array([3, 200, 77], np.uint8)
    kernels.erase(ours, np.array(box, np.int32), value)
    assert np.array_equal(ours, F.erase(TENSOR, *box, torch.from_numpy(value)[:, None, None]).numpy())


@pytest.mark.parametrize("taps", [3, 9, 23])
@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.6, 1.0, 1.7, 2.0, 5.0])
@pytest.mark.parametrize("width", [SIZE, 75, 32, 20])
def test_blur(sigma: float, taps: int, width: int) -> None:
    ours = CANVAS[:, :, :width].copy()
    theirs = F.gaussian_blur(torch.from_numpy(ours.copy()), [taps, taps], [float(np.float32(sigma))] * 2)
    gaussian_blur(ours, np.float32(sigma), taps, np.empty(SIZE * max(width, COLUMNS), np.int16))
    largest, share = differences(ours, theirs)
    assert largest <= 1
    assert share < 0.06  # 16-bit arithmetic: a rounding border within about 0.03 levels of the exact value


def test_blur_keeps_a_flat_image() -> None:
    for level in (0, 1, 127, 254, 255):
        image = np.full((3, 16, 16), level, np.uint8)
        gaussian_blur(image, np.float32(1.3), 9, np.empty(16 * COLUMNS, np.int16))
        assert np.all(image == level)


def test_lab_of_every_colour() -> None:
    """Within 4e-4 of float64, in units of Lab, and torch's within the same."""
    image, one, none = every_colour(), np.ones(3, np.float32), np.zeros(3, np.float32)
    exact = lab_of(image.transpose(1, 2, 0))
    ours = np.empty(image.size, np.float32)
    kernels.store_lab(*planes(image), one, none, ours)
    assert np.abs(ours.reshape(exact.shape) - exact).max() < 4e-4
    theirs = rgb_to_lab(torch.from_numpy(image)).permute(1, 2, 0).numpy()
    assert np.abs(theirs - exact).max() < 4e-4
    white = exact[-1, -1]
    np.testing.assert_allclose(white, (100, 0, 0), atol=0.01)


@pytest.mark.peer("kornia")
def test_lab_is_kornias() -> None:
    from kornia.color import rgb_to_lab as kornias

    theirs = kornias(torch.from_numpy(every_colour())[None] / 255)[0]
    torch.testing.assert_close(rgb_to_lab(torch.from_numpy(every_colour())), theirs, atol=1e-3, rtol=0)


def test_standard_scale() -> None:
    for plane in planes(CANVAS):
        scale, shift = kernels.standard_scale(plane)
        standard = plane.astype(float) * scale + shift
        np.testing.assert_allclose((standard.mean(), standard.std()), (0, 1), atol=1e-5)
    scale, shift = kernels.standard_scale(np.full(100, 77, np.uint8))
    assert 77 * scale + shift == 0


def test_stores() -> None:
    levels = np.empty(3 * SIZE * SIZE, np.uint8)
    kernels.store_levels(*planes(CANVAS), levels)
    assert np.array_equal(levels.reshape(SIZE, SIZE, 3), CANVAS.transpose(1, 2, 0))
    scale, shift = np.array([0.1, 0.2, 0.3], np.float32), np.array([-1, 0, 1], np.float32)
    floats = np.empty(3 * SIZE * SIZE, np.float32)
    kernels.store_floats(*planes(CANVAS), scale, shift, floats)
    np.testing.assert_allclose(floats.reshape(SIZE, SIZE, 3), CANVAS.transpose(1, 2, 0) * scale + shift, rtol=1e-6)
