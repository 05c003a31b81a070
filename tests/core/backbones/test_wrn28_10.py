import pytest
import torch

from episodic.core.backbones.wrn28_10 import WRN28_10, _Block


def meta(**arguments):
    with torch.device("meta"):
        return WRN28_10(**arguments)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("variant", "parts", "total"),
    [
        ("feat", [448, 1_642_112, 6_970_880, 27_868_160, 1_280], 36_482_880),
        ("s2m2", [432, 1_640_672, 6_968_000, 27_862_400, 1_280], 36_472_784),
    ],
)
def test_parameters_are_those_of_the_published_code(variant, parts, total):
    network = meta(variant=variant)
    assert [count(part) for part in (network.stem, *network.groups, network.end)] == parts
    assert count(network) == total


@pytest.mark.parametrize(
    ("variant", "size", "sides"),
    [("feat", 84, [84, 42, 21]), ("feat", 32, [32, 16, 8]), ("s2m2", 80, [80, 40, 20]), ("s2m2", 30, [30, 15, 8])],
)
def test_shape_is_that_of_an_embedding(variant, size, sides):
    shapes = []
    network = meta(variant=variant, image_size=size, output="map").eval()
    for group in network.groups:
        group.register_forward_hook(lambda _, __, out: shapes.append(out.shape[-1]))
    images = torch.zeros(2, 3, size, size, device="meta")
    assert network.shape == (640, sides[-1], sides[-1]) == network(images).shape[1:]
    assert shapes == sides
    network = meta(variant=variant, image_size=size)
    assert network.shape == (640,) == network(images).shape[1:]


@pytest.mark.parametrize("variant", ["feat", "s2m2"])
def test_the_stride_is_in_the_convolution_of_the_form(variant):
    for group, first in zip(meta(variant=variant).groups, (1, 2, 2), strict=True):
        strides = [m.stride[0] for m in group.modules() if isinstance(m, torch.nn.Conv2d)]
        wanted = [1, first, first] if variant == "feat" else [first, 1, first]
        assert strides == wanted + [1] * 6  # two and the shortcut, then three blocks of two


@pytest.mark.parametrize(("dim", "stride"), [(4, 1), (6, 1), (6, 2)])
@pytest.mark.parametrize("variant", ["feat", "s2m2"])
def test_a_block_is_the_published_one_step_by_step(variant, dim, stride):
    torch.manual_seed(0)
    block = _Block(4, dim, stride, variant, drop_rate=0.5).eval()
    with torch.no_grad():
        for norm in (m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.weight.uniform_(-1, 1)
            norm.bias.uniform_(-1, 1)
    conv1, conv2 = (m for m in block.residual if isinstance(m, torch.nn.Conv2d))
    [norm2] = (m for m in block.residual if isinstance(m, torch.nn.BatchNorm2d))
    x = torch.randn(2, 4, 7, 7)
    activated = torch.relu(block.activate[0](x))
    residual = conv2(torch.relu(norm2(conv1(activated))))
    shortcut = x if dim == 4 else block.project(x if variant == "feat" else activated)
    before = x.clone()
    torch.testing.assert_close(block(x), residual + shortcut)
    assert torch.equal(x, before)  # the ReLU in place must not reach the identity path


@pytest.mark.parametrize(("variant", "place"), [("feat", 1), ("s2m2", 3)])
def test_dropout_stands_after_the_first_or_before_the_second_convolution(variant, place):
    names = [type(m).__name__ for m in _Block(4, 4, 1, variant, drop_rate=0.3).residual]
    wanted = ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    wanted.insert(place, "Dropout")
    assert names == wanted
    assert {m.p for m in meta(drop_rate=0.3).modules() if isinstance(m, torch.nn.Dropout)} == {0.3}


@pytest.mark.parametrize("variant", ["feat", "s2m2"])
def test_weights_start_as_in_the_published_code(variant):
    torch.manual_seed(0)
    network = WRN28_10(image_size=4, variant=variant)
    for conv in (m for m in network.groups[0].modules() if isinstance(m, torch.nn.Conv2d)):
        area = conv.kernel_size[0] ** 2
        # N(0, 2 / fan out), or PyTorch's uniform in +-1 / sqrt(fan in), whose variance is a third of 1 / fan in
        variance = 2 / (area * conv.out_channels) if variant == "s2m2" else 1 / (3 * area * conv.in_channels)
        assert conv.weight.std().item() == pytest.approx(variance**0.5, rel=6 / conv.weight.numel() ** 0.5)


def test_trains_in_channels_last_under_bfloat16_autocast():
    torch.manual_seed(0)
    network = WRN28_10(image_size=8, output="map").to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = network(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last))
    assert embeddings.dtype == torch.bfloat16
    assert embeddings.is_contiguous(memory_format=torch.channels_last)
    embeddings.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "wide"}, "variant must be one of feat, s2m2, got 'wide'"),
        ({"output": "flatten"}, "output must be one of vector, map, got 'flatten'"),
        ({"image_size": 0}, "image_size of at least 1"),
        ({"in_channels": 0}, "in_channels must be an integer, at least 1"),
        ({"drop_rate": 1.0}, "drop_rate must be a number, at least 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        meta(**arguments)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"built for images \[item, 3, 84, 84\], got \[1, 3, 32, 32\]"):
        meta()(torch.zeros(1, 3, 32, 32, device="meta"))
