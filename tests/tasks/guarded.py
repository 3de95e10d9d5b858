"""A guard for masks that is made in seconds, and a Shield whose answer is known."""

from functools import cache

from tests.tasks.small import tiny_unet
from torch import Tensor, nn

from medaegis.cushions import parse_cushion
from medaegis.detectors.shield import ShieldBank
from medaegis.guard.calibration import calibrate
from medaegis.guard.guard import Guard
from medaegis.guard.shield_config import ShieldConfig
from medaegis.images.datasets import Dataset, load_dataset
from medaegis.images.splits import Split, split_dataset
from medaegis.models.classifier import ANSWERED, Classifier

SIZE = 16
SHIELD = ShieldConfig(
    taps=(ANSWERED,), width=8, hidden=8, updates=4, batch_size=8, inner_steps=4, inner_step=(0.25, 0.25), lr=3e-3
)
OWN = "tests.tasks.small:tiny_unet"


class Darkness(nn.Module):
    """A Shield whose logit is how much darker the pixels of the mask are than the others, in percent of white."""

    taps = (ANSWERED,)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        pixels, mask = features[ANSWERED].unbind(1)
        inside = (pixels * mask).sum((1, 2)) / mask.sum((1, 2)).clamp_min(1e-3)
        outside = (pixels * (1 - mask)).sum((1, 2)) / (1 - mask).sum((1, 2)).clamp_min(1e-3)
        return 100 * (outside - inside)


@cache
def small_lungs() -> tuple[Dataset, Split]:
    dataset = load_dataset("phantom-lungs?n=150", size=SIZE, channels="gray")
    return dataset, split_dataset(dataset)


def dark_guard(classifier: Classifier, *, cushion: str = "none", tnr: float = 0.9) -> Guard:
    """With thresholds of its own, by clean validation images."""
    guard = Guard(classifier, parse_cushion(cushion), ShieldBank([Darkness()]), tnr=tnr)
    guard.calibration = calibrate(guard, *small_lungs())
    return guard


def unet(**_: object) -> nn.Module:
    return tiny_unet(2)
