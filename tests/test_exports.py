"""The public surface."""

import subprocess
import sys

import pytest

import excise


def test_every_public_name_is_there():
    for name in excise.__all__:
        assert getattr(excise, name) is not None
    assert set(excise._HOMES) | {"__version__"} == set(excise.__all__)
    assert set(excise.__all__) <= set(dir(excise))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'debias'"):
        _ = excise.debias


def test_import_is_cheap():
    code = (
        "import excise, sys;"
        "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
