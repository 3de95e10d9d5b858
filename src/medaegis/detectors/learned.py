"""Classifiers of clean against attacked features: RBF-SVM (SafetyNet; Lu 2017), also on quantised features (QFeat), and
random forest (DFeat; both Ma 2021). scikit-learn fits them; what it found is kept as arrays and evaluated in torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medaegis.detectors.base import REMEDY, FitData
from medaegis.detectors.layered import OnFeatures, squared_distances
from medaegis.detectors.reader import Reading
from medaegis.errors import ConfigError
from medaegis.validation import Layout


@dataclass(kw_only=True, eq=False)
class Supervised(OnFeatures):
    """A detector that learns clean against attacked features."""

    @property
    def needs_attacked(self) -> bool:
        return True

    def examples(self, data: FitData) -> tuple[Tensor, Tensor]:
        """Features `(N + M, C)` and what they are: 0 clean, 1 attacked."""
        pair = [self.joined(seen) for seen in data.pair()]
        kinds = [torch.full((len(x),), kind, device=x.device) for kind, x in enumerate(pair)]
        return torch.cat(pair), torch.cat(kinds)


@dataclass(kw_only=True, eq=False)
class SupportVectors(Supervised):
    """Signed distance to the boundary of an RBF-SVM between clean and attacked features; positive for attacked.

    Args:
        penalty: C of the SVM; the papers give none, this is scikit-learn's default, as is gamma = 1 / channels on
            standardised features.
        levels: 0 takes the features as they are; 2 or more quantises each channel first, at the quantiles of clean
            features (QFeat: SafetyNet's discrete codes, "a set of thresholds").
    """

    kind = "rbf-svm"
    penalty: float = 1.0
    levels: int = 0

    def __post_init__(self) -> None:
        if not self.penalty > 0 or self.levels < 0 or self.levels == 1:
            given = f"penalty {self.penalty}, levels {self.levels}"
            raise ConfigError("SVM", given, "give a penalty above 0, and 0 levels or at least 2")

    def _fit(self, data: FitData) -> None:
        from sklearn.svm import SVC

        x, kinds = self.examples(data)
        if self.levels:
            ordered = x[kinds == 0].sort(0).values
            places = [round(i * (len(ordered) - 1) / self.levels) for i in range(1, self.levels)]
            self.learned["thresholds"] = ordered[places]
        x = self.code(x).double()
        mean, std = x.mean(0), x.std(0, correction=0)
        std = torch.where(std > 0, std, 1.0)
        model = SVC(C=self.penalty, kernel="rbf", gamma=1 / x.shape[1], class_weight="balanced")
        model.fit(((x - mean) / std).cpu().numpy(), kinds.cpu().numpy())
        self.learned |= {
            "mean": mean,
            "std": std,
            "vectors": torch.from_numpy(model.support_vectors_).to(x),
            "duals": torch.from_numpy(model.dual_coef_[0]).to(x),
            "intercept": torch.tensor(float(model.intercept_[0]), dtype=torch.float64).to(x),
        }

    def code(self, x: Tensor) -> Tensor:
        """Features as the SVM sees them before standardisation: levels 0, 1, ... where it quantises."""
        if not self.levels:
            return x
        levels = torch.zeros_like(x)
        for threshold in self.learned["thresholds"]:
            levels += x > threshold
        return levels

    def _score(self, seen: Reading) -> Tensor:
        x = (self.code(self.joined(seen)).double() - self.learned["mean"]) / self.learned["std"]
        kernel = (squared_distances(x, self.learned["vectors"]) / -x.shape[1]).exp()
        return kernel @ self.learned["duals"] + self.learned["intercept"]

    def layout(self) -> Layout:
        width = self.width
        layout: Layout = {"mean": (width,), "std": (width,), "vectors": ("s", width), "duals": ("s",), "intercept": ()}
        return layout | ({"thresholds": (self.levels - 1, width)} if self.levels else {})


@dataclass(kw_only=True, eq=False)
class RandomForest(Supervised):
    """Share of the vote for "attacked" in a random forest on the features.

    Args:
        trees: how many; the paper gives none, this is scikit-learn's default.
    """

    kind = "random-forest"
    trees: int = 100

    def __post_init__(self) -> None:
        if self.trees < 1:
            raise ConfigError("random forest", f"{self.trees} trees", "give 1 or more")

    def _fit(self, data: FitData) -> None:
        from sklearn.ensemble import RandomForestClassifier

        x, kinds = self.examples(data)
        model = RandomForestClassifier(self.trees, class_weight="balanced", random_state=data.seed)
        model.fit(x.cpu().numpy(), kinds.cpu().numpy())
        trees = [member.tree_ for member in model.estimators_]
        # Every tree is padded to the longest; a leaf is its own child, so that walking on from it stays there.
        shape = (len(trees), max(tree.node_count for tree in trees))
        channel, below, above = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
        threshold, vote = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        for i, tree in enumerate(trees):
            nodes, leaf = slice(0, tree.node_count), torch.from_numpy(tree.children_left) < 0
            own = torch.arange(tree.node_count)
            channel[i, nodes] = torch.where(leaf, 0, torch.from_numpy(tree.feature))
            threshold[i, nodes] = torch.where(leaf, 0.0, torch.from_numpy(tree.threshold))
            below[i, nodes] = torch.where(leaf, own, torch.from_numpy(tree.children_left))
            above[i, nodes] = torch.where(leaf, own, torch.from_numpy(tree.children_right))
            counts = torch.from_numpy(tree.value[:, 0])
            vote[i, nodes] = counts[:, 1] / counts.sum(1)
        depth = torch.tensor(max(tree.max_depth for tree in trees))
        parts = {"channel": channel, "threshold": threshold, "below": below, "above": above, "vote": vote}
        self.learned = {name: value.to(x.device) for name, value in parts.items()} | {"depth": depth}

    def _score(self, seen: Reading) -> Tensor:
        x, forest = self.joined(seen), self.learned
        tree = torch.arange(self.trees, device=x.device)
        node = torch.zeros((len(x), self.trees), dtype=torch.int64, device=x.device)
        for _ in range(int(forest["depth"])):
            value = x.gather(1, forest["channel"][tree, node])
            goes_below = value.double() <= forest["threshold"][tree, node]
            node = torch.where(goes_below, forest["below"][tree, node], forest["above"][tree, node])
        return forest["vote"][tree, node].mean(1)

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        super()._check(tensors)
        nodes = tensors["below"].shape[1]
        for name, limit in (("channel", self.width), ("below", nodes), ("above", nodes), ("depth", nodes)):
            if not bool((tensors[name] < limit).all()):
                raise ConfigError("random forest", f"array {name!r} points outside", REMEDY)

    def layout(self) -> Layout:
        names = ("channel", "threshold", "below", "above", "vote")
        layout: Layout = dict.fromkeys(names, (self.trees, "nodes"))
        return layout | {"depth": ()}
