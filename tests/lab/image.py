"""The lab's image: hypervisor, kernel and dom0 root, made from Debian's packages and cached by content."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
GUEST_INIT: Final = Path(__file__).parent / "guest" / "init"

SUITE: Final = "bookworm"
XEN_PACKAGE: Final = "xen-hypervisor-4.17-amd64"
KERNEL_METAPACKAGE: Final = "linux-image-amd64"
DOM0_PACKAGES: Final = ("xen-utils-4.17", "xenstore-utils", "python3", "kmod", "busybox-static")
DOM0_MODULES: Final = ("xenfs", "xen-privcmd", "xen-evtchn", "xen-gntdev", "xen-gntalloc")
STRIPPED: Final = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt",
    "var/lib/apt/lists",
)

DOM0_PYTHON: Final = "3.11"
# pip judges environment markers by the Python it runs on: what only an older Python needs is named here.
DOM0_EXTRA_REQUIREMENTS: Final = ("XenAPI", "typing-extensions")
WHEEL_PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

GUEST_PROGRAMS: Final = (
    *("usr/bin/busybox", "usr/bin/xenstore-write", "usr/bin/xenstore-read", "usr/bin/xenstore-watch"),
)
# In the order in which they must be loaded; what they need beside is built into the kernel.
GUEST_MODULES: Final = ("zsmalloc", "zram")
XZ_MAGIC: Final = b"\xfd7zXZ\x00"
ELF_MAGIC: Final = b"\x7fELF"
COMMAND_TIMEOUT_S: Final = 1200


class ImageError(Exception):
    """A part of the image could not be made; the text says which command failed and how."""


@dataclass(frozen=True, slots=True)
class Image:
    """The files that QEMU boots: a directory that is never changed once it stands."""

    directory: Path

    @property
    def xen(self) -> Path:
        return self.directory / "xen.elf"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def dom0(self) -> Path:
        """The base of dom0's initramfs, with the guests' kernel and root inside it."""
        return self.directory / "dom0.cpio.gz"


def cache_directory() -> Path:
    """The directory that keeps images between runs, outside the tree."""
    if chosen := os.environ.get("XCPMEM_LAB_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xcpmem-lab"


def cached_image() -> Image:
    """The image of the present recipe, built first if the cache lacks it.

    It is built beside its place and renamed into it, so that an interrupted build leaves no half image;
    what such a build left lying is removed by the next one. One run builds at a time, others wait for it.
    """
    requirements = dom0_requirements()
    cache = cache_directory()
    directory = cache / f"image-{_recipe_digest(requirements)}"
    if directory.is_dir():
        return Image(directory)
    if os.geteuid() != 0:
        raise ImageError("debootstrap needs root to make the lab's image")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.is_dir():
            return Image(directory)
        for left in cache.glob("building-*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(
            dir=cache, prefix="building-", ignore_cleanup_errors=True
        ) as scratch:
            _build(Path(scratch), requirements).rename(directory)
    return Image(directory)


def dom0_requirements() -> tuple[str, ...]:
    """What pip installs in dom0: this project's own dependencies and the client that the tests speak with."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return (*project["dependencies"], *DOM0_EXTRA_REQUIREMENTS)


def pack_cpio(root: Path, target: Path) -> None:
    """Write everything below root to target, a gzipped cpio archive such as the kernel takes as initramfs."""
    names = sorted(path.relative_to(root) for path in root.rglob("*"))
    listing = b"".join(os.fsencode(name) + b"\0" for name in (Path(), *names))
    with target.open("wb") as packed:
        packer = subprocess.Popen(["gzip", "-1"], stdin=subprocess.PIPE, stdout=packed)
        archiver = subprocess.run(
            ["cpio", "--null", "--create", "--format=newc", "--owner=0:0", "--quiet"],
            input=listing,
            cwd=root,
            stdout=packer.stdin,
            stderr=subprocess.PIPE,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
        packer.communicate(timeout=COMMAND_TIMEOUT_S)
    if archiver.returncode or packer.returncode:
        raise ImageError(f"packing {target.name} failed: {archiver.stderr.decode(errors='replace')}")


def _recipe_digest(requirements: tuple[str, ...]) -> str:
    recipe = hashlib.sha256()
    for part in (Path(__file__).read_bytes(), GUEST_INIT.read_bytes(), "\n".join(requirements).encode()):
        recipe.update(hashlib.sha256(part).digest())
    return recipe.hexdigest()[:16]


def _build(scratch: Path, requirements: tuple[str, ...]) -> Path:
    image = Image(scratch / "image")
    image.directory.mkdir()
    root = scratch / "root"

    _tell(f"dom0 root from Debian {SUITE}")
    # In a mount namespace of its own: what debootstrap mounts is gone with it, also when it is interrupted.
    include = f"--include={','.join(DOM0_PACKAGES)}"
    _command("unshare", "--mount", "debootstrap", "--variant=minbase", include, SUITE, str(root))

    _tell("hypervisor and kernel")
    kernel_tree = _download(root, scratch, _kernel_package(root))
    (kernel,) = kernel_tree.glob("boot/vmlinuz-*")
    shutil.copyfile(kernel, image.kernel)
    (hypervisor,) = _download(root, scratch, XEN_PACKAGE).glob("boot/xen-4.17-amd64.gz")
    image.xen.write_bytes(gzip.decompress(hypervisor.read_bytes()))

    _tell("dom0's modules, Python packages and guest")
    _install_modules(kernel_tree, root)
    _install_site(root, requirements)
    guests = root / "opt" / "guest"
    guests.mkdir()
    (guests / "vmlinux").write_bytes(_uncompressed_kernel(kernel.read_bytes()))
    _guest_root(root, kernel_tree, scratch / "guest-root")
    pack_cpio(scratch / "guest-root", guests / "guest.cpio.gz")

    _tell("packing")
    for name in STRIPPED:
        if (root / name).exists():
            shutil.rmtree(root / name)
    pack_cpio(root, image.dom0)
    return image.directory


def _kernel_package(root: Path) -> str:
    """The versioned kernel package that Debian's metapackage depends on."""
    _command("chroot", str(root), "apt-get", "update", "-qq")
    for line in _command("chroot", str(root), "apt-cache", "depends", KERNEL_METAPACKAGE).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends":
            return name
    raise ImageError(f"{KERNEL_METAPACKAGE} depends on no kernel")


def _download(root: Path, scratch: Path, package: str) -> Path:
    """Unpack a package of the suite, not installed, to a directory of its own."""
    _command("chroot", str(root), "sh", "-c", f"cd /tmp && apt-get download -qq {package}")
    (archive,) = root.glob(f"tmp/{package}_*.deb")
    tree = scratch / package
    _command("dpkg-deb", "--extract", str(archive), str(tree))
    archive.unlink()
    return tree


def _install_modules(kernel_tree: Path, root: Path) -> None:
    (source,) = kernel_tree.glob("lib/modules/*")
    target = root / "lib" / "modules" / source.name
    target.mkdir(parents=True)
    for listing in source.glob("modules.*"):
        shutil.copyfile(listing, target / listing.name)
    for module in DOM0_MODULES:
        (file,) = source.rglob(f"{module}.ko")
        shutil.copyfile(file, target / file.name)
    _command("chroot", str(root), "depmod", source.name)


def _install_site(root: Path, requirements: tuple[str, ...]) -> None:
    site = root / "opt" / "site"
    platforms = [f"--platform={platform}" for platform in WHEEL_PLATFORMS]
    _command(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--only-binary=:all:", "--implementation=cp", f"--python-version={DOM0_PYTHON}", *platforms),
        *(f"--target={site}", *requirements),
    )
    # Compiled by dom0's own Python here, because doing so under emulation costs every boot some seconds.
    _command(
        "chroot",
        str(root),
        *("python3", "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", "/opt/site"),
    )


def _uncompressed_kernel(vmlinuz: bytes) -> bytes:
    """The ELF inside a vmlinuz: xl takes seconds to unpack it under emulation, and at times fails."""
    kernel = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(vmlinuz[vmlinuz.index(XZ_MAGIC) :])
    if not kernel.startswith(ELF_MAGIC):
        raise ImageError("the kernel package holds no xz-compressed ELF kernel")
    return kernel


def _guest_root(root: Path, kernel_tree: Path, target: Path) -> None:
    for directory in ("bin", "proc", "sys", "dev", "lib/modules"):
        (target / directory).mkdir(parents=True)
    for module in GUEST_MODULES:
        (file,) = kernel_tree.rglob(f"{module}.ko")
        shutil.copyfile(file, target / "lib" / "modules" / file.name)
    shutil.copyfile(GUEST_INIT, target / "init")
    (target / "init").chmod(0o755)
    for program in GUEST_PROGRAMS:
        shutil.copy(root / program, target / "bin")
    # The dynamic linker inside the root names what a program loads, with full paths.
    for line in _command("chroot", str(root), "ldd", f"/{GUEST_PROGRAMS[1]}").splitlines():
        for word in line.split():
            if word.startswith("/"):
                library = target / word.removeprefix("/")
                library.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(_inside(root, word), library)


def _inside(root: Path, path: str) -> Path:
    """The file that an absolute path means inside root, whose links are absolute too."""
    return root / _command("chroot", str(root), "readlink", "--canonicalize", path).strip().removeprefix("/")


def _command(*words: str) -> str:
    """Run a command to its end and return what it printed; its output is shown only when it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{words[0]}: {error}") from error
    if done.returncode:
        output = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise ImageError(f"{' '.join(words)} exited with {done.returncode}:\n{output}")
    return done.stdout


def _tell(text: str) -> None:
    sys.stdout.write(f"lab: image: {text}\n")
    sys.stdout.flush()
