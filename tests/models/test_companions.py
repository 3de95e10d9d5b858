"""A network whose answer for an image depends on its companions, or on chance, is found when it is first tried."""

import pytest
import torch
import torch.nn.functional as F
from tests.models.own_networks import TinyViT
from tests.models.tiny_networks import Tiny, lived_in
from torch import nn

from medaegis.attacks.victim import Victim
from medaegis.errors import ArtefactError, ConfigError
from medaegis.models.classifier import Classifier
from medaegis.models.store import load_classifier, save_classifier


def classifier(network, **options):
    told = {"classes": ("a", "b"), "size": 16, "channels": "rgb", "backbone": "own:network"}
    return Classifier(network, **told, mean=(0.0,), std=(1.0,), **options)


class NormedTogether(Tiny):
    """A batch norm without running statistics takes those of the batch."""

    def __init__(self):
        super().__init__(2)
        self.bn1 = nn.BatchNorm2d(6, track_running_stats=False)


class AlwaysTraining(Tiny):
    def forward(self, x):
        self.bn1.train()
        return super().forward(x)


class LessTheMean(Tiny):
    def forward(self, x):
        return super().forward(x - x.mean())


class AgainstTheFirst(Tiny):
    def forward(self, x):
        return super().forward(x - x[:1])


class AgainstTheBrightest(Tiny):
    def forward(self, x):
        return super().forward(x / x.amax())


class AcrossTheBatch(TinyViT):
    """Tokens first, batch second is what attention expects unless told otherwise."""

    def __init__(self):
        super().__init__(2)
        self.blocks = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=False)


class BatchSoftmax(Tiny):
    def forward(self, x):
        return super().forward(x).log_softmax(0)


@pytest.mark.parametrize(
    "network",
    [
        NormedTogether,
        AcrossTheBatch,
        *(lambda kind=kind: lived_in(kind(2)) for kind in (AlwaysTraining, LessTheMean, AgainstTheFirst)),
        *(lambda kind=kind: lived_in(kind(2)) for kind in (AgainstTheBrightest, BatchSoftmax)),
    ],
)
def test_answers_by_company_are_refused(network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = network()
    with pytest.raises(ConfigError, match="depends on the other images of the batch"):
        classifier(made, outputs="logits")


class StillDropping(Tiny):
    def forward(self, x):
        return super().forward(F.dropout(x, 0.5))


def test_answers_by_chance_are_told_apart_from_those_by_company():
    with pytest.raises(ConfigError, match="differently from pass to pass"):
        classifier(lived_in(StillDropping(2)))


def test_a_network_that_no_single_image_can_be_given():
    with pytest.raises(ConfigError, match="does not run on one image alone"):
        classifier(nn.Sequential(lived_in(Tiny(2)), Squeezed()))


class Squeezed(nn.Module):
    def forward(self, x):
        return x.squeeze().unflatten(1, (1, 2)).squeeze(1)


def test_weights_that_are_no_numbers():
    network = lived_in(Tiny(2))
    network.fc.bias.data[0] = torch.nan
    with pytest.raises(ConfigError, match="not finite"):
        classifier(network)


class Coarse(Tiny):
    """In 16 bits, as on hardware whose kernels round otherwise for every size of batch; exact in 32."""

    def forward(self, x):
        return super().forward(x) * (1 + 0.3 * len(x) * (x.dtype == torch.float16))


def test_what_16_bits_round_is_no_company():
    c = classifier(lived_in(Coarse(2)).half())
    x = torch.rand(4, 3, 16, 16)
    assert float((c(x) - torch.cat([c(one[None]) for one in x])).abs().max()) > 0.1 * float(c(x).abs().max())
    exact = Victim(c).exact
    torch.testing.assert_close(exact(x), torch.cat([exact(one[None]) for one in x]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="depends on the other images of the batch"):
        classifier(lived_in(LessTheMean(2)).half())


class OnlyHalf(Tiny):
    def forward(self, x):
        return super().forward(x.half())


def test_a_network_that_does_not_run_in_float32_is_refused():
    with pytest.raises(ConfigError, match="does not run in float32, in which verdicts are computed"):
        classifier(lived_in(OnlyHalf(2)).half())


def test_a_folder_with_such_a_network_is_refused(tmp_path):
    network = lived_in(Tiny(2))
    save_classifier(classifier(network), tmp_path / "c")
    with pytest.raises(ArtefactError, match="depends on the other images"):
        load_classifier(tmp_path / "c", factory=lambda classes: lived_in(LessTheMean(2)))


class Normed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), norm, nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class Slope(nn.Module):
    """Not one weight."""

    def forward(self, x):
        z = 20 * (x[..., :8].mean((1, 2, 3)) - x[..., 8:].mean((1, 2, 3)))
        return torch.stack([-z, z], 1)


@pytest.mark.parametrize(
    "network",
    [
        lambda: lived_in(Tiny(2)),
        lambda: TinyViT(2),
        lambda: Normed(nn.InstanceNorm2d(8)),
        lambda: Normed(nn.GroupNorm(2, 8)),
        lambda: lived_in(Tiny(2)).double(),
        lambda: lived_in(Tiny(2)).half(),
        lambda: lived_in(Tiny(2)).bfloat16(),
        Slope,
    ],
)
def test_networks_that_judge_each_image_by_itself_pass(network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        c = classifier(network()).eval()
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    frozen = c.frozen()
    assert frozen.dtype == c(x).dtype == torch.float32
    torch.testing.assert_close(frozen(x), torch.cat([frozen(one[None]) for one in x]), rtol=1e-4, atol=1e-5)
    assert float((frozen(x) - c(x)).detach().abs().max()) < 0.05
