import pytest
import torch

from episodic.core.backbones.resnet12 import DropBlock, ResNet12, keep_mask


def meta(**arguments):
    with torch.device("meta"):
        return ResNet12(**arguments)


def count(network):
    return sum(p.numel() for p in network.parameters())


def seen(network, size, module):
    """The shapes that leave each of the modules at `module`, for one image."""
    shapes = []
    for part in module:
        part.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return shapes


@pytest.mark.parametrize(
    ("variant", "blocks", "total"),
    [
        ("metaoptnet", [76_160, 564_480, 2_357_760, 9_425_920], 12_424_320),
        ("can", [115_200, 377_856, 1_509_376, 6_033_408], 8_037_696),
    ],
)
def test_parameters_are_those_of_the_published_code(variant, blocks, total):
    network = meta(variant=variant)
    assert [count(block) for block in network.blocks] == blocks
    assert count(network) == total
    assert not any(m.bias is not None for m in network.modules() if isinstance(m, torch.nn.Conv2d))


@pytest.mark.parametrize(
    ("variant", "size", "sides"),
    [
        ("metaoptnet", 84, [42, 21, 10, 5]),
        ("metaoptnet", 32, [16, 8, 4, 2]),
        ("metaoptnet", 28, [14, 7, 3, 1]),
        ("can", 84, [42, 21, 11, 6]),
        ("can", 32, [16, 8, 4, 2]),
    ],
)
def test_shape_is_that_of_an_embedding(variant, size, sides):
    network = meta(variant=variant, image_size=size, output="map")
    assert [shape[-1] for shape in seen(network, size, network.blocks)] == sides
    dim, side = {"metaoptnet": 640, "can": 512}[variant], sides[-1]
    images = torch.zeros(2, 3, size, size, device="meta")
    for output, shape in {"map": (dim, side, side), "flatten": (dim * side**2,), "vector": (dim,)}.items():
        network = meta(variant=variant, image_size=size, output=output)
        assert network.shape == shape == network(images).shape[1:]


def test_down_sampling_is_pooling_or_the_stride_of_the_second_convolution():
    convolutions = [m for m in meta(variant="can").modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.stride[0] for c in convolutions] == [1] + [1, 2, 1, 2] * 4  # the stem, then three and the shortcut
    assert all(m.stride == (1, 1) for m in meta().modules() if isinstance(m, torch.nn.Conv2d))


@pytest.mark.parametrize("variant", ["metaoptnet", "can"])
def test_a_block_is_the_published_one_step_by_step(variant):
    torch.manual_seed(0)
    network = ResNet12(image_size=16, variant=variant, drop_rate=0.0)
    block = network.blocks[0].eval()
    with torch.no_grad():
        for norm in (m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.weight.uniform_(-1, 1)
            norm.bias.uniform_(-1, 1)
    x = torch.randn(2, 3 if variant == "metaoptnet" else 64, 9, 9)
    conv1, norm1, _, conv2, norm2, _, conv3, norm3 = block.residual
    act = (lambda x: torch.where(x > 0, x, 0.1 * x)) if variant == "metaoptnet" else torch.relu
    wanted = norm3(conv3(act(norm2(conv2(act(norm1(conv1(x))))))))
    wanted = act(wanted + block.shortcut[1](block.shortcut[0](x)))
    if variant == "metaoptnet":
        wanted = torch.nn.functional.max_pool2d(wanted, 2)
    torch.testing.assert_close(block(x), wanted)


@pytest.mark.parametrize("variant", ["metaoptnet", "can"])
def test_convolutions_start_from_kaiming_fan_out(variant):
    torch.manual_seed(0)
    for conv in (
        m for m in ResNet12(variant=variant, image_size=16).blocks[:3].modules() if isinstance(m, torch.nn.Conv2d)
    ):
        wanted = (2 / (conv.kernel_size[0] ** 2 * conv.out_channels)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(wanted, rel=6 / conv.weight.numel() ** 0.5)


def test_dropout_then_drop_block_with_the_block_size_of_the_images():
    for size, block_size in ((84, 5), (33, 5), (32, 2), (28, 2)):
        drops = [block.drop for block in meta(image_size=size, drop_rate=0.2).blocks]
        assert [type(d).__name__ for d in drops] == ["Dropout", "Dropout", "DropBlock", "DropBlock"]
        assert [d.p for d in drops[:2]] == [0.2] * 2
        assert [(d.rate, d.block_size, d.ramp) for d in drops[2:]] == [(0.2, block_size, 6_666)] * 2
    assert [d.ramp for d in meta(steps=1800).modules() if isinstance(d, DropBlock)] == [200, 200]
    assert not any(isinstance(m, torch.nn.Dropout | DropBlock) for m in meta(variant="can").modules())


def test_eval_is_deterministic_and_independent_of_the_counter():
    torch.manual_seed(0)
    network = ResNet12(image_size=16).eval()
    images = torch.randn(2, 3, 16, 16)
    wanted = network(images)
    assert all(buffer == 0 for name, buffer in network.named_buffers() if name.endswith("calls"))
    for drop in (m for m in network.modules() if isinstance(m, DropBlock)):
        drop.calls.fill_(40_000)
    assert torch.equal(network(images), wanted)


def test_vector_is_the_average_and_flatten_the_row_of_the_map():
    torch.manual_seed(0)
    network = ResNet12(image_size=32, output="map").eval()
    images = torch.randn(2, 3, 32, 32)
    maps = network(images)
    for output, wanted in (("vector", maps.flatten(2).mean(2)), ("flatten", maps.reshape(2, -1))):
        other = ResNet12(image_size=32, output=output).eval()
        other.load_state_dict(network.state_dict())
        torch.testing.assert_close(other(images), wanted)


def test_memory_formats_agree_and_it_trains_under_bfloat16_autocast():
    torch.manual_seed(0)
    network = ResNet12(image_size=16, drop_rate=0.0, output="map")
    images = torch.randn(2, 3, 16, 16)
    wanted = network.eval()(images)
    network, images = (x.to(memory_format=torch.channels_last) for x in (network, images))
    got = network(images)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = network.train()(images)
    assert embeddings.dtype == torch.bfloat16
    embeddings.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


# gamma at full rate: 0.1 / 25 * 100 / 36 = 1/90, 0.1 / 25 * 25 / 1, 0.1 / 4 * 16 / 9 = 2/45, 0.1 / 4 * 4 / 1
@pytest.mark.parametrize(
    ("side", "block_size", "gamma"), [(10, 5, 0.01111), (5, 5, 0.1), (4, 2, 0.04444), (2, 2, 0.1), (1, 2, 0.1)]
)
def test_gamma_rises_linearly_to_the_published_value(side, block_size, gamma):
    drop = DropBlock(0.1, block_size, ramp=40_000)
    for calls, part in ((0, 0.0), (1, 1 / 40_000), (10_000, 0.25), (40_000, 1.0), (90_000, 1.0)):
        drop.calls.fill_(calls)
        assert drop.gamma(side).item() == pytest.approx(gamma * part, rel=1e-3)


@pytest.mark.parametrize(("places", "block"), [(6, 5), (1, 5), (3, 2), (4, 1)])
def test_mask_equals_a_loop_over_the_seeds(places, block):
    generator = torch.Generator().manual_seed(places)
    seeds = (torch.rand(2, 3, places, places, generator=generator) < 0.15).float()
    seeds[0, 0, places - 1, 0] = 1
    wanted = torch.ones(2, 3, places + block - 1, places + block - 1)
    for item, dim, row, column in seeds.nonzero().tolist():
        wanted[item, dim, row : row + block, column : column + block] = 0
    assert torch.equal(keep_mask(seeds, block), wanted)


@pytest.mark.parametrize(("side", "block_size"), [(10, 5), (5, 5), (4, 2), (3, 5)])
def test_drop_block_zeroes_whole_blocks_and_keeps_the_mean(side, block_size):
    torch.manual_seed(0)
    drop = DropBlock(0.2, block_size, ramp=1).train()
    out = drop(torch.ones(16, 64, side, side))
    assert out.mean().item() == pytest.approx(1, abs=1e-5)  # what is left of ones, rescaled by all / left
    left = out != 0
    assert out[left].unique().numel() == 1
    assert 0.12 < 1 - left.float().mean() < 0.25  # about the rate: overlaps make it a little less
    for dropped in (~left).flatten(0, 1):  # each hole is a union of blocks
        b = min(block_size, side)
        corners = [
            (r, c) for r in range(side - b + 1) for c in range(side - b + 1) if dropped[r : r + b, c : c + b].all()
        ]
        covered = torch.zeros_like(dropped)
        for r, c in corners:
            covered[r : r + b, c : c + b] = True
        assert torch.equal(covered, dropped)
    assert (~left).flatten(2).any(2).float().std() > 0  # channels are drawn one by one


def test_drop_block_counts_training_calls_in_its_state():
    torch.manual_seed(0)
    drop, x = DropBlock(0.3, 2, ramp=3), torch.randn(4, 8, 4, 4)
    assert torch.equal(drop.eval()(x), x)
    assert drop.calls == 0
    drop.train()(x), drop(x)
    assert drop.state_dict().keys() == {"calls"}
    assert drop.state_dict()["calls"] == 2
    resumed = DropBlock(0.3, 2, ramp=3)
    resumed.load_state_dict(drop.state_dict())
    torch.manual_seed(1)
    wanted = [drop(x), drop(x)]
    torch.manual_seed(1)
    assert all(torch.equal(resumed(x), w) for w in wanted)


def test_drop_block_is_finite_when_nothing_is_left():
    drop = DropBlock(0.99, 5, ramp=1)
    for seed in range(5):
        torch.manual_seed(seed)
        assert drop(torch.ones(1, 1, 5, 5)).isfinite().all()


def test_the_first_training_call_of_a_network_drops_little_and_counts():
    network = ResNet12(image_size=16)
    network(torch.randn(2, 3, 16, 16))
    assert {name: int(b) for name, b in network.state_dict().items() if name.endswith("calls")} == {
        "blocks.2.drop.calls": 1,
        "blocks.3.drop.calls": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "tadam"}, "variant must be one of metaoptnet, can, got 'tadam'"),
        ({"output": "pool"}, "output must be one of vector, flatten, map, got 'pool'"),
        ({"image_size": 15}, "image_size of at least 16.*got 15"),
        ({"image_size": 0, "variant": "can"}, "image_size of at least 1"),
        ({"in_channels": 0}, "in_channels must be an integer, at least 1"),
        ({"drop_rate": 1.0}, "drop_rate must be a number, at least 0"),
        ({"drop_rate": -0.1}, "drop_rate must be a number, at least 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        meta(**arguments)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"built for images \[item, 3, 84, 84\], got \[1, 3, 32, 32\]"):
        meta()(torch.zeros(1, 3, 32, 32, device="meta"))


def test_the_variant_can_has_no_drop_rate():
    assert meta().without_effect == {}
    assert meta(variant="can").without_effect.keys() == {"drop_rate", "steps"}
