"""What a file may say: errors that name the key and what is allowed, scales, and the presets at all of them."""

import csv
import re
from pathlib import Path

import pytest
from tests.experiments.small import written

from medaegis.errors import ConfigError
from medaegis.experiments.cells import cells_of
from medaegis.experiments.paper import find_file, paper_of, presets, read_paper
from medaegis.experiments.schema import SCALES, read_experiment

WRONG = {
    "an unknown key": ('table = "0"', 'tabel = "0"', "'tabel'.*allowed are title, paper, table"),
    "a kind of measurement": (
        '"detection"',
        '"detecting"',
        "'measures'.*'detection', 'classification', 'findings', 'segmentation', 'features',.*or 'training time'",
    ),
    "a detector": ('"kd"', '"kdd"', "'defence.KD'.*'kdd' is none; choose from shield, aegis, kd"),
    "a detector's option": ('"kd"', '{ detector = "kd", options = { width = 1 } }', "defence.KD.*options of kd.*width"),
    "an attack": ('"bim"', '"bin"', "'attack.BIM'.*'bin'.*did you mean 'bim'"),
    "an attack's option": ('"bim"', '{ attack = "bim", stop = 3 }', "'attack.BIM.stop'"),
    "a Cushion": ('"jpeg:80"', '"jpg:80"', "'cushion'.*jpg"),
    "a random Cushion": ('"jpeg:80"', '"random:jpeg:60|jpeg:80"', "'cushion'"),
    "an eps": ('["16/256"]', '["16:256"]', "'eps'.*16:256"),
    "an axis to exclude by": ('{ attack = "WB"', '{ atack = "WB"', "'atack' is no axis; those are dataset, backbone"),
    "a name to exclude": ('"KD", "SVM"]', '"KD", "LID"]', "defence has no 'LID'; it has KD, SVM, Medical Aegis"),
    "a setting of the training": ("epochs = 4", "epoch = 4", "'training'.*'epoch' is unknown; allowed are .*epochs"),
    "a range of the training": ("epochs = 4", "epochs = 0", "'training'.*epochs.*greater than or equal to 1"),
    "a setting of the Shield": (
        "inner_steps = 2",
        "steps = 2",
        "'shield'.*'steps' is unknown; allowed are .*inner_steps",
    ),
    "a recipe": ('recipe = "paper"', 'recipe = "papers"', "'shield'.*choose from paper, strong"),
    "robust training": ("cushion = {", 'method = { A = "pgd" }\ncushion = {', "'method.A'.*did you mean pgd-at"),
    "a setting of robust training": (
        "cushion = {",
        'method = { A = { robust = "pgd-at", beta = 2.0 } }\ncushion = {',
        "'method.A'.*pgd-at has no use for one",
    ),
    "a weight for a data set that is not there": (
        "cushion = {",
        'method = { A = { robust = "trades", beta = { Nowhere = 2.0 } } }\ncushion = {',
        "by data set: there is no 'Nowhere'; there is ",
    ),
    "two lengths of a step": (
        '"bim"',
        '{ attack = "bim", step = "1/255", step_size = 0.1 }',
        "step and step_size both say",
    ),
    "a scale": ("[scale.smoke]", "[scale.smoky]", "'scale'.*smoky.*smoke, cpu, full"),
    "no TOML": ("table = ", "table ", "no TOML"),
    "no eps at all": ('eps = ["16/256"]', "", "attack 'BIM' has no eps"),
    "a clean attack on detectors": (
        'BIM = "bim"',
        'BIM = "none"',
        "'none' is for what measures classification, findings",
    ),
    "an L2 walk without a step": ('"bim"', '{ attack = "auto", step_size = 0.1 }', "step_size"),
    "components of no mixture": ('"bim"', '{ attack = "bim", components = 2 }', "with the add-on hfc, as bim.hfc"),
    "no components": ('"bim"', '{ attack = "bim+hfc", components = 0 }', "components.*greater than or equal to 1"),
    "nothing to compare shifts with": ('"detection"', '"shift"', "shift needs the axis 'reference'"),
    "a wanted class of masks": ('"detection"', '"segmentation"', "no other class is wanted.*goal = 'untargeted'"),
    "each finding of one class": (
        '"bim"',
        '{ attack = "bim", each_finding = true }',
        "each_finding is for what measures 'findings'",
    ),
    "settings of plain training": (
        "cushion = {",
        'method = { A = { robust = "none", training = { epochs = 2 } } }\ncushion = {',
        "'method.A'.*plain training takes the experiment's own",
    ),
    "a setting of a method's training": (
        "cushion = {",
        'method = { A = { robust = "tecoa", training = { epoch = 2 } } }\ncushion = {',
        "'method.A.training'.*'epoch' is unknown; allowed are augmentation",
    ),
    "a setting of a backbone's training": (
        '"medaegis.experiments.tiny:network"',
        '{ backbone = "medaegis.experiments.tiny:network", training = { seed = 1 } }',
        "'backbone.Net.training'.*'seed' is unknown; allowed are augmentation",
    ),
    "to learn from the worst": (
        "cushion = {",
        'learned_from = ["worst"]\ncushion = {',
        "learned_from: detectors learn",
    ),
    "no effort": ("cushion = {", "checks = { far = 0 }\ncushion = {", "checks.*far: must be above 0"),
    "unknown effort": ("cushion = {", "checks = { near = 1 }\ncushion = {", "checks.near"),
    "no surrogate": (
        '"bim"',
        '{ attack = "wb", surrogate = "resnet18" }',
        "BIM'.*cannot be made on a surrogate",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_error_names_the_key_and_what_is_allowed(name, tmp_path):
    old, new, told = WRONG[name]
    with pytest.raises(ConfigError) as caught:
        read_experiment(written(tmp_path, (old, new)), "smoke")
    assert re.search(told, str(caught.value)), caught.value
    assert "small.toml" in str(caught.value)


def test_the_worst_case_is_of_answers_and_scores_alone(tmp_path):
    changes = (
        ('"detection"', '"attack time"'),
        ('WB = "wb"', 'Worst = "worst"'),
        ('attack = "WB"', 'attack = "Worst"'),
    )
    with pytest.raises(ConfigError, match="'worst' is for what measures detection, classification"):
        read_experiment(written(tmp_path, *changes), "smoke")
    no_eps = (('WB = "wb"', 'Worst = "worst"'), ('attack = "WB"', 'attack = "Worst"'), ('eps = ["16/256"]\n', ""))
    with pytest.raises(ConfigError, match="no eps"):
        read_experiment(written(tmp_path, *no_eps), "smoke")


def test_no_detector_stands_for_those_that_learned_from_each_attack(tmp_path):
    """A worst case is of one defence: KD learns from no attack, SVM from the one that it is judged on."""
    changes = (('WB = "wb"', 'Worst = "worst"'), ('exclude = [{ attack = "WB", defence = ["KD", "SVM"] }]\n', ""))
    file = written(tmp_path, *changes)
    worst = {
        cell.place["defence"] for cell in cells_of(read_experiment(file, "smoke")) if cell.place["attack"] == "Worst"
    }
    assert worst == {"KD", "Medical Aegis"}
    (settings, *_) = [
        cell.settings for cell in cells_of(read_experiment(file, "smoke")) if cell.place["attack"] == "Worst"
    ]
    assert set(settings["attack"]) == {"BIM", "Worst"}, "another attack would be another worst case"
    learned = written(tmp_path, *changes, ("cushion = {", 'learned_from = ["fgsm"]\ncushion = {'))
    worst = {
        cell.place["defence"] for cell in cells_of(read_experiment(learned, "smoke")) if cell.place["attack"] == "Worst"
    }
    assert worst == {"KD", "SVM", "Medical Aegis"}


def test_a_scale_changes_tables_name_by_name_and_replaces_all_else(tmp_path):
    more = 'defence = { KD = "lid" }\nexclude = []\nsteps = 3'
    experiment = read_experiment(written(tmp_path, ("steps = 3", more)), "smoke")
    detectors = {name: one.detector for name, one in experiment.defence.items()}
    assert detectors == {"KD": "lid", "SVM": "svm", "Medical Aegis": "aegis"}
    assert experiment.exclude == ()
    whole = read_experiment(written(tmp_path), "full")
    assert (whole.size, whole.steps, whole.fractions) == (224, None, (0.65, 0.12, 0.08, 0.15))
    with pytest.raises(ConfigError, match="smoke, cpu, full"):
        read_experiment(written(tmp_path), "huge")


def test_cells_are_the_product_without_what_is_excluded_or_makes_no_sense(tmp_path):
    places = [cell.place for cell in cells_of(read_experiment(written(tmp_path), "smoke"))]
    told = {(place["defence"], place["cushion"], place["attack"]) for place in places}
    detectors = {(name, cushion, "BIM") for name in ("KD", "SVM") for cushion in ("none", "jpeg-80")}
    assert told == detectors | {("Medical Aegis", "jpeg-80", attack) for attack in ("BIM", "WB")}
    assert len(places) == len(told)
    nothing = read_experiment(written(tmp_path, ("exclude = [", 'exclude = [{ dataset = "Chest" }, ')), "smoke")
    with pytest.raises(ConfigError, match="every cell is excluded"):
        cells_of(nothing)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", presets())
def test_a_preset_can_be_read_at_every_scale(name, scale):
    experiment = read_experiment(presets()[name], scale)
    assert cells_of(experiment)
    word, number = experiment.table.split()
    called = {"Table": f"table{number}", "Fig.": f"figure{number}", "Section": "mixtures"}[word]
    assert name == f"{presets()[name].parent.name}-{called}"
    cpu = 64 if name.startswith("survey") else 112  # robust training takes ten times as long
    sizes = {"smoke": 32, "cpu": 48 if experiment.measures == "findings" else cpu, "full": 224}
    if experiment.measures == "segmentation":
        sizes["full"] = 256
    if name == "survey-table4":
        sizes["cpu"] = 256  # plain training alone; of fewer pixels an attacker can change too few
    assert experiment.size == sizes[scale]
    drawn = experiment.measures == "findings" or (experiment.measures == "segmentation" and scale != "full")
    assert experiment.channels == ("gray" if drawn else "rgb")  # X-rays


def test_every_figure_of_the_papers_has_a_cell_at_full_scale():
    tables = {name: file for name, file in presets().items() if "table" in name}
    assert len(tables) == 26
    del tables["survey-table9"]  # the paper's is lost
    for name, file in tables.items():
        experiment = read_experiment(file, "full")
        paper, lines = paper_of(file, experiment), list(csv.DictReader(file.with_suffix(".csv").open(encoding="utf-8")))
        met = {
            id(found)
            for cell in cells_of(experiment)
            for metric in {line["metric"] for line in lines}
            if (found := paper.of(cell.place, metric)) is not None
        }
        foreign = sum(line["dataset"] in ("CIFAR-10", "CheXpert", "PadChest") for line in lines)  # not read here
        assert len(met) == len(lines) - foreign, name
        assert {note.partition(":")[0] for line in lines if (note := line["note"])} <= {
            "doubtful",
            "conflict",
            "inferred",
        }


def test_the_traps_of_the_papers():
    def at(name, **axes):
        experiment = read_experiment(presets()[name], "full")
        return experiment, paper_of(presets()[name], experiment)

    assert (at("hfc-table1")[0].eps, at("aegis-table1")[0].eps) == ({"8/256": "8/256"}, {"4/256": "4/256"})
    for name, eps in (("hfc-table2", "1/256"), ("hfc-table3", "1/256"), ("hfc-table4", "4/256")):
        experiment = at(name)[0]
        walked = experiment.steps * experiment.step_size  # in units of eps: twice as far as the radius
        assert (list(experiment.eps), walked) == ([eps], pytest.approx(2))
    table3, paper = at("aegis-table3")
    assert table3.attack["PGD-L2"].eps == "8/256"
    place = {"dataset": "Fundoscopy", "backbone": "VGG-16", "defence": "Medical Aegis", "attack": "CW"}
    assert paper.of(place, "auc").value == 93.6
    assert {at(name)[0].goal for name in presets() if name.startswith(("ma", "survey"))} == {"untargeted"}
    assert {at(name)[0].goal for name in presets() if name.startswith(("aegis", "hfc"))} == {"targeted"}
    ma = at("ma-table2")[0].attack
    assert [(ma[name].steps, ma[name].step_size) for name in ("BIM", "PGD", "CW")] == [
        (40, 1 / 40),
        (20, 0.1),
        (20, 0.1),
    ]
    survey = at("survey-table8")[0]
    assert {survey.attack[name].step for name in ("PGD", "CW", "SMA")} == {"1/255"}
    assert {name: one.robust for name, one in survey.method.items()}["HAT"] == "hat"
    betas = {
        name: [survey.method[name].told_for(data)["beta"] for data in survey.dataset] for name in ("TRADES", "HAT")
    }
    assert list(survey.dataset)[:2] == ["Messidor, 2 classes", "Messidor, 4 classes"]
    assert betas == {"TRADES": [12, None, None, None], "HAT": [12, 3, None, None]}  # None: the recipe's own, 6
    doubtful = paper_of(presets()["hfc-table3"], at("hfc-table3")[0])
    assert "doubtful" in doubtful.of({"dataset": "Chest X-Ray", "attack": "Random", "defence": "KD"}, "auc").note


def test_a_file_or_a_preset_is_found_and_anything_else_lists_the_presets(tmp_path):
    assert find_file("aegis-table3") == ("aegis-table3", presets()["aegis-table3"])
    assert find_file(str(written(tmp_path))) == ("small", tmp_path / "small.toml")
    with pytest.raises(ConfigError, match="aegis-table1, aegis-table2"):
        find_file("aegis-table9")


def test_the_experiment_of_the_documentation_can_be_read(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    for scale in SCALES:
        experiment = read_experiment(tmp_path / "mine.toml", scale)
        assert experiment.limit == (20 if scale == "smoke" else None)
        # Two detectors behind none and JPEG, the guard behind JPEG alone: PGD and WB at two eps, L2 at its own.
        assert len(cells_of(experiment)) == 2 * 2 * (2 + 1) + (2 + 1 + 2)


def test_a_table_of_figures_that_is_none_is_told(tmp_path):
    file = tmp_path / "figures.csv"
    for text, told in (
        ("attack,value\nBIM,1\n", "note"),
        ("atack,metric,value,note\nBIM,auc,1,\n", "'atack' is no axis"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=told):
            read_paper(file)
