"""Audits how much classifiers leak about their training rows: trains targets and shadow models, attacks, reports.

Result:   report.json, scores.npz, roc.png, scores.png, report.html in --out (default: a dated folder in results/).
Command:  python -m experiments.audit                                    digits, 75 models
          python -m experiments.audit --dataset=location30 --data_dir=DIR
          python -m experiments.audit --dataset=npz:FILE
          python -m experiments.audit --from=DIR                         redraws a finished run, computes nothing
          With the --out of a stopped run the same command resumes it; with that of a finished one it is shown again.
          `mi_jax audit` of an installed package is the same program.
"""

from mi_jax import cli

if __name__ == "__main__":
    cli.run_audit()
