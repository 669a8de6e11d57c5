"""Every script of a table or figure runs at its smoke preset and leaves its record and figure, and nothing else."""

import json
import subprocess
from pathlib import Path

import pytest

from mi_jax import defenses, models
from mi_jax.study.config import HELP
from tests.programs import run_program

REPOSITORY = Path(__file__).resolve().parents[2]
# script -> what lies in --out afterwards
LEFT = {
    "fig1_training_size": ["fig1.png", "record.json"],
    "fig2_query_budget": ["fig2.png", "record.json"],
    "fig3_augmented_training": ["fig3.png", "record.json"],
    "fig4_resnet": ["fig4.png", "record.json"],
    "fig5_6_defenses": ["digits/fig5.png", "digits/fig6.png", "digits/record.json"],
    "figS7_shadow_models": ["figS7.png", "record.json"],
    "figS9_adversarial_regularisation": ["figS9.png", "record.json"],
    "figS10_transfer": ["figS10.png", "record.json"],
    "figS11_outliers": ["figS11.png", "record.json"],
    "dp_audit": ["dp_audit.png", "record.json"],
    "table1_images": ["digits/accuracies.png", "digits/record.json"],
    "table2_tabular": ["synthetic-purchase-600/accuracies.png", "synthetic-purchase-600/record.json"],
}


def script(name: str, *arguments: str) -> subprocess.CompletedProcess:
    folder = "paper." if name.startswith(("fig", "table")) else ""
    return run_program(f"experiments.{folder}{name}", *arguments, XLA_FLAGS="")  # compiled as for users


def entries_of(record: dict) -> dict[str, dict]:
    """Every attack in a record, whichever script wrote it."""
    if "attacks" in record:
        return record["attacks"]
    if "regimes" in record or "ways" in record:
        groups = {f"{a} {b}": part for a, parts in record.get("regimes", record.get("ways")).items()
                  for b, part in parts.items()}  # fmt: skip
    else:
        held = ("shadow_models", "sizes", "distances", "defenses", "strengths")
        groups = next(record[name] for name in held if name in record)
    return {f"{group} {name}": e for group, part in groups.items() for name, e in part["attacks"].items()}


def check_outliers(record: dict) -> None:
    for entry in record["defenses"].values():
        assert entry["environment"]["run_digest"] and 0 < entry["models"]["test_accuracy"]["mean"] <= 1
        for trial, improvement in zip(entry["trials"], entry["improvement"]["values"], strict=True):
            outliers, everybody = (trial[side]["precision"] for side in ("outliers", "everybody"))
            assert improvement == outliers["mean"] - everybody["mean"]
            assert all(side["low"] <= side["mean"] <= side["high"] for side in (outliers, everybody))
            assert len(trial["delta"]) == 2  # of the target and its shadow model


def check_bounds(record: dict) -> None:
    assert record["levels"][0]["epsilon"] == "inf" and record["levels"][0]["noise"] == 0
    for level in record["levels"]:
        assert level["steps_without_the_missing_row"][0] == 0  # the models with the canary dropped nothing
        for bound in level["attacks"].values():
            assert bound["members"] + bound["nonmembers"] == record["models"] // 2 and bound["epsilon"] >= 0


OF_THEIR_OWN = {"figS11_outliers": check_outliers, "dp_audit": check_bounds}


@pytest.mark.slow  # half a minute to two minutes each; figures 5 and 6 are run below
@pytest.mark.parametrize("name", LEFT)
def test_the_smoke_preset_leaves_record_and_figure(name, tmp_path):
    done = script(name, "--preset=smoke", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == LEFT[name]
    (path,) = tmp_path.rglob("record.json")
    if name in OF_THEIR_OWN:
        OF_THEIR_OWN[name](json.loads(path.read_text()))
        return
    entries = entries_of(json.loads(path.read_text()))
    assert {"gap", "boundary", "noise"} & {name.split()[-1] for name in entries}
    for entry in entries.values():
        accuracy = entry["balanced_accuracy"]
        assert 0 <= accuracy["mean"] <= 1 and len(accuracy["values"]) == (1 if name == "table2_tabular" else 2)
        assert "chosen" in entry or entry["queries_per_example"] >= 1
    if name.startswith("fig3"):
        for part in json.loads(path.read_text())["distances"].values():
            line, grid = part["attacks"]["translation"], part["grid"]
            chosen = [settings["perturbation"].split()[1] for settings in line["tuned"]["settings"]]
            values = [grid[d]["balanced_accuracy"]["values"][t] for t, d in enumerate(chosen)]
            assert line["balanced_accuracy"]["values"] == values and list(grid) == ["0", "2"]
    if name.startswith("table"):
        record = json.loads(path.read_text())["memguard"]
        assert all(record["label_only_identical_to_the_bit"].values()) and record["label_only_identical_to_the_bit"]
        assert record["attacks"]["confidence, not adaptive"]["balanced_accuracy"]["mean"] == 0.5


@pytest.mark.slow
def test_a_grid_of_defenses_grows_by_those_its_record_lacks_and_by_no_other_run(tmp_path):
    def run(*flags):
        return script("fig5_6_defenses", "--preset=smoke", f"--out={tmp_path}", *flags)

    file, whole = tmp_path / "digits" / "record.json", tmp_path / "digits"
    assert run("--defenses=l2:1").returncode == 0
    first = json.loads(file.read_text())
    done = run("--defenses=l2:1,dropout:0.5")
    measured = [text.partition(": ")[0] for text in done.stdout.splitlines() if "; non-adaptive attacker: " in text]
    assert done.returncode == 0 and measured == ["dropout:0.5"]
    grown = json.loads(file.read_text())
    assert grown["config"]["defense"] == list(grown["defenses"]) == ["none", "l2:1", "dropout:0.5"]
    assert {name: grown["defenses"][name] for name in first["defenses"]} == first["defenses"]
    assert sorted(path.name for path in whole.iterdir()) == ["fig5.png", "fig6.png", "record.json"]
    refused = run("--defenses=l2:1", "--seed=1")
    assert refused.returncode == 2 and "error: " in refused.stderr and "seed=0, expected 1" in refused.stderr
    assert json.loads(file.read_text()) == grown


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--defenses=none,l2:1,dropput:0.5", "unknown defense 'dropput'"),
        ("--defenses=l2:1,transfer_last", "expected parameters that can be read"),
        ("--defenses=", "--defenses=[]: expected at least one"),
        ("--only=", "--only=[]: expected at least one"),
    ],
)
def test_a_grid_with_a_defense_that_cannot_be_trains_none_of_them(wrong, message, tmp_path):
    done = script("fig5_6_defenses", "--preset=smoke", wrong, f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("name", ["table1_images", "fig5_6_defenses", "dp_audit"])  # the same line of code in all
def test_an_unknown_preset_is_one_line(name, tmp_path):
    done = script(name, "--preset=tiny", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == [
        "error: unknown preset 'tiny': known are smoke, cpu, paper"
    ]


def test_a_pretrained_network_is_kept_with_its_accuracies_and_transfer_begins_from_it(tmp_path):
    done = script("pretrain", "--dataset=synthetic:purchase:600", "--model=mlp:16", "--epochs=2",
                  f"--out={tmp_path / 'net.npz'}")  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "net.json").read_text())
    assert record["rows"] == 500 and record["defense"] == "dropout:0.5"
    assert 0 <= record["accuracy"]["test"] <= 1
    task = defenses.DefenseContext(
        20, models.build("mlp:16", (600,), 5), (600,), 5, checkpoint=str(tmp_path / "net.npz")
    )
    assert defenses.build("transfer_last", task).strength["Dense_0"]["kernel"].shape == (600, 16)


@pytest.mark.parametrize("wrong, named", [("--out=net.txt", "ends in .npz"), ("--epochs=0", "epochs=0: expected"),
                                          ("--defense=l2:x", "a number after the colon"),
                                          ("--defense=ldl", "ldl: expected one of training alone")])  # fmt: skip
def test_a_pretraining_that_cannot_be_is_one_line(wrong, named):
    done = script("pretrain", "--dataset=digits", "--model=mlp:16", wrong)
    assert done.returncode == 2 and named in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


@pytest.mark.parametrize("wrong", ["--defense=l2:1", "--distances=1,6", "--distances=2.0"])
def test_figure_3_trains_with_its_own_defense_at_the_distances_of_the_paper(wrong):
    done = script("fig3_augmented_training", "--preset=smoke", wrong)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {wrong[2:9]}") and "expected" in done.stderr


def test_a_table_puts_memguard_on_top_of_a_defense_or_refuses_it_before_training(tmp_path):
    done = script("table2_tabular", "--preset=smoke", "--defense=ldl:0.1", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "ldl:0.1+memguard:0.001: both set the field 'output'" in done.stderr.splitlines()[-1]
    assert "training" not in done.stderr


def test_a_split_whose_targets_are_shadow_models_is_refused_before_training(tmp_path):
    wrong = ("--split=balanced", "--num_shadows=7", f"--out={tmp_path / 'out'}")
    done = script("figS9_adversarial_regularisation", "--preset=smoke", *wrong)
    assert done.returncode == 2 and "training" not in done.stderr
    assert "split=balanced: a target is another trial's shadow model" in done.stderr.splitlines()[-1]


def test_a_row_the_preset_does_not_have_is_one_line():
    done = script("table2_tabular", "--preset=cpu", "--only=mnist")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: only=mnist: preset cpu has the data sets location30, adult"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("table1_images", "--dataset=cifar10"),
        ("fig5_6_defenses", "--dataset=mnist"),
        ("fig1_training_size", "--n_train=50"),
        ("fig1_training_size", "--attacks=gap,noise"),
        ("figS10_transfer", "--n_train=50"),
        ("fig2_query_budget", "--cap=50"),
        ("figS11_outliers", "--cap=50"),
    ],
)
def test_a_flag_that_a_script_sets_itself_is_refused(name, wrong):
    done = script(name, "--preset=smoke", wrong)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {wrong[2:]}: expected nothing")


def test_help_lists_the_flags_of_every_run():
    done = script("audit", "--help")
    assert all(f"--{name}" in done.stdout or f"--[no]{name}" in done.stdout for name in HELP)
