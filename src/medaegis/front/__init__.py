"""The front door of the library: attack a network, guard it, detect attacks on it, load what was saved, in a line each.

What images and labels may be is told in `medaegis.arrays`.
"""

from medaegis.front.attacking import attack
from medaegis.front.detecting import ImageDetector, detector
from medaegis.front.guarding import fit, load
from medaegis.front.measuring import certify, evaluate

__all__ = ["ImageDetector", "attack", "certify", "detector", "evaluate", "fit", "load"]
