"""A change of what training computes needs a new RECIPE_VERSION; nobody should have to remember that."""

import ast
import hashlib
import sys
from pathlib import Path

import pytest

from invariances import transforms, zoo
from invariances.zoo import recipes

ZOO = Path(zoo.__file__).parent
SOURCES = [ZOO / f"{name}.py" for name in ("training", "networks", "stacking", "pretrained")]
PINNED = (2, "77a89975dec7492b")
"""The version, and the digest of the sources that it stands for."""
UNAFFECTED: dict[str, str] = {
    "9f17f6950610e1df": "masked-language modelling and shared initialization came in; without them all is as before",
    "779594858964f4b8": "heads on products share the loop: functions have public names, a decoder's pictures may lie "
    "beside what it reads",
    "2d4985dab07ab181": "a sentence on missing weights names no folder of the machine",
}
"""Digests of later sources that give the same bits, each with the reason; emptied with every new version."""


def meaning(path):
    """A source without comments, docstrings and layout."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [
                line
                for line in body
                if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and len(body) > 1)
            ]
    return ast.dump(tree)


def digest():
    said = "".join(map(meaning, SOURCES)) + meaning_of_relative()
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def meaning_of_relative():
    """The one formula of the method that training uses."""
    tree = ast.parse(Path(transforms.__file__).read_text(encoding="utf-8"))
    return ast.dump(next(node for node in tree.body if getattr(node, "name", "") == "relative"))


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other Pythons write syntax trees otherwise")
def test_what_training_computes_changes_only_with_a_new_version():
    now = digest()
    assert PINNED[0] == recipes.RECIPE_VERSION, f"a new version stands for {now}: pin both, and empty UNAFFECTED"
    assert now in {PINNED[1], *UNAFFECTED}, (
        f"the sources of training have changed (now {now}): if a model could come out different, count RECIPE_VERSION "
        "up, else add this digest to UNAFFECTED with the reason"
    )


def test_comments_and_docstrings_are_free(tmp_path):
    one, other, third = tmp_path / "one.py", tmp_path / "other.py", tmp_path / "third.py"
    one.write_text('"""Say."""\n\n\ndef f(x):\n    """Double."""\n    return 2 * x  # twice\n')
    other.write_text("def f(x):\n    return (2 *\n            x)\n")
    third.write_text("def f(x):\n    return 3 * x\n")
    assert meaning(one) == meaning(other) != meaning(third)
