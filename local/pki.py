"""Keys and certificates of one cluster, made with openssl and gone with it."""

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

DAYS = "365"


def make_authority(folder: Path) -> None:
    """Create the cluster's certificate authority and the key that signs ServiceAccount tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(
        folder, "req", "-x509", *_new_key("ca"), "-out", "ca.crt", "-days", DAYS, "-subj", "/CN=ax-local",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sa.key")
    _openssl(folder, "ec", "-in", "sa.key", "-pubout", "-out", "sa.pub")


def issue(folder: Path, name: str, subject: str, hosts: Sequence[str] = ()) -> None:
    """Create `<name>.key` and `<name>.crt` for a subject such as `/O=system:masters/CN=admin`.

    `hosts` are the DNS names and IPv4 addresses that a server presents; a client has none.
    """
    alternatives = ",".join(("IP:" if host[0].isdigit() else "DNS:") + host for host in hosts)
    extensions = "extendedKeyUsage=clientAuth,serverAuth\n"
    (folder / f"{name}.ext").write_text(extensions + (f"subjectAltName={alternatives}\n" if hosts else ""))
    _openssl(folder, "req", *_new_key(name), "-subj", subject, "-out", f"{name}.csr")
    _openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", f"{name}.crt", "-days", DAYS, "-extfile", f"{name}.ext",
    )  # fmt: skip


def kubeconfig(folder: Path, name: str, server: str) -> str:
    """Return a self-contained kubeconfig (JSON, which is YAML) for the holder of `<name>.key`."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "local",
                "cluster": {"server": server, "certificate-authority-data": _data(folder / "ca.crt")},
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": _data(folder / f"{name}.crt"),
                    "client-key-data": _data(folder / f"{name}.key"),
                },
            }
        ],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": name}}],
        "current-context": "local",
    }
    return json.dumps(document, indent=1) + "\n"


def _new_key(name: str) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
