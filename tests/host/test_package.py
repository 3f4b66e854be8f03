"""The Debian package: built by one command, with all that it needs, and started by its own launchers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from deploy.debian.build import SUITE_PYTHON, build

DEBIANS_PYTHON = Path("/usr/bin/python3")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True, timeout=60)
    return root


def field(package: Path, name: str) -> str:
    words = ["dpkg-deb", "--field", str(package), name]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_package_depends_on_debians_python_alone(package: Path) -> None:
    assert field(package, "Package") == "xcpmem"
    assert field(package, "Architecture") == "amd64"
    assert field(package, "Depends") == f"python3 (>= {SUITE_PYTHON}), python3 (<< 3.12)"


def test_package_has_everything_where_policy_wants_it(unpacked: Path) -> None:
    for name in (
        *("usr/bin/xcpmem", "usr/bin/xcpmemd", "etc/xcpmem/xcpmem.toml"),
        *("lib/systemd/system/xcpmemd.service", "usr/share/man/man1/xcpmem.1.gz"),
        *("usr/share/man/man8/xcpmemd.8.gz", "usr/share/man/man5/xcpmem.toml.5.gz"),
        *("usr/share/doc/xcpmem/copyright", "usr/share/doc/xcpmem/changelog.gz"),
        *("usr/share/bash-completion/completions/xcpmem", "usr/share/zsh/vendor-completions/_xcpmem"),
        *("usr/share/doc/xcpmem/deploy/README.md", "usr/lib/xcpmem/pyxs/__init__.py"),
        *("usr/lib/xcpmem/aiohttp/__init__.py", "usr/lib/xcpmem/xcpmem/api/model.json"),
    ):
        assert (unpacked / name).is_file(), name


def test_pages_in_the_package_link_to_nothing_that_is_not_in_it(unpacked: Path) -> None:
    pages = sorted((unpacked / "usr/share/doc/xcpmem").rglob("*.md"))
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text(encoding="utf-8"))]
    assert links
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(("program", "said"), [("xcpmemd", r"xcpmemd \d"), ("xcpmem", r"xcpmem \d")])
def test_launchers_run_with_debians_python_and_nothing_but_the_package(
    unpacked: Path, program: str, said: str
) -> None:
    launcher = (unpacked / "usr/bin" / program).read_text(encoding="utf-8")
    assert launcher.startswith("#!/usr/bin/python3 -I\n")
    here = launcher.replace('"/usr/lib/xcpmem"', repr(str(unpacked / "usr/lib/xcpmem")))
    words = [str(DEBIANS_PYTHON), "-I", "-c", here, "--version"]
    run = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")
    assert re.match(said, run.stdout)
