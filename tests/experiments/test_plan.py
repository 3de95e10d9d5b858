"""Tasks: what cells share is one task, and whatever a result depends on is in its name."""

from collections import Counter

import pytest
import torch
from safetensors.torch import save_file
from tests.experiments.small import cells, planned_of, written

from medaegis.errors import ConfigError, DataError
from medaegis.experiments import tasks
from medaegis.experiments.cells import cells_of, chosen
from medaegis.experiments.paper import presets
from medaegis.experiments.plan import load_sources, plan_cells, shared
from medaegis.experiments.schema import read_experiment
from medaegis.experiments.tasks import everything, in_order
from medaegis.experiments.tiny import TinyNetwork

pytestmark = pytest.mark.usefixtures("cache")


def keys(*changes, folder, **given):
    return {task.key for task in everything(cells(written(folder, *changes), **given))}


def kinds(planned):
    return Counter(task.kind for task in everything(planned))


def test_what_cells_share_is_done_once(tmp_path):
    planned = cells(written(tmp_path))
    # Cushions: none and jpeg-80. BIM on the test and the learning images behind each, WB once; the SVM alone learns
    # from attacked images; KD and SVM read clean and attacked test images, and clean images to learn from.
    assert kinds(planned) == {
        "classifier": 1,
        "guard": 1,
        "attacked": 2 + 2 + 1,
        "reading": 2 * 4,
        "detector": 2 * 2,
        "scores": 2 * 2 * 2 + 3,
        "figures": 6,
    }
    users = {task.key: count for task, count in shared(planned)}
    assert users[planned[0].task.needs["classifier"].key] == 6
    order = [task.key for task in everything(planned)]
    for task in everything(planned):
        assert all(order.index(other.key) < order.index(task.key) for other in task.needs.values())
    assert len(set(order)) == len(order)


def test_of_what_is_done_nothing_is_needed(tmp_path):
    planned = cells(written(tmp_path))
    scores = planned[0].task.needs["hostile"]
    left = in_order([planned[0].task], lambda task: task.kind in ("scores", "attacked", "classifier"))
    assert [task.kind for task in left] == ["figures"]
    assert [task.kind for task in in_order([scores], lambda task: task is scores)] == []


CHANGES = {
    "steps of the attack": ("steps = 3\n", "steps = 4\n", {"classifier", "guard"}),
    "eps": ('["16/256"]', '["8/256"]', {"classifier", "guard"}),
    "epochs": ("epochs = 4", "epochs = 5", set()),
    "the recipe of the Shield": ("updates = 4", "updates = 5", {"classifier", "reading", "detector"}),
    "quality of the Cushion": ('"jpeg:80"', '"jpeg:70"', {"classifier"}),
    "what is read": ('["layer1", "layer4"]', '["layer1"]', {"classifier"}),
    "goal": ("[scale.smoke]\n", '[scale.smoke]\ngoal = "untargeted"\n', {"classifier", "guard"}),
    "images judged": ("[scale.smoke]\n", "[scale.smoke]\nlimit = 20\n", {"classifier", "guard"}),
    "seed": ("[scale.smoke]\n", "[scale.smoke]\nseeds = [1]\n", set()),
    "split": ("[scale.smoke]\n", '[scale.smoke]\nsplit = "image"\n', set()),
    "size": ("size = 32", "size = 40", set()),
    "robust training": ("cushion = {", 'method = { A = "fgsm-at" }\ncushion = {', set()),
    "a step in pixels": ('"bim"', '{ attack = "bim", step = "1/255" }', {"classifier", "guard"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_gives_all_that_depends_on_it_another_name(name, tmp_path):
    old, new, same = CHANGES[name]
    before, after = (list(everything(cells(written(tmp_path, *change)))) for change in ((), ((old, new),)))
    kept = {task.key for task in before} & {task.key for task in after}
    for kind in {task.kind for task in after}:
        mine = {task.key for task in after if task.kind == kind}
        if kind in same:
            assert mine <= kept, kind
        else:
            assert mine - kept, kind
    changed = {task.key for task in after} - kept
    for task in after:  # whatever needs what changed has changed
        assert task.key in changed or not changed & {other.key for other in task.needs.values()}


def test_names_of_axes_and_words_of_the_paper_change_no_task(tmp_path):
    words = ("KD = ", "Density = "), ('["KD"', '["Density"'), ('"KD", "SVM"]', '"Density", "SVM"]'), ('"none"', '"me"')
    told = [change for change in words if change[0] not in ('["KD"', '"none"')]
    assert keys(*told, folder=tmp_path) == keys(folder=tmp_path)


def test_other_images_other_code_and_another_device_change_every_task(tmp_path, monkeypatch):
    planned = {task.key for task in everything(cells(written(tmp_path)))}
    fewer = keys(folder=tmp_path, chest="phantom-xray?n=150")
    elsewhere = {task.key for task in everything(cells(written(tmp_path), device="cuda"))}
    experiment = read_experiment(written(tmp_path), "smoke")
    made = cells_of(experiment)
    sources = load_sources(experiment, made, {})
    for source in sources.values():
        source.dataset.images[0, 0, 0, 0] ^= 1  # one pixel of one image
    other_pixel = {task.key for task in everything(plan_cells(experiment, made, sources, "cpu"))}
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "code_fingerprint", lambda **_: "other")
        other_code = keys(folder=tmp_path)
    for changed in (fewer, elsewhere, other_pixel, other_code):
        assert not planned & changed
    assert keys(folder=tmp_path) == planned


def test_what_cannot_be_is_told_before_any_work(tmp_path):
    aimless = written(tmp_path, ('exclude = [{ attack = "WB", defence = ["KD", "SVM"] }]', ""))
    with pytest.raises(ConfigError, match=r"'wb'.*aims at a Shield.*defence KD.*exclude"):
        cells(aimless)
    small = written(tmp_path, ('["16/256"]', '["0.5/256"]'))
    with pytest.raises(ConfigError, match="less than a grey level"):
        cells(small)
    many = written(tmp_path, ('"bim"', '"apgd-dlr"'))
    with pytest.raises(ConfigError, match="needs 4 classes"):
        cells(many)
    file = written(tmp_path, ('data = { chest = "phantom-xray?n=160" }', ""))
    with pytest.raises(ConfigError, match="--data chest=SPEC"):
        cells(file)
    with pytest.raises(ConfigError, match=r"no data set of this experiment.*chest"):
        cells(written(tmp_path), lung="phantom-xray")


def test_other_weights_or_another_network_under_the_same_name_change_every_task(tmp_path, monkeypatch):
    with torch.random.fork_rng():
        state = TinyNetwork(2).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    begun = ("training = { ", f'training = {{ weights = "{tmp_path / "weights.safetensors"}", normalise = "imagenet", ')
    before = keys(begun, folder=tmp_path)
    assert not before & keys(folder=tmp_path)
    save_file({**state, "fc.bias": state["fc.bias"] + 1}, tmp_path / "weights.safetensors")
    assert not before & keys(begun, folder=tmp_path)
    (tmp_path / "mine.py").write_text("from medaegis.experiments.tiny import network\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ('"medaegis.experiments.tiny:network"', '"mine:network"')
    first = keys(own, folder=tmp_path)
    (tmp_path / "mine.py").write_text("from medaegis.experiments.tiny import network  # v2\n", encoding="utf-8")
    assert not first & keys(own, folder=tmp_path)


def test_a_backbone_may_be_trained_by_settings_of_its_own(tmp_path):
    """Others keep the experiment's; a surrogate of the same backbone is trained as the victim, one by name is not."""
    tiny = "medaegis.experiments.tiny:network"
    short = f'Short = {{ backbone = "{tiny}", training = {{ epochs = 1 }} }}'
    far = f'Same = {{ attack = "bim", surrogate = "same" }}, Named = {{ attack = "bim", surrogate = "{tiny}" }}'
    changes = (
        (f'backbone = {{ Net = "{tiny}" }}', f'backbone = {{ Net = "{tiny}", {short} }}'),
        ('attack = { BIM = "bim", WB = "wb" }', f"attack = {{ {far} }}"),
        ('exclude = [{ attack = "WB", defence = ["KD", "SVM"] }]\n', ""),
    )
    found = set()
    for cell in cells(written(tmp_path, *changes)):
        for attacked in (task for task in everything([cell]) if task.kind == "attacked"):
            epochs = tuple(attacked.needs[name].told["epochs"] for name in ("classifier", "surrogate"))
            found.add((cell.place["backbone"], cell.place["attack"], *epochs))
    assert found == {("Net", "Same", 4, 4), ("Net", "Named", 4, 4), ("Short", "Same", 1, 1), ("Short", "Named", 1, 4)}


def test_robust_classifiers_share_a_plain_helper_and_are_attacked_from_plain_networks(tmp_path):
    """HAT is helped by the classifier of the row without robust training; another network is a plain one."""
    methods = (
        'method = { NAT = "none", HAT = { robust = "hat", eps = "4/255" }, AT = { robust = "pgd-at", eps = "4/255" } }'
    )
    changes = (
        ('measures = "detection"', 'measures = "classification"'),
        ("cushion = {", f"{methods}\ncushion = {{"),
        ('WB = "wb"', 'Far = { attack = "pgd", surrogate = "same" }'),
        ('exclude = [{ attack = "WB", defence = ["KD", "SVM"] }]\n', ""),
    )
    planned = {
        tuple(cell.place[axis] for axis in ("method", "attack")): cell.task
        for cell in cells(written(tmp_path, *changes))
    }
    of = {name: planned[name, "BIM"].needs["classifier"] for name in ("NAT", "HAT", "AT")}
    assert len({task.key for task in of.values()}) == 3
    assert of["HAT"].needs["helper"].key == of["NAT"].key
    assert not of["AT"].needs
    assert "robust" not in of["NAT"].told
    surrogates = {name: planned[name, "Far"].needs["attacked"].needs["surrogate"] for name in of}
    assert len({task.key for task in surrogates.values()}) == 1
    assert all("robust" not in task.told for task in surrogates.values())


def test_images_of_another_task_are_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        cells(written(tmp_path, ("phantom-xray?n=160", "phantom-findings?n=40")))
    assert "several findings in an image; what measures 'detection' is for one class for each image" in str(
        caught.value
    )


def test_fine_tuning_starts_from_the_text_network_of_its_row_without_it(tmp_path):
    planned = planned_of(read_experiment(presets()["survey-table12"], "smoke"))
    of = {cell.place["method"]: cell.task.needs["classifier"] for cell in planned}
    assert of["none"].told["text"]
    assert not of["none"].needs
    for name, helped in (("TeCoA", False), ("PMG-FT", True), ("FARE", True)):
        roles = {"start", "helper"} if helped else {"start"}
        assert {role: task.key for role, task in of[name].needs.items()} == dict.fromkeys(roles, of["none"].key)
        assert of[name].told["epochs"] == 1
    attacked = next(cell for cell in planned if cell.place["attack"] == "PGD-20")
    assert [task.told.get("finding") for task in attacked.task.needs.values()] == [None, 0, 1, 2, 3]


def test_a_step_in_pixels_is_one_at_every_eps(tmp_path):
    file = written(tmp_path, ('"bim"', '{ attack = "bim", step = "1/255" }'), ('["16/256"]', '["2/255", "8/255"]'))
    attacked = [task for cell in cells(file) for task in everything([cell]) if task.kind == "attacked"]
    steps = {task.told["eps_text"]: task.told["step_size"] for task in attacked if task.told["attack"] == "bim"}
    assert steps == {"2/255": pytest.approx(1 / 2), "8/255": pytest.approx(1 / 8)}


def test_only_some_cells_are_chosen_by_the_names_of_their_axes(tmp_path):
    made = cells_of(read_experiment(written(tmp_path), "smoke"))
    first = made[0].place
    axis = next(axis for axis in first if len({cell.place[axis] for cell in made}) > 1)
    names = sorted({cell.place[axis] for cell in made})
    assert chosen(made, []) == made
    assert chosen(made, [(axis, names[0])]) == [cell for cell in made if cell.place[axis] == names[0]]
    assert chosen(made, [(axis, name) for name in names]) == made
    both = chosen(made, [(axis, names[0]), ("seed", first["seed"])])
    assert both == [cell for cell in made if (cell.place[axis], cell.place["seed"]) == (names[0], first["seed"])]
    with pytest.raises(ConfigError, match=f"{axis}=nothing: no cell has that name; choose from .*{names[0]}"):
        chosen(made, [(axis, "nothing")])
    with pytest.raises(ConfigError, match=rf"color=red: no axis of this experiment; choose from .*{axis}"):
        chosen(made, [("color", "red")])
