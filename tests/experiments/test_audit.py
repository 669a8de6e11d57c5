"""The command line: a run from flags to files, the same bits twice, redrawing, and one line for whatever is wrong."""

import dataclasses
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.paper import fig5_6_defenses
from mi_jax import attacks, audit, cli, data, store, study, training
from mi_jax.evaluation import metrics, report
from mi_jax.study.config import (
    BALANCED_ATTACKS,
    HELP,
    IMAGE_ATTACKS,
    PRESETS,
    TABLE_ATTACKS,
    Config,
    Resolved,
    check_plan,
    default_split,
    resolve,
)
from tests.programs import run_program

REPOSITORY = Path(__file__).resolve().parents[2]
SIX = list(IMAGE_ATTACKS)
SMOKE = Config(preset="smoke")  # disjoint shadow models, the paper's protocol; the command's default is balanced
FLAGS = ("--preset=smoke", "--split=disjoint")
T, S, N = 2, 1, 40  # targets, shadow models of each and rows of each model in the smoke preset
OPTIONAL = dict.fromkeys(("data_dir", "checkpoint", "delta", "private_rate", "cap", "group"))  # what may stay unsaid
LABEL_ONLY = ("gap", "rotation", "translation", "noise")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The smoke preset by the command: (its folder, what it printed, (record, scores) that it wrote)."""
    folder = tmp_path_factory.mktemp("smoke") / "made" / "by the run"
    done = run_program("experiments.audit", *FLAGS, f"--out={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, report.read(folder)


@pytest.fixture(scope="module", autouse=True)
def _flags():
    """The program's flags in this process; audit.py defines them only where it is the program."""
    cli.define_flags()
    cli.define_out("")
    flags.DEFINE_string("from", None, "")
    flags.FLAGS.mark_as_parsed()
    yield
    flags.FLAGS.remove_flag_values([*HELP, "out", "overwrite", "from"])


@pytest.fixture
def run(capsys):
    """The program in this process: arguments -> (exit code, standard output, standard error)."""

    def program(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with flagsaver.flagsaver():
            code = cli.main(cli.audit_from_flags)(flags.FLAGS(["audit", *arguments]))
        return code, *capsys.readouterr()

    return program


def refusal(action, *arguments) -> str:
    """Returns the message of the ValueError that the action must raise, which must be one line."""
    with pytest.raises(ValueError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def scores_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "scores.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def in_json(entry):
    """A part of a record as a file gives it back."""
    return json.loads(json.dumps(report.jsonable(entry)))


def table_in(printed: str) -> list[str]:
    lines = printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("attack "))
    return lines[start : lines.index("", start)]


def test_the_smoke_preset_prints_a_table_of_all_six_attacks(runs):
    _, printed, _ = runs
    header, rule, *rows = table_in(printed)
    assert [row.split()[0] for row in rows] == SIX
    assert {row.split()[1] for row in rows} == {"label", "confidence"} and set(rule) == {"-"}


def test_the_smoke_preset_writes_the_five_files_and_nothing_else(runs):
    folder, *_ = runs
    assert sorted(path.name for path in folder.iterdir()) == sorted(report.FILES)
    assert all((folder / name).stat().st_size > 1000 for name in report.FILES)


def is_summary(m, targets: int = T) -> bool:
    """Is this an M of report.json, for rates of this many targets?"""
    assert list(m) == ["mean", "low", "high", "values"]
    assert len(m["values"]) == targets and all(type(v) is float and 0 <= v <= 1 for v in m["values"])
    assert math.isclose(m["mean"], np.mean(m["values"]), abs_tol=1e-12)
    if targets == 1:
        return m["low"] is None and m["high"] is None
    return 0 <= m["low"] <= m["mean"] <= m["high"] <= 1


def test_report_json_has_the_documented_keys_and_types(runs):
    folder, *_ = runs
    record = json.loads((folder / "report.json").read_text())
    keys = {"config", "data", "environment", "split", "split_digest", "models", "attacks", "queries", "seconds"}
    assert record.keys() == keys
    assert record["config"].keys() == {field for field in Config.__dataclass_fields__}
    assert {k: v for k, v in record["config"].items() if v is None} == OPTIONAL  # all else is resolved
    assert record["config"]["attacks"] == list(record["attacks"]) == SIX
    sizes = ("n_train", "num_targets", "num_shadows", "num_points", "budget", "seed")
    assert [record["config"][name] for name in sizes] == [N, T, S, N, 20, 0]
    assert record["environment"].keys() >= {"mi_jax", "python", "jax", "device", "commit", "date", "command"}
    assert record["environment"]["command"] == shlex.join(
        ["python", "-m", "experiments.audit", *FLAGS, f"--out={folder}"]
    )
    assert record["data"] == data.describe(data.load("digits"))
    assert len(record["split_digest"]) == 16 and int(record["split_digest"], 16) >= 0
    assert record["models"].keys() == {"train_accuracy", "test_accuracy", "flip_rate", "epochs"}
    assert all(is_summary(record["models"][name]) for name in ("train_accuracy", "test_accuracy", "flip_rate"))
    assert [type(epochs) for epochs in record["models"]["epochs"]] == [int] * T * (1 + S)
    assert record["seconds"].keys() >= {"total", "training", *SIX}
    assert all(type(seconds) is float and seconds >= 0 for seconds in record["seconds"].values())


@pytest.mark.parametrize("name", SIX)
def test_the_entry_of_every_attack_has_the_documented_keys_and_types(runs, name):
    folder, *_ = runs
    entry = json.loads((folder / "report.json").read_text())["attacks"][name]
    rates, others = {"balanced_accuracy", "auc"}, {"access", "points", "queries_per_example", "finished", "tuned"}
    others |= {"phases", "over_points", "gain_over_gap", "pooled"}
    assert entry.keys() == rates | others | {"tpr_at_fpr", "achieved_fpr"}
    assert entry["points"] == 40
    assert entry["finished"] == 1.0 and type(entry["finished"]) is float
    assert entry["access"] == ("label" if name in LABEL_ONLY else "confidence")
    assert type(entry["queries_per_example"]) is float and entry["queries_per_example"] >= 1
    assert is_summary(entry["balanced_accuracy"]) and is_summary(entry["auc"])
    for key in ("tpr_at_fpr", "achieved_fpr"):
        assert list(entry[key]) == ["0.1", "0.01", "0.001"]
        # Forty non-members resolve one in ten, and neither one in a hundred nor one in a thousand.
        assert is_summary(entry[key]["0.1"]) and entry[key]["0.01"] is None and entry[key]["0.001"] is None
    assert max(entry["achieved_fpr"]["0.1"]["values"]) <= 0.1
    assert [type(settings) for settings in entry["tuned"]["settings"]] == [dict] * T
    assert all(type(value) is float or value == "inf" for value in entry["tuned"]["threshold"])
    assert len(entry["tuned"]["threshold"]) == T


def test_scores_npz_has_the_documented_arrays_and_shapes(runs):
    folder, *_ = runs
    scores = scores_of(folder)
    expected = {name: (T, 2 * N) for name in ("rows", "labels", "is_member")}
    expected |= {f"attack/{name}/{what}": (T, 2 * N) for name in SIX for what in ("scores", "queries")}
    expected |= {f"shadow/{name}": (T, S * 2 * N) for name in ("rows", "labels", "is_member")}
    expected |= {f"shadow/attack/{name}/scores": (T, S * 2 * N) for name in SIX}
    assert {name: array.shape for name, array in scores.items()} == expected
    assert scores["is_member"].dtype == bool and (scores["is_member"].sum(1) == N).all()
    np.testing.assert_array_equal(scores["labels"], data.load("digits").y[scores["rows"]])
    for t in range(T):
        assert not set(scores["rows"][t]) & set(scores["shadow/rows"][t])
        assert len(set(scores["rows"][t])) == 2 * N
    assert all(np.isfinite(array).all() for name, array in scores.items() if name.endswith("scores"))


def test_the_report_follows_from_the_scores_on_disk(runs):
    folder, *_ = runs
    record, scores = report.read(folder)
    for name, entry in record["attacks"].items():
        own, is_member = scores[f"attack/{name}/scores"], scores["is_member"]
        assert entry["auc"]["values"] == [metrics.auc(s, m) for s, m in zip(own, is_member, strict=True)]
        assert math.isclose(entry["queries_per_example"], scores[f"attack/{name}/queries"].mean(), rel_tol=1e-12)
        thresholds = [float(threshold) for threshold in entry["tuned"]["threshold"]]
        triples = zip(own, is_member, thresholds, strict=True)
        assert entry["balanced_accuracy"]["values"] == [metrics.balanced_accuracy(*triple) for triple in triples]


@pytest.mark.parametrize(
    "names", [pytest.param(tuple(SIX), marks=pytest.mark.slow), ("noise", "confidence_network", "gap")]
)
def test_two_runs_with_the_same_seed_give_the_same_bits(runs, names):
    """One by the command, in a process of its own, the other in this one; whatever other attacks are made."""
    folder, _, (other, written) = runs
    record, scores = study.run(dataclasses.replace(SMOKE, attacks=names))
    assert {name for name in written if set(name.split("/")) & set(names) or "attack" not in name} == scores.keys()
    assert [name for name in scores if not same_bits(written[name], np.asarray(scores[name]))] == []
    for key in ("config", "split_digest", "models"):
        named = {"attacks": list(names)} if key == "config" else {}
        assert in_json(record[key]) == (other[key] | named if named else other[key]), key
    for name in names:
        assert in_json(record["attacks"][name]) == other["attacks"][name], name


def test_another_seed_gives_another_split_and_other_scores(runs):
    _, _, (record, scores) = runs
    other, others = small(seed=1)
    assert other["split_digest"] != record["split_digest"]
    assert not np.array_equal(others["rows"], scores["rows"])


def test_from_redraws_the_run_and_computes_nothing(runs, run, tmp_path, monkeypatch):
    folder, printed, _ = runs
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    before = {name: (copy / name).read_bytes() for name in report.FILES}
    for name in ("roc.png", "scores.png"):
        (copy / name).unlink()
    for module, name in ((data, "load"), (training, "train_ensemble"), (audit, "audit")):
        monkeypatch.setattr(module, name, None)  # a call fails
    code, out, message = run(f"--from={copy}")
    assert (code, message) == (0, "")
    assert out.replace(str(copy), str(folder)) == printed
    assert {name: (copy / name).read_bytes() for name in report.FILES} == before


def test_from_with_out_draws_elsewhere_and_leaves_the_run_alone(runs, run, tmp_path):
    folder, printed, _ = runs
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, out, _ = run(f"--from={folder}", f"--out={tmp_path / 'drawn'}")
    assert code == 0 and table_in(out) == table_in(printed)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    drawn = tmp_path / "drawn"
    assert sorted(path.name for path in drawn.iterdir()) == sorted(report.FILES)  # a run of its own
    for name in report.FILES:
        assert (drawn / name).read_bytes() == (folder / name).read_bytes()
    assert run(f"--from={folder}", f"--out={drawn}")[0] == 0  # the same once more
    (drawn / "report.json").write_text("{}")
    code, out, message = run(f"--from={folder}", f"--out={drawn}")
    assert (code, out) == (2, "") and is_one_error_line(message) and "--overwrite" in message
    assert (drawn / "report.json").read_text() == "{}"
    assert run(f"--from={folder}", f"--out={drawn}", "--overwrite")[0] == 0
    assert (drawn / "report.json").read_bytes() == (folder / "report.json").read_bytes()


def test_a_record_of_audit_alone_has_a_table_too(runs, capsys):
    """`audit.audit` knows neither model nor sizes, and measures the seconds of each attack only."""
    record, _ = report.read(runs[0])
    seconds = {name: seconds for name, seconds in record["seconds"].items() if name in SIX}
    cli.show(record | {"config": {"dataset": "mine", "num_shadows": 1}, "seconds": seconds}, Path("out"))
    printed = capsys.readouterr().out
    assert printed.startswith("\nmine, 2 targets: train accuracy 100.0 %") and "gap " in printed


def test_a_finished_run_is_shown_again_and_another_is_not_put_in_its_place(runs, run, untrained, tmp_path):
    folder, printed, _ = runs
    before = {name: (folder / name).read_bytes() for name in report.FILES}
    code, out, message = run(*FLAGS, f"--out={folder}")
    assert (code, out) == (0, printed) and message == f"{folder} holds this run, finished; --overwrite runs it again\n"
    for other in ("--seed=1", "--attacks=gap", "--budget=21", "--defense=l2:1"):
        code, out, message = run(*FLAGS, f"--out={folder}", other)
        assert (code, out) == (2, "") and is_one_error_line(message)
        assert f"--out={folder}" in message and "--overwrite" in message
    assert {name: (folder / name).read_bytes() for name in report.FILES} == before
    with pytest.raises(TypeError):  # it trains
        run(*FLAGS, f"--out={folder}", "--overwrite")


def test_a_record_is_kept_unless_it_is_that_of_the_same_run_or_may_be_overwritten(tmp_path):
    file = tmp_path / "record.json"

    def kept(*arguments):
        with flagsaver.flagsaver():
            flags.FLAGS(["dp_audit", *arguments])
            return cli.kept(file, lambda record: record["environment"]["run_digest"] == "12")

    assert kept() is None
    file.write_text('{"environment": {"run_digest": "12"}}')
    assert kept() == {"environment": {"run_digest": "12"}} and kept("--overwrite") is None
    for other in ('{"environment": {"run_digest": "13"}}', '{"environment": {}}', "[]", '{"environm', ""):
        file.write_text(other)
        assert f"--out={tmp_path}: it holds another run" in refusal(kept) and kept("--overwrite") is None


@pytest.mark.slow
def test_a_finished_audit_of_epsilon_is_printed_again_and_another_is_refused(tmp_path):
    arguments = ("experiments.dp_audit", "--preset=smoke", f"--out={tmp_path}")
    first, again, other = run_program(*arguments), run_program(*arguments), run_program(*arguments, "--seed=1")
    assert (first.returncode, again.returncode, other.returncode) == (0, 0, 2), first.stderr
    assert again.stdout == first.stdout and "holds this run, finished" in again.stderr
    assert is_one_error_line(other.stderr) and "--overwrite" in other.stderr


@pytest.mark.parametrize("flag", ["--seed=1", "--preset=smoke", "--attacks=gap", "--defense=none", "--clip=1"])
def test_a_flag_beside_from_is_refused(runs, run, flag):
    code, printed, message = run(f"--from={runs[0]}", flag)
    assert (code, printed) == (2, "") and is_one_error_line(message)
    assert f"{flag.partition('=')[0]}: expected only --out beside --from" in message


@pytest.fixture(scope="module")
def balanced(runs, tmp_path_factory):
    """The smoke preset of the command as it comes: (its folder, what it printed)."""
    del runs
    folder = tmp_path_factory.mktemp("balanced") / "out"
    done = run_program("experiments.audit", "--preset=smoke", f"--out={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_command_trains_one_balanced_ensemble_and_shows_attacks_with_one_threshold_and_by_point(balanced):
    folder, printed = balanced
    record, scores = report.read(folder)
    assert [row.split()[0] for row in table_in(printed)[2:]] == list(BALANCED_ATTACKS)
    assert record["config"]["split"] == "balanced" and record["config"]["num_shadows"] == 7
    assert len(record["models"]["epochs"]) == 8 and record["split"]["shadow_overlap"]["nonmembers"] > 0.4
    for name in BALANCED_ATTACKS:
        assert scores[f"attack/{name}/scores"].shape == scores[f"attack/{name}/queries"].shape == (T, 2 * N)
        assert is_summary(record["attacks"][name]["auc"])
        rates = scores.get(f"attack/{name}/false_positive_rate")
        assert (rates is None) == (name in ("gap", "noise"))
        assert rates is None or (rates.shape == (T, 2 * N) and rates.min() > 0 and rates.max() <= 1)
    for name, queries in (("calibrated_label", 1), ("calibrated_noise:25", 25), ("chosen:5", 5), ("lira", 1)):
        assert (scores[f"attack/{name}/queries"] == queries).all()
    assert set(report.FILES) < {path.name for path in folder.iterdir()}


def test_queries_to_shadow_models_stand_with_the_first_attack_on_a_pool(balanced):
    record, scores = report.read(balanced[0])
    by_attack = record["queries"]["by_attack"]
    for name, queries in by_attack.items():
        assert queries["target"] == scores[f"attack/{name}/queries"].sum()
    shared = [name for name in BALANCED_ATTACKS if name.startswith(("chosen", "calibrated_noise"))]
    assert [by_attack[name]["shadow"] > 0 for name in shared] == [True] + [False] * (len(shared) - 1)
    assert by_attack["calibrated_label"] == {"target": T * 2 * N, "shadow": 8 * 2 * N}


@pytest.mark.parametrize("dataset, preset, split", [
    ("digits", "cpu", "balanced"), ("location30", "smoke", "balanced"), ("digits", "paper", "disjoint"),
    ("adult", "cpu", "disjoint"), ("npz:mine.npz", "smoke", "disjoint")])  # fmt: skip
def test_the_split_of_the_command_is_that_of_its_data_set(dataset, preset, split):
    assert default_split(dataset, preset) == split


def small(**changes) -> tuple[dict, dict[str, np.ndarray]]:
    """The smoke preset but for what is changed, with the quick attacks only, unless others are named."""
    quick = ("gap", "confidence_threshold")
    return study.run(Config(**{"preset": "smoke", "attacks": quick} | changes))


@pytest.fixture(scope="module")
def guarded(runs):
    """The smoke preset with MemGuard: models, split and attacks' keys are those of the undefended run."""
    del runs  # its compiled programs serve here
    return small(defense="memguard", attacks=tuple(SIX))


def test_a_defense_that_answers_at_random_needs_no_further_leave():
    record, _ = small(defense="ldl_fresh:0.5", attacks=("gap",))
    assert max(record["models"]["flip_rate"]["values"]) > 0 and record["config"]["allow_random_target"]


@pytest.mark.parametrize("name", LABEL_ONLY)
def test_memguard_leaves_every_label_only_score_identical_to_the_bit(runs, guarded, name):
    *_, (plain, undefended) = runs
    record, scores = guarded
    for key in (f"attack/{name}/scores", f"attack/{name}/queries", f"shadow/attack/{name}/scores"):
        assert same_bits(scores[key], undefended[key]), key
    assert in_json(record["attacks"][name]) == plain["attacks"][name]


def test_memguard_reduces_the_confidence_threshold_to_the_gap_attack_exactly(runs, guarded):
    """Its vector is a function of the label: the true label's entry is high iff the label is right, else low.

    So this attack ranks points as the gap does. Its threshold is the high value wherever the shadow model is more
    often right on its members, which is the case for all of these.
    """
    record, scores = guarded
    right = scores["attack/gap/scores"] == 1
    own = scores["attack/confidence_threshold/scores"]
    assert len(np.unique(own)) == 2
    np.testing.assert_array_equal(own == own.max(), right)
    entry, gap = (record["attacks"][name] for name in ("confidence_threshold", "gap"))
    for key in ("auc", "balanced_accuracy"):
        assert entry[key] == gap[key]
    undefended = runs[2][0]["attacks"]["confidence_threshold"]
    assert undefended["auc"]["mean"] > entry["auc"]["mean"] + 0.1  # 0.84 and 0.61: there was something to defend


def test_memguard_leaves_the_confidence_network_one_score_for_each_class_and_label(guarded):
    """Points of one class that are all labelled correctly show the same vector, and score alike, members or not."""
    _, scores = guarded
    for t in range(T):
        own, y = scores["attack/confidence_network/scores"][t], scores["labels"][t]
        right = scores["attack/gap/scores"][t] == 1
        assert [label for label in np.unique(y) if len(np.unique(own[right & (y == label)])) > 1] == []


def test_images_of_ones_own_run_and_give_what_the_same_rows_give_by_name(runs, run, tmp_path):
    """The digits as a user would store them; sizes as in the smoke preset, whose compiled programs serve here."""
    digits, (_, _, (_, scores)) = data.load("digits"), runs
    np.savez(tmp_path / "own.npz", x=digits.x[..., 0], y=digits.y)
    arguments = ("--preset=smoke", "--model=mlp", "--attacks=noise,gap", f"--out={tmp_path / 'out'}")
    code, printed, _ = run(f"--dataset=npz:{tmp_path / 'own.npz'}", *arguments)
    assert code == 0
    assert [row.split()[0] for row in table_in(printed)[2:]] == ["noise", "gap"]
    own = scores_of(tmp_path / "out")
    for name in ("rows", "labels", "attack/noise/scores", "attack/gap/scores"):
        assert same_bits(own[name], np.asarray(scores[name])), name


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_refuses_its_arguments_in_lower_case_and_names_its_own_where_it_is_stopped(run, tmp_path, monkeypatch):
    for given in ("out=here", "args=--preset=smoke", "OUT=here"):
        done = subprocess.run(["make", "-n", "audit", given], capture_output=True, text=True, cwd=REPOSITORY)
        if given.startswith("OUT"):
            assert done.returncode == 0 and "MI_JAX_OUT=OUT" in done.stdout and '--out="here"' in done.stdout
        else:
            assert done.returncode == 2 and done.stderr.count("\n") == 1
            assert f"{given}: expected upper case, as in make audit OUT=DIR" in done.stderr

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", stop)
    monkeypatch.setenv("MI_JAX_OUT", "OUT")
    _, _, message = run("--preset=smoke", f"--out={tmp_path / 'out'}")
    assert message.splitlines()[-1] == f"stopped; the same command with OUT={tmp_path / 'out'} resumes"


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bits(runs, run, tmp_path, monkeypatch):
    folder, *_ = runs
    out, written, put = tmp_path / "out", [], store.write_file

    def stop_at_the_ninth(path, content):
        written.append(path)
        if len(written) == 9:
            raise KeyboardInterrupt
        put(path, content)

    monkeypatch.setattr(store, "write_file", stop_at_the_ninth)
    arguments = (*FLAGS, "--attacks=gap,noise", f"--out={out}")
    code, printed, message = run(*arguments)
    assert (code, printed) == (130, "")
    assert message.splitlines()[-1] == f"stopped; the same command with --out={out} resumes"
    assert [path.name for path in out.iterdir()] == ["cache"]
    monkeypatch.setattr(store, "write_file", put)
    code, _, message = run(*arguments)
    assert code == 0 and "resuming: 8 cached results" in message
    assert sorted(path.name for path in out.iterdir()) == sorted(report.FILES)
    assert json.loads((out / "report.json").read_text())["environment"]["parts_found"] == 8
    resumed, whole = scores_of(out), scores_of(folder)
    assert all(same_bits(values, whole[name]) for name, values in resumed.items())


@pytest.mark.slow
def test_a_table_of_ones_own_runs_with_small_flags(run, tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    np.savez(tmp_path / "own.npz", x=(rng.random((60, 12)) < 0.2 + 0.3 * y[:, None]).astype(np.float32), y=y)
    out = tmp_path / "out"
    sizes = ("--n_train=12", "--num_targets=1", "--num_points=9", "--budget=10", "--model=mlp:8")
    code, printed, _ = run(f"--dataset=npz:{tmp_path / 'own.npz'}", "--attacks=noise,gap", f"--out={out}", *sizes)
    assert code == 0
    assert [row.split()[0] for row in table_in(printed)[2:]] == ["noise", "gap"]
    record, scores = report.read(out)
    assert scores["rows"].shape == (1, 18) and record["config"]["num_points"] == 9
    assert is_summary(record["attacks"]["noise"]["auc"], targets=1)
    assert sorted(path.name for path in out.iterdir()) == sorted(report.FILES)


def test_every_preset_and_default_resolves_to_a_checked_config():
    for preset in PRESETS:
        config = resolve(Config(preset=preset), data.load("digits"))
        unsaid = OPTIONAL if preset == "smoke" else OPTIONAL | {"tuning_shadows": None}
        assert {name: value for name, value in vars(config).items() if value is None} == unsaid
        assert config.num_points == config.n_train
        assert 4 * config.n_train <= 1797


@pytest.mark.parametrize("shape, model", [((12,), "mlp"), ((8, 8, 1), "mlp"), ((16, 16, 3), "cnn")])
def test_a_data_set_of_ones_own_has_defaults_that_fit_its_rows(shape, model):
    own = data.from_arrays("npz:own", np.zeros((50, *shape), np.float32), np.arange(50) % 2)
    config = resolve(Config(), own)
    assert (config.model, config.n_train, config.num_points) == (model, 12, 12)  # four disjoint sets of 12
    assert config.attacks == (TABLE_ATTACKS if len(shape) == 1 else IMAGE_ATTACKS)


def test_what_is_said_outweighs_the_preset_and_the_preset_the_data_sets_default():
    digits = data.load("digits")
    assert resolve(Config(), digits).n_train == 100
    assert resolve(Config(preset="smoke"), digits).n_train == 40
    assert resolve(Config(preset="smoke", n_train=7), digits).n_train == 7


def test_more_classes_than_rows_are_refused_where_models_are_trained():
    own = data.from_arrays("own", np.zeros((50, 3)), np.arange(50) % 2, num_classes=51)
    assert "num_classes=51: expected at most 50" in refusal(resolve, Config(), own)


def test_the_plan_of_a_run_is_checked_by_the_cost_of_every_attack():
    """300 points a side are queried in batches of 256: the third holds the first non-members."""
    dataset = data.load("digits")
    context = attacks.AttackContext(dataset.x.shape[1:], dataset.num_classes, None, 20)
    config = resolve(Config(preset="smoke", n_train=300, attacks=("gap", "noise")), dataset)
    split = study.draw_split(config, dataset, reference=False)

    def check(**changes):
        check_plan(Resolved(**vars(config) | changes), dataset, split, context)

    check(cap=21 * 556)  # noise: one label and 20 queries
    assert f"cap={21 * 556 - 1}: noise may need {21 * 556} queries" in refusal(lambda: check(cap=21 * 556 - 1))
    check(cap=556, attacks=("gap",))
    assert "gap may need 556" in refusal(lambda: check(cap=555, attacks=("gap",)))


KNOWN_ATTACKS = tuple(attacks.ATTACKS)
BAD = {  # arguments -> what the line must hold
    "unknown dataset": (["--dataset=mnits"], ["'mnits'", "digits", "location30", "npz:FILE"]),
    "unknown attack": (["--attacks=gap,gab"], ["'gab'", *KNOWN_ATTACKS]),
    "unknown model": (["--model=mpl"], ["'mpl'", "mlp", "mlp2", "cnn"]),
    "unknown defense": (["--defense=l3:1"], ["'l3'", "none", "l1", "l2", "memguard"]),
    "unknown preset": (["--preset=big"], ["'big'", "smoke", "cpu", "paper"]),
    "n_train 0": (["--n_train=0"], ["n_train=0", "at least 1"]),
    "n_train negative": (["--n_train=-5"], ["n_train=-5", "at least 1"]),
    "no targets": (["--num_targets=0"], ["num_targets=0"]),
    "no shadows": (["--num_shadows=0"], ["num_shadows=0"]),
    "no points": (["--num_points=0"], ["num_points=0"]),
    "one point to choose by": (["--num_points=1", "--num_shadows=1"], ["num_points=1", "at least 2"]),
    "a cap on gradients": (["--cap=100", "--attacks=white_box"], ["cap=100", "white_box"]),
    "too few rows": (["--n_train=899"], ["n_train=899", "1798", "1797", "at most n_train=898"]),
    "too few rows for four sets": (
        ["--n_train=450", "--split=disjoint"],
        ["n_train=450", "1800", "1797", "at most n_train=449"],
    ),
    "an attack that needs balanced models": (
        ["--attacks=chosen:5", "--split=disjoint"],
        ["split=disjoint", "expected balanced", "attack chosen judges every point"],
    ),
    "an even number of shadow models": (["--num_shadows=4"], ["num_shadows=4", "odd number for balanced"]),
    "too few balanced models": (["--num_shadows=3", "--attacks=gap,lira"], ["num_shadows=3", "at least 5", "lira"]),
    "more points than rows": (["--num_points=41"], ["num_points=41", "n_train=40"]),
    "repeated attack": (["--attacks=gap,noise,gap"], ["gap,noise,gap", "twice"]),
    "no attacks": (["--attacks="], ["attacks=", "at least one"]),
    "budget 0": (["--budget=0"], ["budget=0", "at least 1"]),
    "a budget of 10^12": (["--budget=1000000000000"], ["budget=1000000000000", "at most 10000000"]),
    "more queries than a day has": (["--budget=9999999", "--n_train=400"], ["budget=9999999", "at most 1e+10"]),
    "a huge n_train": (["--n_train=1000000000000"], ["n_train=1000000000000", "1797"]),
    "a huge n_train, private": (["--n_train=1000000000000", "--defense=dp_sgd:8"], ["n_train=1000000000000"]),
    "a billion models": (["--num_targets=1000000000"], ["num_targets=1000000000", "at most 100000"]),
    "a billion shadow models": (["--num_shadows=1000000000"], ["num_shadows=1000000000", "at most 100000"]),
    "a billion epochs": (["--private_epochs=1000000000", "--defense=dp_sgd:8"], ["private_epochs=1000000000"]),
    "cap 0": (["--cap=0"], ["cap=0", "at least 1"]),
    "a cap below the cost": (["--cap=1679", "--attacks=gap,noise"], ["cap=1679", "noise", "1680 queries"]),
    "an unknown split": (["--split=thirds"], ["'thirds'", "disjoint", "swap", "balanced"]),
    "a clip for nothing": (["--clip=1"], ["clip=1.0", "expected none", "defense=none", "not private"]),
    "a delta for nothing": (["--delta=0.1", "--defense=l2:1"], ["delta=0.1", "defense=l2:1", "not private"]),
    "private epochs for nothing": (["--private_epochs=9"], ["private_epochs=9", "not private"]),
    "a private rate for nothing": (["--private_rate=1"], ["private_rate=1.0", "not private"]),
    "a folder for digits": (["--data_dir=originals"], ["data_dir=originals", "expected none with digits"]),
    "negative seed": (["--seed=-1"], ["seed=-1"]),
    "huge seed": (["--seed=99999999999999999999"], ["seed=99999999999999999999"]),
    "a positional argument": (["smoke"], ["'smoke'", "--name=value"]),
    "negative strength": (["--defense=l2:-1"], ["'l2:-1'", ">= 0"]),
    "a strength beyond float32": (["--defense=l2:1e39"], ["'l2:1e39'", "finite in float32"]),
    "strength no number": (["--defense=l2:x"], ["'l2:x'", "number"]),
    "more classes than numbers": (["--defense=top_k:1e30"], ["top_k:1e+30", "1..1048576"]),
    "a dropout that float32 makes 1": (["--defense=dropout:0.999999999"], ["dropout:0.999999999", "[0, 1)"]),
    "a clip below 0": (["--clip=-1"], ["clip=-1", "more than 0"]),
    "a delta above 1": (["--delta=5"], ["delta=5", "less than 1"]),
    "an infinite rate": (["--private_rate=inf"], ["private_rate=inf", "less than inf"]),
    "a checkpoint nobody begins from": (
        ["--checkpoint=net.npz"],
        ["checkpoint=net.npz", "none starts from no pretrained network"],
    ),
    "strength of none": (["--defense=none:3"], ["'none:3'", "no strength"]),
    "an mlp without width": (["--model=mlp:0"], ["a width of 0, expected 1..65536"]),
    "a cnn on 8x8 images": (["--model=cnn"], ["8x8"]),
    "a missing data folder": (["--dataset=location30", "--data_dir=nowhere"], ["nowhere", "dataset_location.tgz"]),
    "a missing npz": (["--dataset=npz:nowhere.npz"], ["nowhere.npz"]),
    "a folder as npz": (["--dataset=npz:/"], ["npz:/", "no such file"]),
    "a text as npz": ([f"--dataset=npz:{__file__}"], [__file__, "expected an .npz of plain arrays"]),
}
TABLE, LABELS = np.zeros((40, 5), np.float32), np.arange(40) % 2
BAD_ARRAYS = {  # of an npz -> what the line must hold
    "labels from 1": ({"y": LABELS + 1}, "labels 1..2, no rows of class 0"),
    "labels -1 and 1": ({"y": LABELS * 2 - 1}, "label -1 in row 0"),
    "labels up to a million": ({"y": LABELS * 10**6}, "labels 0..1000000, no rows of class 1 and 999998 others"),
    "labels beyond int32": ({"y": LABELS * 2**40}, f"labels 0..{2**40}"),
    "a million classes": ({"num_classes": 10**6}, "num_classes is 1000000"),
    "more classes than rows": ({"num_classes": 41}, "num_classes=41: expected at most 40"),
    "part of a class": ({"num_classes": 2.7}, "expected one integer"),
    "labels as numbers": ({"y": LABELS * 1.0}, "y has dtype float64"),
    "labels as text": ({"y": LABELS.astype(str)}, "y has dtype <U"),
    "one-hot labels": ({"y": np.eye(2)[LABELS]}, "one-hot"),
    "labels in a column": ({"y": LABELS[:, None]}, "y.ravel()"),
    "labels of 3 dimensions": ({"y": LABELS[:, None, None]}, "y has shape [40, 1, 1]"),
    "fewer labels": ({"y": LABELS[:39]}, "y has shape [39]; expected [40]"),
    "no y": ({"y": None}, "found x"),
    "no rows": ({"x": TABLE[:0], "y": LABELS[:0]}, "at least one row"),
    "not a number": ({"x": TABLE + np.nan}, "x[0, 0] is nan"),
    "infinite": ({"x": TABLE - np.inf}, "x[0, 0] is -inf"),
    "not scaled": ({"x": TABLE + 255}, "x[0, 0] is 255"),
    "text": ({"x": TABLE.astype(str)}, "x has dtype <U"),
    "complex": ({"x": TABLE + 1j}, "x has dtype complex64"),
    "objects": ({"x": TABLE.astype(object)}, "(x holds Python objects, not numbers)"),
    "one dimension": ({"x": TABLE[:, 0]}, "x has shape [40]"),
    "channels first": ({"x": np.zeros((40, 3, 8, 8))}, "[40, 3, 8, 8]; expected [N H W C]"),
    "uint8 images of 0 and 1": ({"x": np.ones((40, 8, 8), np.uint8)}, "expected 0..255 in images, or 0/1 as bool"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_a_bad_npz_gets_one_line_and_leaves_nothing(run, untrained, tmp_path, case):
    changes, said = BAD_ARRAYS[case]
    arrays = {name: array for name, array in ({"x": TABLE, "y": LABELS} | changes).items() if array is not None}
    np.savez(tmp_path / "own.npz", **arrays)
    out = tmp_path / "out"
    code, printed, message = run(f"--dataset=npz:{tmp_path / 'own.npz'}", f"--out={out}")
    assert (code, printed) == (2, "") and is_one_error_line(message), message
    assert "own.npz" in message or "num_classes=" in message
    assert said in message, message
    assert not out.exists()


def is_one_error_line(message: str) -> bool:
    return message.startswith("error: ") and message.endswith("\n") and message.count("\n") == 1


@pytest.fixture
def untrained(monkeypatch):
    """Any code that trains a model now fails: bad input is to be found before."""
    monkeypatch.setattr(training, "train_ensemble", None)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(run, untrained, tmp_path, case):
    arguments, said = BAD[case]
    out = tmp_path / "out"
    preset = [] if case == "unknown preset" else ["--preset=smoke"]
    code, printed, message = run(*preset, f"--out={out}", *arguments)
    assert (code, printed) == (2, "")
    assert is_one_error_line(message), message
    assert [word for word in said if word not in message] == []
    assert not out.exists()


def test_bad_input_leaves_an_existing_folder_as_it_was(run, untrained, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    code, *_ = run("--preset=smoke", f"--out={tmp_path}", "--n_train=0")
    assert code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_perturbation_of_images_on_a_table_is_refused_before_training(run, untrained, tmp_path):
    np.savez(tmp_path / "own.npz", x=np.eye(40, 5, dtype=np.float32), y=np.arange(40) % 2)
    arguments = (f"--dataset=npz:{tmp_path / 'own.npz'}", "--attacks=rotation", f"--out={tmp_path / 'out'}")
    code, printed, message = run(*arguments)
    assert (code, printed) == (2, "") and is_one_error_line(message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["", "/below", "/deep/below"])
def test_out_that_is_a_file_or_below_one_is_refused(run, untrained, tmp_path, below):
    file = tmp_path / "file"
    file.write_text("kept")
    code, printed, message = run("--preset=smoke", f"--out={file}{below}")
    assert (code, printed) == (2, "") and is_one_error_line(message)
    assert f"--out={file}{below}" in message
    assert file.read_text() == "kept" and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_from_an_empty_or_missing_folder_is_refused(run, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        code, printed, message = run(f"--from={folder}", f"--out={tmp_path / 'out'}")
        assert (code, printed) == (2, "") and is_one_error_line(message)
        assert "report.json is missing" in message
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_from_with_damaged_scores_is_refused_and_redraws_nothing(runs, run, tmp_path, size):
    folder, *_ = runs
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "roc.png").unlink()
    (copy / "scores.npz").write_bytes((folder / "scores.npz").read_bytes()[:size])
    code, printed, message = run(f"--from={copy}")
    assert (code, printed) == (2, "") and is_one_error_line(message)
    assert str(copy) in message and "cannot be read" in message
    assert sorted(path.name for path in copy.iterdir()) == sorted(set(report.FILES) - {"roc.png"})


def test_an_error_of_several_lines_is_told_in_one(capsys):
    def body():
        raise ValueError("one\n  two")

    assert cli.main(body)(["audit"]) == 2
    assert capsys.readouterr().err == "error: one two\n"


def test_only_bad_input_is_told_in_one_line():
    """A fault of the program keeps its traceback."""

    def body():
        raise KeyError("fault")

    with pytest.raises(KeyError):
        cli.main(body)(["audit"])


@pytest.mark.parametrize("arguments", [["--dataset=mnits"], ["--budget=many"], ["--bugdet=3"], ["--budget=9999999999"]])
def test_the_program_exits_with_2_and_one_line(tmp_path, arguments):
    done = run_program("experiments.audit", f"--out={tmp_path / 'out'}", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_error_line(done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


def test_the_program_is_silent_about_accelerators_that_are_not_there(runs, tmp_path):
    folder, *_ = runs
    done = run_program("experiments.audit", *FLAGS, f"--out={folder}", JAX_PLATFORMS="")
    assert (done.returncode, done.stderr) == (0, f"{folder} holds this run, finished; --overwrite runs it again\n")


def test_help_of_the_command_says_how_it_is_used_and_every_default():
    done = run_program("mi_jax", "audit", "--help")
    assert done.returncode == 0 and "mi_jax audit [--dataset=NAME]" in done.stdout
    flat = " ".join(done.stdout.split())
    for name in HELP:
        text = flat[flat.index(f"--[no]{name}:" if f"--[no]{name}:" in flat else f"--{name}:") :].partition(" --")[0]
        assert "default: " in text, text
    assert "default: 400 for digits, 1200 for location30, else a quarter of the rows, at most 1000" in flat


def test_what_is_stopped_says_so_in_one_line_and_how_to_go_on(capsys):
    def body():
        with cli.resumable("the same command resumes"):
            raise KeyboardInterrupt

    assert cli.main(body)(["audit"]) == 130
    assert capsys.readouterr().err == "stopped; the same command resumes\n"


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_ends_a_program_in_one_line(number):
    code = "import signal\nfrom mi_jax import cli\n\n\ndef body():\n    with cli.resumable('how'):\n        {}\n\n\n"
    code = code.format(f"signal.raise_signal({int(number)})") + "cli.run_as_program(body, ['program'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped; how\n")


@pytest.mark.slow
def test_a_killed_command_is_resumed_by_the_folder_it_names(runs, tmp_path):
    """Without --out: in a process of its own, stopped by a signal once a model has answered."""
    folder, *_ = runs
    command = [sys.executable, "-m", "experiments.audit", *FLAGS]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("results/*/cache/*/*gap*")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1].splitlines()[-1]
    (out,) = (tmp_path / "results").iterdir()
    assert process.returncode == 130
    assert said == f"stopped; the same command with --out={out.relative_to(tmp_path)} resumes"
    done = run_program("experiments.audit", *FLAGS, f"--out={out}")
    assert done.returncode == 0 and f"cached results in {out}" in done.stderr
    resumed, whole = scores_of(out), scores_of(folder)
    assert all(same_bits(values, whole[name]) for name, values in resumed.items())
    assert sorted(path.name for path in out.iterdir()) == sorted(report.FILES)


def test_a_record_of_defenses_grows_by_none_that_begins_from_another_network(tmp_path):
    record = {"defenses": {"none": {"models": {}}, "transfer_last": {"models": {"begun_from": "0a"}}}}
    for begun in ({}, {"l2:1": None}, {"transfer_full": "0a"}):
        fig5_6_defenses.check_networks(record, begun, tmp_path)
    with pytest.raises(ValueError, match="transfer_last started from network 0a, transfer_full would from 0b"):
        fig5_6_defenses.check_networks(record, {"transfer_full": "0b"}, tmp_path)
