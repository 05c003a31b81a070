import pytest
import torch
import torch.nn.functional as F

from episodic.core.backbones.conv4 import Conv4


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({}, 113_088),
        ({"in_channels": 1, "image_size": 28}, 111_936),
        ({"bias": False}, 112_832),
        ({"widths": (64, 64, 64, 512)}, 372_480),
        ({"widths": (64, 64, 128, 128), "bias": False}, 260_544),
        ({"widths": (32, 32, 32, 32)}, 28_896),
    ],
)
def test_parameters_are_those_of_the_published_code(arguments, parameters):
    with torch.device("meta"):
        assert count(Conv4(**arguments)) == parameters


@pytest.mark.parametrize(
    ("channels", "size", "widths", "map_shape"),
    [
        (3, 84, (64, 64, 64, 64), (64, 5, 5)),
        (3, 32, (64, 64, 64, 64), (64, 2, 2)),
        (1, 28, (64, 64, 64, 64), (64, 1, 1)),
        (3, 84, (32, 32, 32, 32), (32, 5, 5)),
        (3, 84, (64, 64, 64, 512), (512, 5, 5)),
        (3, 21, (8, 16), (16, 5, 5)),
    ],
)
def test_shape_is_that_of_an_embedding(channels, size, widths, map_shape):
    with torch.device("meta"):
        images = torch.zeros(2, channels, size, size)
        maps = Conv4(channels, size, widths, output="map", pools=len(widths))
        vectors = Conv4(channels, size, widths, output="vector")
        assert maps.shape == map_shape == maps(images).shape[1:]
        assert vectors.shape == (map_shape[0] * map_shape[1] ** 2,) == vectors(images).shape[1:]


@pytest.mark.parametrize(
    ("arguments", "map_shape"),
    [
        ({"image_size": 84}, (64, 5, 5)),  # the published map
        ({"image_size": 32}, (64, 8, 8)),  # smaller images stop pooling early
        ({"image_size": 28}, (64, 7, 7)),
        ({"image_size": 3}, (64, 3, 3)),
        ({"image_size": 84, "pools": 2, "unpadded": 2}, (64, 19, 19)),  # Relation Networks
        ({"image_size": 28, "pools": 2, "unpadded": 2}, (64, 5, 5)),
    ],
)
def test_a_map_of_a_small_image_stays_a_map(arguments, map_shape):
    with torch.device("meta"):
        network = Conv4(output="map", **arguments)
        side = arguments["image_size"]
        assert network.shape == map_shape == network(torch.zeros(2, 3, side, side)).shape[1:]
        assert count(network) == 113_088


def test_pools_and_unpadded_are_numbers_of_blocks_and_leave_a_pixel():
    for name in ("pools", "unpadded"):
        with pytest.raises(ValueError, match=rf"{name} must be .* below 5 \(4 blocks\), got 5"):
            Conv4(**{name: 5})
    with pytest.raises(ValueError, match="image_size of at least 10"):
        Conv4(image_size=9, output="map", pools=2, unpadded=2)
    assert Conv4(image_size=10, output="map", pools=2, unpadded=2).shape == (64, 1, 1)


def test_blocks_are_convolution_norm_relu_pool_in_values_and_gradients():
    torch.manual_seed(0)
    network = Conv4(3, 12, (4, 5))
    with torch.no_grad():
        for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.weight.uniform_(-1, 1)  # negative ones too: only pooling and ReLU may change places
            norm.bias.uniform_(-1, 1)
    images = torch.randn(6, 3, 12, 12)
    x = images
    for block in network.blocks:
        conv, norm = block[0], block[1]
        x = F.conv2d(x, conv.weight, conv.bias, padding=1)
        x = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)
        x = F.max_pool2d(F.relu(x), 2)
    wanted = x.flatten(1)
    weight = torch.randn_like(wanted)
    gradients = torch.autograd.grad((wanted * weight).sum(), list(network.parameters()))
    got = network(images)
    torch.testing.assert_close(got, wanted)
    for ours, theirs in zip(
        torch.autograd.grad((got * weight).sum(), list(network.parameters())), gradients, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_vector_is_the_flattened_map_in_any_memory_format():
    torch.manual_seed(0)
    vectors, maps = Conv4(3, 32), Conv4(3, 32, output="map", pools=4)
    maps.load_state_dict(vectors.state_dict())
    vectors.eval(), maps.eval()
    images = torch.randn(2, 3, 32, 32)
    wanted = vectors(images)
    torch.testing.assert_close(maps(images).flatten(1), wanted)
    maps, images = (x.to(memory_format=torch.channels_last) for x in (maps, images))
    assert maps(images).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(maps(images).flatten(1), wanted, rtol=1e-4, atol=1e-5)


def test_trains_under_bfloat16_autocast():
    torch.manual_seed(0)
    network = Conv4(1, 16, (4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = network(torch.randn(3, 1, 16, 16))
    assert embeddings.dtype == torch.bfloat16
    embeddings.float().sum().backward()
    assert all(p.grad.isfinite().all() and p.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "flat"}, "output must be one of vector, average, map, got 'flat'"),
        ({"image_size": 15}, "image_size of at least 16.*got 15"),
        ({"in_channels": 0}, "in_channels must be an integer, at least 1"),
        ({"widths": ()}, "widths must be a number of channels for each block, at least one, got"),
        ({"widths": (64, 0)}, "widths must be a flat list of integers from 1, got"),
        ({"widths": (64, 1.5)}, "widths must be a flat list of integers from 1, got"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Conv4(**arguments)


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 32, 32), (2, 1, 28, 29)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"built for images \[item, 1, 28, 28\], got"):
        Conv4(1, 28)(torch.zeros(shape))


def test_pooling_first_is_the_same_for_fixed_statistics_and_positive_scales_and_another_network_in_training():
    torch.manual_seed(0)
    plain, first = (Conv4(3, 20, (4, 8), pool_first=chosen) for chosen in (False, True))
    images = torch.rand(6, 3, 20, 20)
    plain(images)  # statistics other than 0 and 1
    for (_, norm, *_), (_, _, other, _) in zip(plain.blocks, first.blocks, strict=True):
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
        other.load_state_dict(norm.state_dict())
    for ours, theirs in zip(first.blocks, plain.blocks, strict=True):
        ours[0].load_state_dict(theirs[0].state_dict())
    assert not torch.allclose(plain.train()(images), first.train()(images), atol=0.1)
    first.blocks[0][2].load_state_dict(plain.blocks[0][1].state_dict())
    first.blocks[1][2].load_state_dict(plain.blocks[1][1].state_dict())
    torch.testing.assert_close(plain.eval()(images), first.eval()(images), atol=1e-5, rtol=1e-5)


def test_without_the_last_relu_embeddings_have_entries_below_zero():
    torch.manual_seed(0)
    published = Conv4(3, 20, (4, 8))
    without = Conv4(3, 20, (4, 8), last_relu=False)
    without.load_state_dict(published.state_dict())
    images = torch.rand(6, 3, 20, 20)
    found = without(images)
    assert (found < 0).any()
    torch.testing.assert_close(found.relu(), published(images))
