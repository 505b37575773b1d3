"""Every configuration that a reader may copy can be served."""

import pytest
from conftest import ROOT

EXAMPLES = sorted(
    path.relative_to(ROOT) for path in (ROOT / "examples").rglob("*.toml") if "node_modules" not in path.parts
)


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=str)
def test_an_example_can_be_served(drawbridge, path):
    done = drawbridge("check-config", ROOT / path)
    assert done.returncode == 0, done.stdout + done.stderr
