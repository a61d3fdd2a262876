"""The table of ops names functions that exist."""

from __future__ import annotations

from importlib import import_module

import pytest

from fog_common.errors import OpError
from fog_learning.ops import OPS
from support.backends import backend_for


def test_every_op_of_the_table_exists():
    for op in OPS.values():
        module, _, function = op.function.partition(":")
        assert callable(getattr(import_module(module), function))


def test_an_op_that_the_table_lacks_is_refused():
    with pytest.raises(OpError, match="there is no op 'dance'; known: init, train"):
        backend_for().run("dance", "t0", {}, {})
