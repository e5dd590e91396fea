"""The release check: names that do not agree and incomplete wheels are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import release_check as check

ROOT = Path(__file__).resolve().parents[2]
INIT = '"""A package."""\n\n__version__ = "1.2.3"\n'
CHANGELOG = "# Changelog\n\n## 1.2.3\n\n### Major\n\n## 1.2.2\n"


def test_version_tag_and_changelog_agree():
    assert check.check_names(INIT, CHANGELOG, None) == "v1.2.3"
    assert check.check_names(INIT, CHANGELOG, "v1.2.3") == "v1.2.3"


@pytest.mark.parametrize(
    ("init", "changelog", "tag", "problem"),
    [
        (INIT, CHANGELOG, "v1.2.4", "the tag v1.2.4 does not fit"),
        (INIT, CHANGELOG, "1.2.3", "the tag 1.2.3 does not fit"),
        (INIT, "## Unreleased\n" + CHANGELOG, None, "begins with ## Unreleased"),
        (INIT, "# Changelog\n", None, "begins with no entry"),
        (INIT.replace("1.2.3", "1.2"), CHANGELOG, None, "make it X.Y.Z"),
        ("", CHANGELOG, None, "has no __version__"),
    ],
)
def test_names_that_differ_are_refused(init, changelog, tag, problem):
    with pytest.raises(check.Failed, match=problem):
        check.check_names(init, changelog, tag)


GOOD = {*check.DATA, "edge/__init__.py", "vit_edge-1.2.3.dist-info/METADATA"}


def test_a_complete_wheel_passes():
    assert check.check_wheel(GOOD, ["edge/__init__.py"]) == 5


@pytest.mark.parametrize("name", check.DATA)
def test_a_wheel_without_package_data_is_refused(name):
    with pytest.raises(check.Failed, match=f"lacks {name}"):
        check.check_wheel(GOOD - {name}, [])


def test_a_wheel_without_a_file_of_the_package_is_refused():
    with pytest.raises(check.Failed, match=r"lacks edge/new\.html"):
        check.check_wheel(GOOD, ["edge/new.html"])


def test_a_wheel_with_other_packages_is_refused():
    with pytest.raises(check.Failed, match=r"tests/conftest\.py, which is not part"):
        check.check_wheel(GOOD | {"tests/conftest.py"}, [])


def test_package_data_of_this_repository_is_where_the_check_looks_for_it():
    assert [name for name in check.DATA if not (ROOT / name).is_file()] == []


def test_a_command_that_fails_is_shown_with_its_output():
    with pytest.raises(check.Failed, match=r"(?s)ls /absent failed:.*No such file"):
        check.run("ls", "/absent")


def test_this_repository_has_a_changelog_for_its_version():
    init, changelog = (ROOT / name for name in ("edge/__init__.py", "CHANGELOG.md"))
    assert check.check_names(init.read_text(), changelog.read_text(), None)


def test_entries_of_the_changelog_are_at_most_two_lines_in_known_sections():
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(sections) <= {"Major", "Features", "Fixes"}
    for entry in re.findall(r"^- .+\n(?:  .+\n)*", text, re.MULTILINE):
        lines = entry.splitlines()
        assert len(lines) <= 2, entry
        assert max(map(len, lines)) <= 100, entry
