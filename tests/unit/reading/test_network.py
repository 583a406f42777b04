"""The maps of the forward pass are those of pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from cxrnode.errors import BundleError
from cxrnode.reading.bundle import SHIPPED, load_bundle
from cxrnode.reading.network import Architecture, Layer, Network, Shape, build_network, weights_of
from cxrnode.reading.oracle import made_films, oracle_maps, scaled

from .conftest import network

pytestmark = pytest.mark.slow  # a network, and torch itself, to be loaded


def densenet(outputs: int) -> Shape:
    return Shape(architecture=Architecture.DENSENET121, outputs=outputs)


def demo(outputs: int) -> Network:
    bundle = load_bundle(SHIPPED / "demo")
    weights = dict(bundle.weights)
    for key in ("classifier.weight", "classifier.bias"):
        weights[key] = weights[key][:outputs]
    return build_network(weights, densenet(outputs))


def phantom(side: int) -> torch.Tensor:
    """A film-like input (1, 3, side, side): two dark lungs on a bright ground, and noise."""
    film = (made_films(side)[-1].astype(np.float32) / 255 - 0.5) / 0.25
    return torch.from_numpy(np.repeat(film[None, None], 3, 1))


@pytest.mark.parametrize("outputs", [1, 14])
@pytest.mark.parametrize("made", [network, demo])
def test_maps_at_the_relu_are_those_of_grad_cam(made: Callable[[int], Network], outputs: int) -> None:
    model, inputs = made(outputs), phantom(96)
    with torch.inference_mode():
        ours = model.maps(model.run(inputs))[0].numpy()
    theirs = oracle_maps(model, model.relu, inputs, outputs)
    assert ours.shape == (outputs, 3, 3)
    assert np.abs(scaled(ours, (96, 96)) - theirs).max() <= 0.01
    assert theirs.max() > 0.9, "a map of zeros would agree with anything"


@pytest.mark.parametrize("made", [network, demo])
def test_maps_at_norm5_are_those_of_grad_cam_on_torchvisions_own_network(made: Callable[[int], Network]) -> None:
    model, inputs = made(14), phantom(96)
    stock = torchvision.models.densenet121(weights=None, num_classes=14).eval()
    stock.load_state_dict(model.state_dict())
    with torch.inference_mode():
        ours = model.maps(model.run(inputs), Layer.NORM5)[0].numpy()
    theirs = oracle_maps(stock, stock.features.norm5, inputs, 14)
    assert np.abs(scaled(ours, (96, 96)) - theirs).max() <= 0.01
    assert theirs.max() > 0.9


def test_the_two_layers_do_not_give_the_same_maps() -> None:
    """Else the test at norm5 could not tell a forgotten factor."""
    model = network(14)
    with torch.inference_mode():
        done = model.run(phantom(96))
        relu, norm5 = (scaled(model.maps(done, layer)[0].numpy(), (96, 96)) for layer in Layer)
    assert np.abs(relu - norm5).max() > 0.02


def test_maps_by_gradient_are_those_of_the_forward_pass() -> None:
    model, inputs = network(5), phantom(96)
    with torch.inference_mode():
        closed = model.maps(model.run(inputs))
    torch.testing.assert_close(model.maps_by_gradient(model.run(inputs)), closed, rtol=1e-3, atol=1e-5)


def test_the_logits_are_torchvisions() -> None:
    model, inputs = network(14), phantom(96)
    stock = torchvision.models.densenet121(weights=None, num_classes=14).eval()
    stock.load_state_dict(model.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(model(inputs), stock(inputs), rtol=1e-4, atol=1e-5)


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    weights = dict(weights_of(network(2)))
    with pytest.raises(BundleError, match=r"outputs do not match the labels: classifier\.weight has shape \(2, 1024\)"):
        build_network(weights, densenet(3))
    with pytest.raises(BundleError, match=r"1 tensors are unknown to a densenet121, the first is extra"):
        build_network({**weights, "extra": weights["classifier.bias"]}, densenet(2))
    del weights["classifier.bias"]
    with pytest.raises(BundleError, match=r"1 tensors of a densenet121 are missing, the first is classifier\.bias"):
        build_network(weights, densenet(2))


def test_weights_go_through_a_bundle_as_halves_and_come_back(made_once: Path) -> None:
    built = build_network(load_bundle(made_once).weights, densenet(3))
    for key, tensor in weights_of(network(3)).items():
        np.testing.assert_array_equal(weights_of(built)[key], tensor.astype(np.float16).astype(np.float32))
