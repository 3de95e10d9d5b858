"""One tiny guard, made once by the very commands under test; every test that needs a guard shares it."""

from collections.abc import Iterator
from functools import partial

import pytest
from tests.cli.shop import SIDE, SMALL, TRAINING, Shop, call, draw

from medaegis.bench import assess, evaluate


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images never go into the user's cache; the tests of a session share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDAEGIS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _small_checks() -> Iterator[None]:
    """Controls and alarms try less than for users; what they find is tested in tests/bench, at length."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((assess, "assess_classifier"), (evaluate, "evaluate_guard")):
            patch.setattr(module, name, partial(getattr(module, name), effort=SMALL))
        yield


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """data -> train -> keys -> fit, once a session."""
    made = Shop(tmp_path_factory.mktemp("shop"))
    draw(made.root / "data")
    secret = made.root / "keys" / "signing-key.pem"
    for command in (
        f"keys {made.root / 'keys'}",
        f"train {made.spec} --size {SIDE} --channels gray {TRAINING} --out {made.classifier}",
        f"fit {made.classifier} {made.spec} --updates 40 --sign {secret} --out {made.guard}",
    ):
        result = call(*command.split())
        assert result.exit_code == 0, result.output
    return made
