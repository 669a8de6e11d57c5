"""The command `mi_jax compare A B`: two reports, and what changed from the first to the second."""

import sys
from pathlib import Path

from absl import app, flags

from mi_jax import store
from mi_jax.cli.program import main, parse
from mi_jax.evaluation import compare

flags.disclaim_key_flags()


def run_compare(argv: list[str]) -> None:
    """Compares two folders of reports as a program; `argv` is the program's name and its arguments."""
    flags.DEFINE_string("page", None, "file of an HTML page of the comparison")

    def program(argv: list[str]) -> int:
        def body() -> None:
            if len(argv) != 3:
                raise ValueError(f"{len(argv) - 1} folders: expected two, as in mi_jax compare BEFORE AFTER")
            found = compare.compare_folders(*argv[1:])
            print(compare.comparison_table(found))
            if flags.FLAGS.page:
                store.write_file(Path(flags.FLAGS.page), compare.comparison_page(found, (argv[1], argv[2])).encode())

        return main(body)(argv[:1])

    app.run(lambda argv: sys.exit(program(argv)), argv=argv, flags_parser=parse)
