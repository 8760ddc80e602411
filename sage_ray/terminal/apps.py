"""The tree of the command line: `sage-ray VERB`, `sage-ray config VERB` and `sage-ray data VERB`."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_ray import __version__

app = typer.Typer(
    name="sage-ray",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Look at resolved configs.", no_args_is_help=True, rich_markup_mode=None)
data_app = typer.Typer(help="Draw, check or fetch data.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"sage-ray {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Search, ablation and final training of SAGE-GAN on scarce micrographs, on one laptop or a cluster."""
