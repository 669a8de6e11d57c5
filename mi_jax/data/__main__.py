"""`python -m mi_jax.data NAME` prints the card of a data set."""

import argparse
import sys

from mi_jax.data import card, download, known_names, load


def main() -> None:
    """Prints the card of the data set named on the command line, and prepares the data set first if needed."""
    parser = argparse.ArgumentParser(prog="python -m mi_jax.data", description="Prints the card of a data set.")
    parser.add_argument("name", metavar="NAME", help=", ".join(known_names()))
    parser.add_argument("--data_dir", help="folder with the original files; default $MI_JAX_DATA/NAME")
    parser.add_argument("--download", action="store_true", help="first download the files that the folder lacks")
    arguments = parser.parse_args()
    try:
        if arguments.download:
            download(arguments.name, arguments.data_dir)
        print(card(load(arguments.name, arguments.data_dir)))
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
