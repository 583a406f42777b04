"""Start weights: torchvision's state dicts go into the bodies, and a file of another network is told from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from cxrnode.reading.network import Architecture, Shape, last_of, new_network, weights_of
from cxrnode.training.checkpoint import BadCheckpoint
from cxrnode.training.start import start_weights

pytestmark = pytest.mark.slow  # networks, and torch itself, to be loaded

#: ResNet-152 is ResNet-50 with more blocks of the same names.
STOCK = {
    Architecture.DENSENET121: lambda: torchvision.models.densenet121(weights=None, num_classes=3),
    Architecture.INCEPTION_V3: lambda: torchvision.models.inception_v3(
        weights=None, num_classes=3, init_weights=True, transform_input=False
    ),
    Architecture.RESNET50: lambda: torchvision.models.resnet50(weights=None, num_classes=3),
    Architecture.MOBILENET_V2: lambda: torchvision.models.mobilenet_v2(weights=None, num_classes=3),
}


def stock(architecture: Architecture) -> nn.Module:
    torch.manual_seed(4)
    made: nn.Module = STOCK[architecture]()
    return made.eval()


def saved(path: Path, network: nn.Module) -> Path:
    save_file({key: tensor for key, tensor in network.state_dict().items() if tensor.is_floating_point()}, path)
    return path


@pytest.mark.parametrize("architecture", STOCK)
def test_torchvisions_weights_give_torchvisions_features(architecture: Architecture, tmp_path: Path) -> None:
    """With its head too the network says what torchvision's says: nothing of the body is left out or out of order."""
    theirs = stock(architecture)
    ours = new_network(Shape(architecture=architecture, outputs=3)).eval()
    started = start_weights(ours, saved(tmp_path / "stock.safetensors", theirs))
    head = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    assert started.tensors == len([key for key in weights_of(ours) if key.startswith("features.")])
    assert started.left_out and all(key.startswith(("classifier", "fc", "AuxLogits")) for key in started.left_out)
    ours.classifier.load_state_dict(head.state_dict())
    inputs = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-4, atol=1e-5)


def test_a_state_dict_as_torch_saves_it_starts_a_network_whose_head_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "mobilenet_v2.pth"
    torch.save(stock(Architecture.MOBILENET_V2).state_dict(), path)
    ours = new_network(Shape(architecture=Architecture.MOBILENET_V2, outputs=3, hidden=(8,), dropout=0.2))
    before = {key: ours.get_parameter(key).clone() for key in last_of(ours)}
    started = start_weights(ours, path)
    assert started.left_out == ("classifier.1.bias", "classifier.1.weight")
    assert all(torch.equal(ours.get_parameter(key), tensor) for key, tensor in before.items())
    assert all(parameter.requires_grad for parameter in ours.parameters()) and ours.training


def test_a_network_of_one_channel_sees_a_grey_film_as_three_equal_channels(tmp_path: Path) -> None:
    path = saved(tmp_path / "stock.safetensors", stock(Architecture.MOBILENET_V2))
    one, three = (new_network(Shape(architecture=Architecture.MOBILENET_V2, outputs=1, channels=c)) for c in (1, 3))
    for network in (one, three):
        start_weights(network.eval(), path)
    grey = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(one.run(grey).pooled, three.run(grey.expand(1, 3, 64, 64)).pooled)


def test_a_file_of_another_network_is_refused_by_the_tensor_that_does_not_fit(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", stock(Architecture.MOBILENET_V2))
    with pytest.raises(BadCheckpoint, match=r"a\.safetensors: no start for a resnet50: .* missing, the first is conv1"):
        start_weights(new_network(Shape(architecture=Architecture.RESNET50, outputs=1)), path)
    ours = new_network(Shape(architecture=Architecture.MOBILENET_V2, outputs=1))
    state = {key: tensor for key, tensor in ours.state_dict().items() if tensor.is_floating_point()}
    for change, message in (
        ({"features.19.weight": torch.zeros(1)}, r"1 tensors are none of its, the first is 19\.weight"),
        ({"features.18.0.weight": torch.zeros(2, 2, 1, 1)}, r"18\.0\.weight has shape \(2, 2, 1, 1\), \(1280, 320"),
        ({"features.18.1.weight": torch.full((1280,), torch.nan)}, r"18\.1\.weight holds values that are not finite"),
    ):
        save_file(state | change, path)
        with pytest.raises(BadCheckpoint, match=message):
            start_weights(ours, path)
