"""Build the Debian package: ``python deploy/debian/build.py dist``, or ``make deb``.

Debian 12's own aiohttp, lxml and prometheus-client are older than what xcpmem needs and pyxs is not packaged,
so the package brings them all, by the hashes of ``deploy/requirements.txt``, in a folder of its own, made for
Debian's own Python: Xen's binding is made for no other. Needs pip and dpkg-deb; root is not needed.
"""

from __future__ import annotations

import argparse
import compileall
import gzip
import py_compile
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[2]
SITE: Final = "usr/lib/xcpmem"
SUITE_PYTHON: Final = "3.11"
"""Of Debian 12."""

PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
REVISION: Final = 1
TIMEOUT_S: Final = 600
PROGRAMS: Final = {"xcpmem": "xcpmem.__main__", "xcpmemd": "xcpmem.daemon"}
DOCUMENTS: Final = (
    *("README.md", "deploy/README.md", "deploy/from-squeezed.md", "deploy/from-xl.md", "deploy/prometheus"),
    *("deploy/grafana", "deploy/guest", "deploy/xapi", "deploy/SECURITY.md", "deploy/LICENCES.md"),
    *("deploy/dashboard.png", "api-spec"),
)
COMPLETIONS: Final = {
    "xcpmem.bash": "bash-completion/completions/xcpmem",
    "_xcpmem": "zsh/vendor-completions/_xcpmem",
    "xcpmem.fish": "fish/vendor_completions.d/xcpmem.fish",
}

_LAUNCHER: Final = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/{site}")

from {module} import main

sys.exit(main())
"""
_CONTROL: Final = """\
Package: xcpmem
Version: {version}
Architecture: amd64
Maintainer: xcpmem developers <xcpmem@localhost>
Installed-Size: {size_kib}
Depends: python3 (>= {python}), python3 (<< {next_python})
Recommends: xen-utils-4.17 | xen-utils
Section: admin
Priority: optional
Description: memory control for Xen hosts
 Tells the balloon drivers of the running domains how much to hold, so that
 everybody has as much as fits and a new domain finds room. It speaks XenAPI
 for everything about memory, writes the same xenstore keys as squeezed, says
 why each domain has the target it has, and shows it in a browser, in a
 terminal and to Prometheus.
 .
 The daemon is not started when the package is installed:
 systemctl enable --now xcpmemd does that.
"""
_POSTINST: Final = """\
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  if [ -n "$2" ]; then
    systemctl try-restart xcpmemd.service
  fi
fi
"""
_PRERM: Final = """\
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl disable --now xcpmemd.service
fi
find /{site} -name __pycache__ -prune -exec rm -r {{}} +
"""
_POSTRM: Final = """\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
if [ "$1" = purge ]; then
  rm -rf /var/lib/xcpmem /etc/xcpmem
fi
"""


def build(output: Path, python: str = SUITE_PYTHON) -> Path:
    """Build the package.

    Args:
        output: the folder that it goes to; is made if it is missing.
        python: the minor version of the target's own Python.

    Returns:
        The package.

    Raises:
        subprocess.CalledProcessError: pip or dpkg-deb failed; its complaint was shown.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        version = f"{_install_packages(Path(scratch), root / SITE, python)}-{REVISION}"
        _lay_out(root)
        _compile(root / SITE, python)
        _write_control(root, version, python)
        target = output / f"xcpmem_{version}_amd64.deb"
        _run("dpkg-deb", "--root-owner-group", "--build", "-Zxz", str(root), str(target))
    return target


def _install_packages(scratch: Path, site: Path, python: str) -> str:
    """Put the wheel and all that it needs into a folder; give the wheel's version."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    _run(*pip, "wheel", "--no-deps", f"--wheel-dir={scratch}", str(PROJECT))
    (wheel,) = scratch.glob("*.whl")
    install = (*pip, "install", "--no-compile", "--no-deps", f"--target={site}")
    _run(
        *(*install, "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"),
        *(*(f"--platform={each}" for each in PLATFORMS), "--require-hashes"),
        *("--requirement", str(PROJECT / "deploy/requirements.txt")),
    )
    shutil.rmtree(site / "bin", ignore_errors=True)
    _run(*install, str(wheel))
    shutil.rmtree(site / "bin", ignore_errors=True)  # launchers for the Python of the machine that builds
    with zipfile.ZipFile(wheel) as packed:
        (metadata,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        lines = packed.read(metadata).decode().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("Version: "))


def _lay_out(root: Path) -> None:
    """Put everything else where Debian's policy wants it."""
    for name, module in PROGRAMS.items():
        _write(root / "usr/bin" / name, _LAUNCHER.format(site=SITE, module=module), mode=0o755)
    _copy("deploy/xcpmemd.service", root / "lib/systemd/system/xcpmemd.service")
    _copy("deploy/xcpmem.toml", root / "etc/xcpmem/xcpmem.toml")
    for name, place in COMPLETIONS.items():
        _copy(f"deploy/completions/{name}", root / "usr/share" / place)
    documents = root / "usr/share/doc/xcpmem"
    for name in DOCUMENTS:
        source, target = PROJECT / name, documents / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            _copy(name, target)
    _copy("LICENSE", documents / "copyright")
    _write_packed(documents / "changelog.gz", (PROJECT / "CHANGELOG.md").read_bytes())
    for page in sorted((PROJECT / "deploy/man").iterdir()):
        folder = root / f"usr/share/man/man{page.suffix.removeprefix('.')}"
        _write_packed(folder / f"{page.name}.gz", page.read_bytes())


def _compile(site: Path, python: str) -> None:
    """Compile for the target, if this Python can, so that starts are quick and nothing is written later."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(
            site, quiet=1, invalidation_mode=mode, stripdir=str(site.parents[2]), prependdir="/"
        )


def _write_control(root: Path, version: str, python: str) -> None:
    major, minor = python.split(".")
    size_kib = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    control = _CONTROL.format(
        version=version, size_kib=size_kib, python=python, next_python=f"{major}.{int(minor) + 1}"
    )
    folder = root / "DEBIAN"
    _write(folder / "control", control)
    _write(folder / "conffiles", "/etc/xcpmem/xcpmem.toml\n")
    for name, text in (("postinst", _POSTINST), ("prerm", _PRERM), ("postrm", _POSTRM)):
        _write(folder / name, text.format(site=SITE) if name == "prerm" else text, mode=0o755)


def _copy(name: str, target: Path) -> None:
    _write(target, (PROJECT / name).read_bytes())


def _write(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def _write_packed(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0))
    path.chmod(0o644)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S)


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("output", type=Path, nargs="?", default=Path("dist"), help="where it goes")
    parser.add_argument("--python", default=SUITE_PYTHON, help=f"of the target [{SUITE_PYTHON}]")
    options = parser.parse_args()
    sys.stdout.write(f"{build(options.output, options.python)}\n")


if __name__ == "__main__":
    main()
