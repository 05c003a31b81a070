import pytest
import torch

from episodic.core.backbones.resnet18 import ResNet18


def meta(**arguments):
    with torch.device("meta"):
        return ResNet18(**arguments)


@pytest.mark.parametrize(("variant", "total"), [("feat", 11_168_832), ("closerlook", 11_176_512)])
def test_parameters_are_those_of_the_published_code(variant, total):
    assert sum(p.numel() for p in meta(variant=variant).parameters()) == total


@pytest.mark.parametrize(
    ("variant", "size", "stem", "sides"),
    [
        ("feat", 84, 84, [84, 42, 21, 11]),
        ("feat", 32, 32, [32, 16, 8, 4]),
        ("closerlook", 224, 56, [56, 28, 14, 7]),
        ("closerlook", 84, 21, [21, 11, 6, 3]),
        ("closerlook", 33, 9, [9, 5, 3, 2]),
    ],
)
def test_shape_is_that_of_an_embedding(variant, size, stem, sides):
    shapes = []
    network = meta(variant=variant, image_size=size, output="map").eval()
    for part in (network.stem, *network.stages):
        part.register_forward_hook(lambda _, __, out: shapes.append(out.shape[-1]))
    images = torch.zeros(2, 3, size, size, device="meta")
    assert network.shape == (512, sides[-1], sides[-1]) == network(images).shape[1:]
    assert shapes == [stem, *sides]
    network = meta(variant=variant, image_size=size)
    assert network.shape == (512,) == network(images).shape[1:]


@pytest.mark.parametrize("variant", ["feat", "closerlook"])
def test_equals_the_torchvision_network(variant):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18().eval()
    theirs.fc = torch.nn.Identity()
    if variant == "feat":
        theirs.conv1, theirs.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    ours = ResNet18(image_size=20, variant=variant).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_convolutions_start_from_kaiming_fan_out_in_channels_last_bfloat16_too():
    torch.manual_seed(0)
    network = ResNet18(image_size=16, output="map")
    for conv in (m for m in network.stages[:3].modules() if isinstance(m, torch.nn.Conv2d)):
        wanted = (2 / (conv.kernel_size[0] ** 2 * conv.out_channels)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(wanted, rel=6 / conv.weight.numel() ** 0.5)
    network, images = (x.to(memory_format=torch.channels_last) for x in (network, torch.randn(2, 3, 16, 16)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = network(images)
    assert embeddings.dtype == torch.bfloat16
    assert embeddings.is_contiguous(memory_format=torch.channels_last)
    embeddings.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "resnet10"}, "variant must be one of feat, closerlook, got 'resnet10'"),
        ({"output": "flatten"}, "output must be one of vector, map, got 'flatten'"),
        ({"image_size": 0}, "image_size of at least 1"),
        ({"in_channels": 0}, "in_channels must be an integer, at least 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        meta(**arguments)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"built for images \[item, 3, 84, 84\], got \[1, 3, 32, 32\]"):
        meta()(torch.zeros(1, 3, 32, 32, device="meta"))
