"""The claims of the paper: decided by the numbers of a record, and standing in the documentation as they come out."""

import copy
import json
from pathlib import Path

import pytest

from experiments import claims

REPOSITORY = Path(__file__).resolve().parent.parent


def entry(mean: float) -> dict:
    return {"balanced_accuracy": {"mean": mean}, "queries_per_example": 1.0}


RECORDS = {  # in which everything holds
    claims.FIG2[0]: {
        "attacks": {name: entry(value) for name, value in (("gap", 0.75), ("augmentation", 0.79), ("white_box", 0.84),
                                                           ("confidence_threshold", 0.83))},
        "panels": {f"{name} {s}": entry(0.76) for name in ("rotation", "translation") for s in range(16)},
        "curves": {name: [{"queries": {"mean": 50.0}, "balanced_accuracy": {"mean": 0.8}},
                          {"queries": {"mean": 2400.0}, "balanced_accuracy": {"mean": value}}]
                   for name, value in (("boundary", 0.84), ("noise", 0.82), ("rays", 0.8), ("combined", 0.86))},
        "boundary_minus_confidence": [{"mean": 0.008, "low": -0.01, "high": 0.03}],
    },
    claims.FIG3[0]: {
        "distances": {d: {"models": {"test_accuracy": {"mean": test}},
                          "attacks": {"gap": entry(0.7), "confidence": entry(0.8), "translation": entry(value)}}
                      for d, test, value in (("0", 0.4, 0.8), ("1", 0.5, 0.82), ("10", 0.6, 0.85))},
    },
    claims.MNIST[0]: {
        "attacks": {name: entry(value) for name, value in (("gap", 0.53), ("confidence", 0.55), ("boundary", 0.56),
                                                           ("combined", 0.57))},
        "memguard": {"label_only_identical_to_the_bit": {"gap": True},
                     "attacks": {"confidence, not adaptive": entry(0.5), "confidence, adaptive": entry(0.53)}},
    },
    claims.FIG4[0]: {
        "regimes": {regime: {n: {"attacks": {"augmentation": entry(value), "confidence": entry(0.8)}}
                             for n in ("100", "500")}
                    for regime, value in (("none", 0.6), ("all", 0.81))},
    },
    claims.FIGS9[0]: {
        "strengths": {at: {"models": {"test_accuracy": {"mean": test}},
                           "attacks": {"confidence": entry(c), "boundary": entry(b), "gap": entry(g)}}
                      for at, test, c, b, g in (("1", 0.45, 0.64, 0.77, 0.76), ("2", 0.44, 0.51, 0.72, 0.71),
                                                ("5", 0.2, 0.5, 0.53, 0.52))},
    },
    claims.FIGS10[0]: {
        "ways": {way: {n: {"models": {"test_accuracy": {"mean": test}},
                           "attacks": {"gap": entry(0.6), "boundary": entry(b)}} for n in ("100", "2500")}
                 for way, test, b in (("none", 0.5, 0.8), ("transfer_full", 0.67, 0.7),
                                      ("transfer_last", 0.59, 0.605))},
    },
    claims.FIGS11[0]: {
        "defenses": {text: {"improvement": {"mean": value}} for text, value in
                     (("none", 0.01), ("dropout:0.8", 0.08), ("dp_adam:250", 0.003), ("l2:3", 0.005))},
    },
    claims.DEFENSES[0]: {
        "defenses": {text: {"attacks": {"label_only": entry(value), "confidence": entry(value)},
                            "not_adaptive": {"confidence": entry(0.5)}} for text, value in
                     (("none", 0.82), ("dropout:0.8", 0.74), ("l2:0.1", 0.76), ("l2:1", 0.55), ("dp_adam:110", 0.54))},
    },
    claims.DIGITS_DEFENDED[0]: {
        "defenses": {text: {"models": {"test_accuracy": {"mean": 0.7}},
                            "attacks": {"gap": entry(value) | {"access": "label"}, "label_only": entry(value),
                                        "confidence": entry(value)},
                            "not_adaptive": {"confidence": entry(blind), "label_only": entry(value)}}
                     for text, value, blind in (("none", 0.6, 0.6), ("memguard:0.001", 0.6, 0.5),
                                                ("dp_sgd:8", 0.52, 0.5))},
    },
    claims.AUDITED[0]: {
        "levels": [{"noise": noise, "epsilon": high, "attacks": {"label": {"epsilon": 0.1}, "noise": {"epsilon": low}}}
                   for noise, high, low in ((0.0, "inf", 3.0), (1.0, 8.0, 1.5))],
    },
}  # fmt: skip


def lines(folder: Path, records: dict) -> dict[str, str]:
    for name, record in records.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(record))
    return dict(zip(claims.CLAIMS, claims.checked(folder), strict=True))


def test_what_has_no_record_is_not_yet_run_and_says_how(tmp_path):
    found = lines(tmp_path, {})
    assert all(line.startswith("not yet run") for line in found.values())
    assert "python -m experiments.fig2_query_budget --preset=cpu" in found["2"]


def test_claims_that_their_records_bear_out_hold(tmp_path):
    found = lines(tmp_path, RECORDS)
    ran = {number for number, claim in claims.CLAIMS.items() if claim.record in RECORDS}
    assert {number for number, line in found.items() if line.startswith("holds")} == ran
    assert "+0.8 pp [-1.0, +3.0]" in found["1 CIFAR-10"]


@pytest.mark.parametrize(
    ("number", "change"),
    [
        ("1 CIFAR-10", lambda r: r[claims.FIG2[0]]["boundary_minus_confidence"][0].update(mean=-0.02)),
        ("1 MNIST", lambda r: r[claims.MNIST[0]]["attacks"].update(boundary=entry(0.53))),
        ("2", lambda r: r[claims.FIG2[0]]["attacks"].update(augmentation=entry(0.74))),
        ("3 MNIST", lambda r: r[claims.MNIST[0]]["attacks"].update(combined=entry(0.56))),
        ("6 MNIST", lambda r: r[claims.MNIST[0]]["memguard"]["label_only_identical_to_the_bit"].update(gap=False)),
        ("8 rotation", lambda r: r[claims.FIG2[0]]["panels"].update({"rotation 8": entry(0.75)})),
        ("10", lambda r: r[claims.FIG3[0]]["distances"]["10"]["attacks"].update(translation=entry(0.8))),
        ("10", lambda r: r[claims.FIG3[0]]["distances"]["10"]["models"]["test_accuracy"].update(mean=0.3)),
        ("11", lambda r: r[claims.FIG4[0]]["regimes"]["all"]["100"]["attacks"].update(augmentation=entry(0.78))),
        ("7", lambda r: r[claims.FIGS9[0]]["strengths"]["2"]["attacks"].update(boundary=entry(0.76))),
        ("12", lambda r: r[claims.FIGS10[0]]["ways"]["transfer_last"]["2500"]["attacks"].update(boundary=entry(0.62))),
        ("15", lambda r: r[claims.FIGS11[0]]["defenses"]["dp_adam:250"]["improvement"].update(mean=0.09)),
        ("13", lambda r: r[claims.DEFENSES[0]]["defenses"]["dp_adam:110"]["attacks"].update(confidence=entry(0.59))),
        (
            "14 digits",
            lambda r: r[claims.DIGITS_DEFENDED[0]]["defenses"]["dp_sgd:8"]["models"].update(
                test_accuracy={"mean": 0.39}
            ),
        ),
        (
            "6 defenses",
            lambda r: r[claims.DIGITS_DEFENDED[0]]["defenses"]["memguard:0.001"]["attacks"]["gap"].update(entry(0.61)),
        ),
        ("ours", lambda r: r[claims.AUDITED[0]]["levels"][1]["attacks"]["label"].update(epsilon=8.1)),
        ("9 at the end", lambda r: r[claims.FIG2[0]]["attacks"].update(white_box=entry(0.86))),
    ],
)
def test_a_claim_fails_with_the_number_it_rests_on(number, change, tmp_path):
    records = copy.deepcopy(RECORDS)
    change(records)
    assert lines(tmp_path, records)[number].startswith("fails")


def test_a_record_of_some_of_the_points_is_not_yet_run(tmp_path):
    records = copy.deepcopy(RECORDS)
    del records[claims.DIGITS_DEFENDED[0]]["defenses"]["dp_sgd:8"]
    del records[claims.FIGS10[0]]["ways"]["transfer_last"]["2500"]
    found = lines(tmp_path, records)
    assert found["14 digits"].startswith("not yet run") and "lacks 'dp_sgd:8'" in found["14 digits"]
    assert found["12"].startswith("not yet run") and found["6 defenses"].startswith("holds")


def test_the_documentation_shows_the_claims_as_the_committed_records_decide_them():
    page = (REPOSITORY / "experiments" / "README.md").read_text()
    shown = page.split("```claims\n")[1].split("```")[0].splitlines()
    assert shown == list(claims.checked(REPOSITORY / "results" / "records"))
