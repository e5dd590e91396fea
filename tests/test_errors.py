import inspect

import pytest

from edge import errors


def test_every_error_is_exported_and_documented_in_the_tree():
    classes = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.EdgeError)
    ]
    assert (
        sorted([*classes, "install_hint", "printable", "reason", "require"])
        == sorted(errors.__all__)
        == errors.__all__
    )
    assert all(name in errors.__doc__ for name in classes)


def test_an_error_is_one_line_with_its_hint():
    error = errors.GraphError("it broke\n  in two lines", "type this")
    assert str(error) == "it broke in two lines; type this"
    assert isinstance(error, ValueError)


def test_a_missing_package_names_the_command_that_installs_it():
    with pytest.raises(errors.MissingPackage, match=r"pip install .* no_such_package"):
        errors.require("no_such_package")


@pytest.mark.parametrize(
    ("package", "command"),
    [("torch", "'.[build]'"), ("onnx", "'.[device]'"), ("gi", "apt install python3-gi")],
)
def test_the_hint_names_the_extra_or_the_package_of_the_system(package, command):
    assert command in errors.install_hint(package)


def test_an_error_is_one_line_without_control_characters():
    error = errors.ImageError("a\nb\x1b[31m.png is odd", "replace it")
    assert str(error) == "a b [31m.png is odd; replace it"


def test_reason_is_the_first_line_of_an_error_or_its_class_name():
    assert errors.reason(ValueError("\nit broke\nat line 7")) == "it broke"
    assert errors.reason(ValueError("x" * 300)) == "x" * 200
    assert errors.reason(AssertionError()) == "AssertionError"


def test_ctrl_c_during_a_native_import_raises_keyboard_interrupt(tmp_path, monkeypatch):
    (tmp_path / "native_edge.py").write_text(
        "try:\n    raise KeyboardInterrupt\n"
        "except KeyboardInterrupt as error:\n"
        "    raise ImportError('initialization failed') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        errors.require("native_edge")
