"""What the page about JAX and the docstrings of nero.optax show works."""

import doctest

import pytest

import nero.optax
from pages import JAX_PAGE, blocks

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
STATES = {"KeepNeuronsBalancedState", "ScaleByNeuronRmsState"}


def test_page() -> None:
    namespace = {"__name__": "__main__"}
    code = [block for block in blocks(JAX_PAGE.read_text("utf-8")) if block.language == "python"]
    assert len(code) > 5
    for block in code:
        # The blank lines make a traceback name the line of the page.
        exec(compile("\n" * (block.line + 1) + block.code, str(JAX_PAGE), "exec"), namespace)


@pytest.mark.parametrize("name", sorted(set(nero.optax.__all__) - STATES))
def test_docstring_examples(name: str) -> None:
    found = doctest.DocTestFinder().find(getattr(nero.optax, name), name, globs={})
    assert any(test.examples for test in found)
    for test in found:
        output: list[str] = []
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        runner.run(test, out=output.append)
        assert runner.failures == 0, "".join(output)
