"""Audits how much classifiers betray about their training rows: trains targets and shadow models, attacks, reports.

Artefact: report.json, scores.npz, roc.png, scores.png, report.html in --out (default: a dated folder in results/).
Command:  python -m experiments.audit                                    digits, 75 models, 100 s on two cores
          python -m experiments.audit --dataset=location30 --data_dir=DIR
          python -m experiments.audit --dataset=npz:FILE
          python -m experiments.audit --from=DIR                         redraws a finished run, computes nothing
"""

import sys
from pathlib import Path

from absl import app, flags

from experiments import common, study
from mi_jax import report

FLAGS = flags.FLAGS


def body() -> None:
    """One audit, or one redrawing."""
    if FLAGS["from"].value is not None:
        source = Path(FLAGS["from"].value)
        report.read(source)
        folder = common.out_folder(FLAGS.out or str(source), "")
        common.show(report.draw(source, folder), folder)
        return
    config = common.config_from_flags()
    folder = common.out_folder(FLAGS.out, config.dataset)
    record, scores = study.run(config, out=folder)
    common.finish(folder, record, scores)


if __name__ == "__main__":
    common.define_flags()
    flags.DEFINE_string("out", None, "folder of the results; default: a dated folder in results/")
    flags.DEFINE_string("from", None, "folder of a finished run: redraw its table, figures and page")
    app.run(lambda argv: sys.exit(common.main(body)(argv)), flags_parser=common.parse)
