"""The methods of explanation: their shapes, that they find what the network looks at, that repeats agree."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from cxrnode.reading.explain import Explainer, Method, MissingLibrary, explainer, grid, smoothed
from cxrnode.reading.network import Network

from .conftest import network
from .test_architectures import CASES, network_of

pytestmark = pytest.mark.slow  # a network, and torch itself, to be loaded

SIDE = 64
BLACK = torch.full((1, 3, 1, 1), -2.0)


class Corner(nn.Module):
    """A network that says how bright the upper left quarter is, and for its other label how dark."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        bright = inputs[:, :, : SIDE // 2, : SIDE // 2].mean((1, 2, 3))
        return torch.stack([bright, -bright], 1)


def film() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0.5, 0.5, (1, 3, SIDE, SIDE)).astype(np.float32))


def made(method: Method, model: nn.Module) -> Explainer:
    assert isinstance(model, nn.Module)
    return explainer(method, model, BLACK)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [Method.INTEGRATED_GRADIENTS, Method.LIME, Method.OCCLUSION])
def test_what_the_network_looks_at_is_found(method: Method) -> None:
    map_ = made(method, Corner()).explain(film(), 0)
    assert (map_.shape, str(map_.dtype), bool(map_.min() >= 0)) == ((SIDE, SIDE), "float32", True)
    inside = map_[: SIDE // 2, : SIDE // 2].sum()
    assert inside / map_.sum() > 0.7


@pytest.mark.parametrize("method", list(Method))
def test_each_method_explains_a_densenet_and_repeats_itself(method: Method) -> None:
    model: Network = network(2)
    one = made(method, model)
    before = torch.get_rng_state()
    first, second = one.explain(film(), 1), one.explain(film(), 1)
    assert np.isfinite(first).all() and first.min() >= 0
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["nih15-cnn", "nih15-mobilenet", "nih15-resnet50"])
def test_each_method_explains_each_kind_of_head_and_film(name: str) -> None:
    """One channel and three, a head that flattens and heads of several layers."""
    model, channels = network_of(name), CASES[name].channels
    black = BLACK[:, :channels]
    for method in Method:
        map_ = explainer(method, model, black).explain(film()[:, :channels], 1)
        assert (map_.ndim, str(map_.dtype), bool(np.isfinite(map_).all())) == (2, "float32", True), method
        assert (map_.min() >= 0, map_.max() > 0) == (True, True), method


def test_the_samples_of_a_film_are_read_once_for_all_labels() -> None:
    class Counted(Corner):
        films = 0

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.films += len(inputs)
            return super().forward(inputs)

    for method in (Method.LIME, Method.OCCLUSION):
        counted, alone = Counted(), [made(method, Corner()) for _ in range(2)]
        shared = made(method, counted)
        maps = [shared.explain(film(), 0)]
        once = counted.films
        maps.append(shared.explain(film(), 1))
        assert counted.films == once > 0
        for label, one in enumerate(alone):
            np.testing.assert_array_equal(maps[label], one.explain(film(), label))


def test_the_closed_form_is_the_map_of_the_forward_pass() -> None:
    model = network(2)
    with torch.inference_mode():
        expected = model.maps(model.run(film()))[0, 1].numpy()
    np.testing.assert_array_equal(made(Method.GRADCAM, model).explain(film(), 1), expected)


def test_a_missing_library_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingLibrary, match=r"pip install 'cxrnode\[explain\]'"):
        made(Method.LIME, network(2))
    made(Method.GRADCAM, network(2))


def test_smoothing_keeps_the_sum_and_grids_have_their_cells() -> None:
    spot = torch.zeros(1, 1, 33, 33)
    spot[0, 0, 16, 16] = 1.0
    soft = smoothed(spot, 2.0)
    assert float(soft.sum()) == pytest.approx(1.0)
    assert float(soft[0, 0, 16, 18] / soft[0, 0, 16, 16]) == pytest.approx(np.exp(-0.5))
    assert torch.unique(grid(33, 40, 4), return_counts=True)[0].tolist() == list(range(16))
