import inspect
import re

import pytest

from edgeprune import errors
from edgeprune.errors import EdgepruneError

ALL = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]


@pytest.mark.parametrize("error", ALL)
def test_every_error_is_one_of_ours_and_says_when_it_is_raised(error: type[Exception]) -> None:
    assert issubclass(error, EdgepruneError)
    assert error.__doc__


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    drawn: dict[str, str] = {}
    branch: list[str] = ["EdgepruneError"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│ ]*)[├└]── (\w+)", line)
        if found:
            depth = len(found[1]) // 4 + 1
            branch[depth:] = [found[2]]
            drawn[found[2]] = branch[depth - 1]
    actual = {c.__name__: c.__bases__[0].__name__ for c in ALL if c is not EdgepruneError}
    assert drawn == actual


def test_usage_and_integrity_have_exit_codes_of_their_own() -> None:
    codes = {c.__name__: c.exit_code for c in ALL if c.exit_code != 1}
    assert codes == {"UsageError": 2, "CutError": 5, "ParityError": 5, "BundleError": 5}
