"""The extras of the package: what of it a command needs, checked before the work."""

from __future__ import annotations

import importlib.util

from invariances.errors import ParameterError

__all__ = ["EXTRAS", "need"]

EXTRAS = {
    "zoo": (
        "datasets",
        "distributed",
        "filelock",
        "huggingface_hub",
        "pyarrow",
        "pydantic",
        "tokenizers",
        "torchvision",
    ),
    "tables": ("pyarrow",),
    "onnx": ("onnx",),
    "book": ("papermill", "nbformat", "matplotlib", "seaborn", "jupyter_book"),
}
"""A package of every part of an extra, by which it is known to be installed."""


def need(command: str, *extras: str) -> None:
    """Refuse a command before its work if what it needs is not installed.

    Raises
    ------
    ParameterError
        One sentence names the extra to install.
    """
    for extra in extras:
        missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
        if missing:
            raise ParameterError(
                f"`invariances {command}` needs {missing[0]}, which is not installed; "
                f"run pip install 'invariances[{','.join(extras)}]'"
            )
