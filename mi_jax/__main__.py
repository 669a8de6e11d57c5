"""`python -m mi_jax COMMAND [--flag=value ...]`: the command of the installed package."""

from mi_jax import cli

if __name__ == "__main__":
    cli.run_command()
