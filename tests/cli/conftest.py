"""One tiny guard, made once by the very commands under test; every test that needs a guard shares it."""

import pytest
from tests.cli.shop import SPEC, Shop, call


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """train -> keys -> fit, once a session, on 240 drawn images of 32 px."""
    made = Shop(tmp_path_factory.mktemp("shop"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDAEGIS_CACHE", str(made.root / "cache"))
        for arguments in (
            ("keys", made.root / "keys"),
            ("train", SPEC, "--size", 32, "--epochs", 4, "--device", "cpu", "--out", made.classifier),
            (
                *("fit", made.classifier, SPEC, "--updates", 4, "--out", made.guard),
                *("--sign", made.root / "keys" / "signing-key.pem"),
            ),
        ):
            result = call(*arguments)
            assert result.exit_code == 0, result.output
    return made


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded images never go into the user's cache; tests of a session share one."""
    monkeypatch.setenv("MEDAEGIS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
