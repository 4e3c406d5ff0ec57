"""The rows of the table are tested without Java."""

import pytest

from tests.eval.tasks.java import put_java


@pytest.fixture(scope="package", autouse=True)
def java(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield put_java(tmp_path_factory.mktemp("java"), patch)
