"""The lock files, which hold everything that setup.sh installs."""

import re

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCKS = {
    "requirements.lock": ["requirements.txt"],
    "tests/requirements.lock": ["requirements.txt", "tests/requirements.txt"],
}


def pins(path: str) -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (REPOSITORY / path).read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def locked(path: str) -> list[tuple[Requirement, list[str]]]:
    """Each requirement of a lock file with the hashes of its files."""
    entries = (REPOSITORY / path).read_text().replace("\\\n", " ").splitlines()
    split = [re.split(r"\s+--hash=", entry) for entry in entries if entry and not entry.startswith("#")]
    return [(Requirement(words[0]), words[1:]) for words in split]


@pytest.mark.parametrize("path", LOCKS)
def test_every_locked_package_has_one_version_and_hashes(path: str) -> None:
    assert locked(path)
    for requirement, hashes in locked(path):
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)) and requirement.url is None, requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest.strip()) for digest in hashes), requirement


@pytest.mark.parametrize("path", LOCKS)
def test_locks_hold_what_is_required(path: str) -> None:
    """After a change of a requirements file, compile the locks again (CONTRIBUTING.md)."""
    versions: dict[str, set[Version]] = {}
    for requirement, _ in locked(path):
        version = Version(str(requirement.specifier).removeprefix("=="))
        versions.setdefault(canonicalize_name(requirement.name), set()).add(version)
    required = [pin for source in LOCKS[path] for pin in pins(source).items()]
    assert required
    for name, version in required:
        assert versions.get(canonicalize_name(name)) == {Version(version)}, name


def test_both_locks_agree() -> None:
    tests = {str(requirement): hashes for requirement, hashes in locked("tests/requirements.lock")}
    assert all(tests.get(str(requirement)) == hashes for requirement, hashes in locked("requirements.lock"))
