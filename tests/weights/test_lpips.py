"""Test the perceptual loss against its definition in NumPy, and its weights file."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cv3jax.weights.lpips import load_lpips
from data_pipeline.io.errors import InputError

POOL = 0
# VGG16
LAYERS = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512)


def vgg():
    """Return (slice, index in torch's list of layers, inputs, outputs) of each convolution.

    A ReLU follows each in that list.
    """
    index, part, before = 0, 1, 3
    for width in LAYERS:
        if width == POOL:
            index, part = index + 1, part + 1
        else:
            yield part, index, before, width
            index, before = index + 2, width


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    out = {}
    for part, index, before, width in vgg():
        out[f"net.slice{part}.{index}.weight"] = rng.normal(
            0, np.sqrt(2 / (9 * before)), (width, before, 3, 3)
        ).astype(np.float32)
        out[f"net.slice{part}.{index}.bias"] = rng.normal(0, 0.1, width).astype(np.float32)
    for i, width in enumerate((64, 128, 256, 512, 512)):
        out[f"lin{i}.model.1.weight"] = rng.uniform(0, 1, (1, width, 1, 1)).astype(np.float32)
    return out


@pytest.fixture(scope="module")
def loaded(tensors, tmp_path_factory):
    """Return (frozen, compiled) of the loss.

    compiled(a, b, frozen) returns distances and the gradient of their sum by a.
    """
    path = tmp_path_factory.mktemp("lpips") / "vgg.safetensors"
    save_file(tensors, path)
    perceptual, frozen = load_lpips(path)

    def total(a, b, frozen):
        distances = perceptual(frozen, a, b)
        return distances.sum(), distances

    gradient = jax.jit(jax.grad(total, has_aux=True))
    return frozen, lambda *args: gradient(*args)[::-1]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(-1, 1, (2, 2, 32, 32, 3)).astype(np.float32)


def by_definition(tensors, a, b):
    """Return the distance of two images [3, H, W] in float64, channels first as in torch."""

    def features(x):
        x = (x - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array(
            [0.458, 0.448, 0.450]
        )[:, None, None]
        out, current = [], 1
        for part, index, _, _ in vgg():
            if part != current:
                out.append(x)
                x, current = (
                    x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4)),
                    part,
                )
            windows = np.lib.stride_tricks.sliding_window_view(
                np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2)
            )
            weight = tensors[f"net.slice{part}.{index}.weight"].astype(np.float64)
            x = np.tensordot(weight, windows, ((1, 2, 3), (0, 3, 4)))
            x = np.maximum(x + tensors[f"net.slice{part}.{index}.bias"][:, None, None], 0)
        return [*out, x]

    total = 0.0
    for i, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
        x, y = (v / (np.sqrt((v**2).sum(0, keepdims=True)) + 1e-10) for v in (x, y))
        total += (tensors[f"lin{i}.model.1.weight"][0] * (x - y) ** 2).sum(0).mean()
    return total


def test_distance_is_its_definition(tensors, loaded, images):
    frozen, compiled = loaded
    a, b = images
    distances, gradient = compiled(a, b, frozen)
    expected = [
        by_definition(tensors, x.transpose(2, 0, 1).astype(np.float64), y.transpose(2, 0, 1))
        for x, y in zip(a, b, strict=True)
    ]
    assert distances.shape == (2,)
    np.testing.assert_allclose(distances, expected, rtol=1e-4)
    assert (distances > 0).all()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_equal_images_are_at_distance_zero(loaded, images):
    frozen, compiled = loaded
    distances, gradient = compiled(images[0], images[0], frozen)
    assert np.abs(distances).max() < 1e-9  # the compiler may round the two passes differently
    assert np.isfinite(gradient).all()


def test_gradient_where_no_channel_is_active(loaded, images):
    """Strongly negative biases silence the last slice.

    The norm by which features are divided has no derivative at zero.
    """
    frozen, compiled = loaded
    last = {**frozen["lpips"]["conv_4_2"], "bias": np.full(512, -1e6, np.float32)}
    distances, gradient = compiled(*images, {"lpips": {**frozen["lpips"], "conv_4_2": last}})
    assert np.isfinite(distances).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("net.slice3.12.bias"),
            "1 tensor missing, 0 unexpected, 0 of another shape: net.slice3.12.bias is missing",
        ),
        (
            lambda t: t.update({"lins.0.model.1.weight": np.zeros(1, np.float32)}),
            "lins.0.model.1.weight is unexpected",
        ),
        (
            lambda t: t.update({"lin0.model.1.weight": np.zeros((1, 64, 3, 3), np.float32)}),
            "has the shape [1, 64, 3, 3]",
        ),
        (
            lambda t: t.update({"net.slice1.0.weight": np.zeros((64, 27), np.float32)}),
            "has the shape [64, 27] instead of [64, 3, 3, 3]",
        ),
    ],
)
def test_wrong_tensors_are_one_line(tensors, tmp_path, change, message):
    tensors = dict(tensors)
    change(tensors)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError) as e:
        load_lpips(tmp_path / "wrong.safetensors")
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_wrong_files_are_one_line(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        load_lpips(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not safetensors")
    with pytest.raises(InputError, match="is damaged or not a safetensors file"):
        load_lpips(tmp_path / "text.safetensors")
