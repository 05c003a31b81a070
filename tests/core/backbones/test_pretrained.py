import sys
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import episodic.core.backbones.pretrained
from episodic.core.backbones.pretrained import AverageAndMaximum, Pretrained
from episodic.learners.prototypical import Prototypical
from tests.conftest import random_task

SIZE = 64
WIDTHS = {
    "resnet50": 2048,
    "googlenet": 1024,
    "densenet201": 1920,
    "resnet18": 512,
    "mobilenet_v3_small": 1024,
}


def make(name="resnet18", **settings):
    torch.manual_seed(0)
    return Pretrained(name, **{"image_size": SIZE, "weights": None, **settings})


def theirs(name, seed=1):
    """The network of torchvision, its statistics those of a batch (or little of an image is left), and its last layer's input."""
    torch.manual_seed(seed)
    more = {"init_weights": True, "transform_input": True} if name == "googlenet" else {}
    network = models.get_model(name, weights=None, **more).train()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(4, 3, SIZE, SIZE))
    seen = []
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, x: seen.append(x[0]))

    def penultimate(images):
        network.eval()(images)
        return seen[-1]

    return network, penultimate


def images(channels=3, n=2, seed=2):
    return torch.randn(n, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def saved(folder, name="resnet18", state=None):
    network, penultimate = theirs(name)
    file = folder / f"{name}.pth"
    torch.save(network.state_dict() if state is None else state(network.state_dict()), file)
    return file, penultimate


@pytest.mark.parametrize("name", WIDTHS)
def test_features_are_those_before_the_classifier(tmp_path, name):
    file, penultimate = saved(tmp_path, name)
    network = make(name, weights=str(file)).eval()
    assert network.shape == (WIDTHS[name],)
    with torch.no_grad():
        wanted = penultimate(images())
        assert wanted.std(0).mean() > 0.01  # images differ
        torch.testing.assert_close(network(images()), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet50", 23.508032), ("googlenet", 5.599904), ("densenet201", 18.092928)]
)
def test_parameters_are_those_of_the_library_without_classifiers(name, millions):
    with torch.device("meta"):
        network = make(name)
        full = models.get_model(name, **({"aux_logits": False, "init_weights": False} if name == "googlenet" else {}))
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == round(millions * 1e6)
    assert parameters == sum(p.numel() for p in full.parameters()) - 1000 * (WIDTHS[name] + 1)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet"])
def test_the_maximum_is_added_to_the_average(tmp_path, name):
    file, _ = saved(tmp_path, name)
    network, average = (make(name, weights=str(file), pooling=pooling).eval() for pooling in ("avg_max", "avg"))
    maps = []
    pool = next(module for module in network.modules() if isinstance(module, AverageAndMaximum))
    pool.register_forward_hook(lambda _, x, __: maps.append(x[0]))
    with torch.no_grad():
        found = network(images())
        torch.testing.assert_close(average(images()), maps[0].flatten(2).mean(2))
        torch.testing.assert_close(found, maps[0].flatten(2).mean(2) + maps[0].flatten(2).max(2).values)
    assert network.network.state_dict().keys() == average.network.state_dict().keys()


def test_grey_images_meet_the_weights_summed_over_the_colors(tmp_path):
    file, _ = saved(tmp_path)
    network = make(weights=str(file), in_channels=1).eval()
    summed = models.resnet18()
    summed.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    summed.fc = nn.Identity()
    state = {key: value for key, value in torch.load(file).items() if not key.startswith("fc.")}
    summed.load_state_dict({**state, "conv1.weight": state["conv1.weight"].sum(1, keepdim=True)})
    with torch.no_grad():
        torch.testing.assert_close(network(images(1)), summed.eval()(images(1)), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"built for images \[item, 1, 64, 64\], got \[2, 3, 64, 64\]"):
        network(images())


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norm_stays_in_training(frozen):
    network = make(frozen_batch_norm=frozen)
    whole = nn.Sequential(network).train()  # as a learner puts it into training mode
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    whole(images()).square().sum().backward()
    optimizer.step()
    norms = {path for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    moved_norms = {name for name in moved if name.rpartition(".")[0] in norms}
    assert "network.conv1.weight" in moved
    assert bool(moved_norms) is not frozen
    if frozen:  # a batch is then no more than its images
        with torch.no_grad():
            torch.testing.assert_close(network(images(n=4))[:2], network(images(n=4)[:2]), atol=1e-4, rtol=1e-4)


def test_no_dropout_is_left_on_embeddings_and_training_gives_one_tensor():
    # Of VGG's two the one between its linear layers stays.
    for name, left in (("googlenet", 0), ("inception_v3", 0), ("mobilenet_v2", 0), ("vgg11", 1)):
        with torch.device("meta"):
            network = make(name, image_size=96).train()
            assert sum(isinstance(module, nn.Dropout) for module in network.modules()) == left
            assert network(torch.zeros(2, 3, 96, 96)).shape == (2, *network.shape)


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors"])
def test_a_saved_file_comes_back(tmp_path, capsys, ending):
    network = make()
    assert capsys.readouterr().out == ""  # nothing is loaded
    with torch.no_grad():
        network.train()(images())  # moves the running statistics
    file = tmp_path / f"weights.{ending}"
    (save_file if ending == "safetensors" else torch.save)(network.network.state_dict(), file)
    again = Pretrained("resnet18", image_size=SIZE, weights=str(file))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"resnet18 of torchvision, weights {file}: 11,176,512 parameters, 44.7 MB"


def test_old_names_of_densenets_and_files_that_count_no_batches(tmp_path):
    def old(state):
        for part in ("norm", "conv"):
            for number in "12":
                state = {
                    k.replace(f".{part}{number}.", f".{part}.{number}.") if "denselayer" in k else k: v
                    for k, v in state.items()
                    if "num_batches" not in k
                }
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
        return state

    file, penultimate = saved(tmp_path, "densenet121", old)
    with torch.no_grad():
        found = make("densenet121", weights=str(file)).eval()(images())
        torch.testing.assert_close(found, penultimate(images()))


def test_files_that_are_missing_or_do_not_fit_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.pth"):
        make(weights=str(tmp_path / "nowhere.pth"))
    file, _ = saved(tmp_path)
    with pytest.raises(
        ValueError, match=r"does not fit resnet34; 80 tensors differ: layer1\.2\.conv1\.weight \(resnet34 \(64, "
    ):
        make("resnet34", weights=str(file))
    file, _ = saved(tmp_path, state=lambda s: {**s, "conv1.weight": s["conv1.weight"][:, :1], "more": s["fc.bias"]})
    wanted = (
        r"2 tensors differ: conv1.weight \(resnet18 \(64, 3, 7, 7\), file \(64, 1, 7, 7\)\), more \(resnet18 None, file"
    )
    with pytest.raises(ValueError, match=wanted):
        make(weights=str(file))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_files_that_hold_something_else_are_refused_and_run_nothing(tmp_path, ending):
    file = tmp_path / f"weights.{ending}"
    file.write_bytes(b"<html>no such page</html>")
    with pytest.raises(ValueError, match="cannot be read"):
        make(weights=str(file))
    if ending == "pth":
        torch.save(nn.Linear(2, 2), file)  # a pickled object
        with pytest.raises(ValueError, match="cannot be read as a file of weights"):
            make(weights=str(file))
        torch.save([torch.zeros(2)], file)
        with pytest.raises(ValueError, match="holds no state_dict"):
            make(weights=str(file))


def test_weights_of_the_library_are_asked_for_by_name(monkeypatch):
    asked = []

    def get_state_dict(weights, *args, **kwargs):
        asked.append(weights.name)
        return models.get_model("resnet18").state_dict()

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", get_state_dict)
    make(weights="default")
    make(weights="IMAGENET1K_V1")
    assert asked == ["IMAGENET1K_V1", "IMAGENET1K_V1"]
    with pytest.raises(ValueError, match="must be one of IMAGENET1K_V1, DEFAULT, got 'IMAGENET1K_V7'"):
        make(weights="imagenet1k_v7")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet51"}, "torchvision has no classifier 'resnet51'; it has .*resnet50"),
        ({"name": "squeezenet1_0"}, "ends in AdaptiveAvgPool2d, not in a linear classifier"),
        ({"source": "hub"}, "source must be one of torchvision, timm, got 'hub'"),
        ({"pooling": "max"}, "pooling must be one of avg, avg_max, got 'max'"),
        ({"in_channels": 2}, "in_channels must be 3 .* or 1 .* got 2"),
        ({"name": "densenet121", "image_size": 16}, "densenet121 cannot take images of 16 pixels a side"),
        ({"name": "mobilenet_v2", "pooling": "avg_max"}, "mobilenet_v2 has no average over all pixels"),
        ({"name": "vgg11", "pooling": "avg_max"}, "vgg11 has no average over all pixels"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused(settings, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_few_shot_learner_stands_on_it():
    learner = Prototypical(make(in_channels=1))
    task = random_task(episodes=1, n_way=2, n_shot=1, n_query=2, item=(1, SIZE, SIZE))
    logits = learner(task).logits
    logits.logsumexp(-1).sum().backward()
    assert logits.shape == (1, 2, 2)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


def test_importing_leaves_the_libraries_out():
    for name, value in vars(episodic.core.backbones.pretrained).items():
        home = getattr(value, "__module__", None) or getattr(value, "__name__", "")
        assert not str(home).startswith(("torchvision", "timm")), name


def test_timm_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'pip install "episodic\[timm\]"'):
        make("resnet18", source="timm")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224"])
def test_features_of_timm_are_those_before_its_classifier(tmp_path, name):
    timm = pytest.importorskip("timm")
    size = 224 if name.startswith("vit") else SIZE
    full = timm.create_model(name).eval()
    file = tmp_path / "weights.safetensors"
    save_file(full.state_dict(), file)
    network = make(name, source="timm", weights=str(file), image_size=size).eval()
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        wanted = full.forward_head(full.forward_features(x), pre_logits=True)
        torch.testing.assert_close(network(x), wanted)
    assert network.shape == wanted.shape[1:]


def test_pooling_and_names_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    network = make("resnet18", source="timm", pooling="avg_max").eval()
    x = images()
    with torch.no_grad():
        maps = network.network.forward_features(x)
        torch.testing.assert_close(network(x), maps.flatten(2).mean(2) + maps.flatten(2).max(2).values)
    assert not timm.is_model("bninception")
    for settings, message in (
        ({"name": "resnet81"}, "timm has no model 'resnet81'; near it: .*resnet"),
        ({"weights": "IMAGENET1K_V1"}, "weights of timm.* must be one of default"),
        ({"name": "vit_tiny_patch16_224", "image_size": 64}, "cannot take images of 64 pixels"),
        ({"name": "swin_tiny_patch4_window7_224", "image_size": 224, "pooling": "avg_max"}, "has no average over all"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**{"name": "resnet18", "source": "timm", **settings})


def test_a_failed_download_says_what_else_there_is(monkeypatch):
    def fail(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(OSError, match=r"weights of resnet18 cannot be downloaded \(Name or .*give those of a file"):
        make(weights="default")


def test_a_network_without_batch_norm_has_none_to_freeze():
    with torch.device("meta"):
        for name, idle in (("vgg11", {"frozen_batch_norm"}), ("resnet18", set())):
            network = Pretrained(name, weights=None, image_size=32, frozen_batch_norm=True)
            assert network.without_effect.keys() == idle
