"""What a release runs on: pinned by hash, in step with the project, and all of it listed with its licence."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

# Licences that a daemon under MIT may import; LGPL is that of pyxs, which stays a package of its own.
FREE = re.compile(r"MIT|BSD|Apache|PSF|Python Software Foundation|LGPL|Lesser General Public")


def pins() -> dict[str, str]:
    text = (DEPLOY / "requirements.txt").read_text(encoding="utf-8")
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+) \\$", text, re.MULTILINE)
    }


def sbom() -> dict[str, dict[str, Any]]:
    loaded = json.loads((DEPLOY / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert loaded["bomFormat"] == "CycloneDX"
    return {canonicalize_name(each["name"]): each for each in loaded["components"]}


def test_every_dependency_is_pinned_to_a_version_that_the_project_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [Requirement(text) for text in project["dependencies"]]
    assert len(needed) >= 4
    for each in needed:
        assert each.specifier.contains(pins()[canonicalize_name(each.name)]), each


def test_every_pin_is_held_by_a_hash() -> None:
    text = (DEPLOY / "requirements.txt").read_text(encoding="utf-8")
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins())
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", block) for block in blocks)


def test_bill_of_materials_lists_what_is_pinned() -> None:
    assert {name: each["version"] for name, each in sbom().items()} == pins()


def test_all_that_is_shipped_has_a_licence_that_lets_it_be() -> None:
    for name, each in sbom().items():
        said = json.dumps(each["licenses"])
        assert FREE.search(said), f"{name}: {said}"


def test_list_of_licences_names_what_is_pinned() -> None:
    rows = (DEPLOY / "LICENCES.md").read_text(encoding="utf-8").splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row]
    assert {canonicalize_name(name): version for name, version, *_ in cells} == pins()
    assert all(FREE.search(licence) for _, _, licence, _ in cells)
