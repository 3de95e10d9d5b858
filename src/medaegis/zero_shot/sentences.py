"""What a report may say of findings, by templates: sentences to learn from, and prompts to ask with.

Generated, where images come with findings and no report was written. They exercise the software; they are no reports.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Phrase = tuple[str, str]  # of a finding that is there, and of one that is not; {a} is {finding} with its article

PHRASES: tuple[Phrase, ...] = (
    ("there is {a}", "there is no {finding}"),
    ("an x-ray showing {a}", "an x-ray showing no {finding}"),
    ("{a} is seen", "no {finding} is seen"),
    ("film with {finding}", "film without {finding}"),
    ("signs of {finding}", "no signs of {finding}"),
    ("{finding} is present", "{finding} is absent"),
)
PROMPTS: tuple[Phrase, ...] = (  # in none of the sentences that are learned from
    ("an x-ray with {finding}", "an x-ray without {finding}"),
    ("there is {finding} present", "there is no {finding} present"),
    ("film showing signs of {finding}", "film showing no signs of {finding}"),
)
SAID = (0.2, 0.9)  # chance that a finding is spoken of that is not there, and of one that is
MOST = 4  # clauses in a report


def spoken(phrase: str, finding: str) -> str:
    """A phrase about a finding, named as a data set does.

    >>> spoken("there is {a}", "Enlarged_heart")
    'there is an enlarged heart'
    """
    name = finding.replace("_", " ").lower()
    return phrase.format(finding=name, a=f"{'an' if name[:1] in 'aeiou' else 'a'} {name}")


def report(findings: Sequence[str], there: Sequence[int], u: Tensor) -> str:
    """A report on an image: some of its findings and some that it has not, in any order.

    >>> import torch
    >>> report(("opacity", "nodule"), (1, 0), torch.tensor([[0.1, 0.2, 0.8], [0.1, 0.9, 0.3]]))
    'nodule is absent. an x-ray showing an opacity'

    Args:
        findings: L names; there: 0 or 1 for each.
        u: uniform numbers in [0, 1), `(L, 3)`: of which findings it speaks, how, and when.
    """
    late = [lot / SAID[has] for lot, has in zip(u[:, 0].tolist(), there, strict=True)]  # below 1: it is spoken of
    chosen = [k for k in sorted(range(len(late)), key=late.__getitem__)[:MOST] if late[k] < 1 or late[k] == min(late)]
    chosen.sort(key=u[:, 2].tolist().__getitem__)
    phrases = [PHRASES[int(u[k, 1] * len(PHRASES))][1 - there[k]] for k in chosen]
    return ". ".join(spoken(phrase, findings[k]) for phrase, k in zip(phrases, chosen, strict=True))


def sayings(findings: Sequence[str], phrases: Sequence[Phrase]) -> list[str]:
    """Of each finding all that these phrases say where it is there, then where it is not."""
    return [spoken(phrase[gone], finding) for finding in findings for gone in (0, 1) for phrase in phrases]
