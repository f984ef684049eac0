"""What the gateway's pod tells its agent: sockets, ports, folders and bounds; read from the environment once."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from ax_gateway.hosted import Network
from ax_gateway.table import BareNames

PREFIX = "AX_GATEWAY_"
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseModel):
    """Each field is read from `AX_GATEWAY_<FIELD>`; a port of 0 lets the system choose one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str = "ax-system"
    """The operator's own namespace."""
    socket: str = "/run/ax/xds.sock"
    """Unix socket on which Envoy finds the agent."""
    admin_socket: str = "/run/ax/admin.sock"
    """Unix socket on which the agent finds Envoy."""
    state_dir: Path = Path("/run/ax/state")
    """Folder of the last world: a memory volume of the pod."""
    address: str = "0.0.0.0"  # noqa: S104  clients come from outside the pod
    port: Port = 8080
    """For clients."""
    api_port: Port = 8081
    """For probes, metrics and the operator."""
    hold_port: Port = 8082
    """On loopback, for requests that wait."""
    tls: Literal["required", "insecure"] = "required"
    """`insecure` speaks plain HTTP to clients, said aloud."""
    tls_folder: Path = Path("/tls")
    """Where tls.crt and tls.key of a Secret are mounted."""
    bare_names: str = ""
    """Namespaces whose models may be called by a bare served name: comma-separated, or `*`."""
    held_requests: Annotated[int, Field(ge=0, le=100_000)] = 1000
    held_bytes: Annotated[int, Field(ge=0)] = 256 * 1024 * 1024
    envoy_memory: Annotated[int, Field(ge=64 * 1024 * 1024)] = 1024 * 1024 * 1024
    """Bytes that Envoy's container may use: before that it answers 503 instead of being killed."""
    connections: Annotated[int, Field(ge=1)] = 50_000
    """Clients' connections at once."""
    patience: Annotated[float, Field(ge=0)] = 3.0
    """Seconds that an agent waits for the API server before it serves the last world."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Gateways that share the load: limits are divided by it."""
    client_keys: Literal["required", "none"] = "required"
    """`none` lets everybody in who reaches the gateway."""
    accounts: Literal["on", "off"] = "on"
    """`off` counts no tokens: tokens per minute have no effect, and hosted APIs with a budget are closed."""
    access_log: Literal["stdout", "none"] = "none"
    hosted_plain_http: bool = False
    """Whether an AXHostedAPI may be http, for names inside the cluster."""
    hosted_networks: str = ""
    """Networks of hosted APIs that are allowed although they are loopback or link-local: comma-separated CIDRs."""
    hosted_first_byte_seconds: Annotated[float, Field(gt=0)] = 120.0
    first_byte_seconds: Annotated[float, Field(gt=0)] = 600.0
    """The longest wait for the first byte of a replica's answer, its own queue included."""
    idle_seconds: Annotated[float, Field(gt=0)] = 300.0
    """The longest silence inside an answer."""
    ca_bundle: Path | None = None
    """PEM file of the certificates by which hosted APIs are verified; left out, the system's."""
    proxy: Annotated[str, Field(pattern=r"^([A-Za-z0-9.-]+:[0-9]{1,5})?$")] = ""
    """host:port of an HTTP proxy through which hosted APIs are reached."""
    drain_seconds: Annotated[float, Field(ge=0)] = 600.0
    """The longest stream that a stopping gateway waits for."""
    node: str = "ax-gateway"
    """This gateway's name: the pod's."""

    @property
    def bare_namespaces(self) -> BareNames:
        """`bare_names` as the route table wants it."""
        names = frozenset(name.strip() for name in self.bare_names.split(",") if name.strip())
        return "*" if "*" in names else names

    @property
    def excepted_networks(self) -> tuple[Network, ...]:
        """`hosted_networks` as `hosted.allowed_addresses` wants it."""
        return tuple(ip_network(text.strip()) for text in self.hosted_networks.split(",") if text.strip())

    @property
    def proxy_address(self) -> tuple[str, int] | None:
        """Host and port of the proxy."""
        host, _, port = self.proxy.partition(":")
        return (host, int(port)) if host else None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the settings; raises pydantic.ValidationError naming the variable that is wrong or unknown."""
        return cls.model_validate(
            {key.removeprefix(PREFIX).lower(): value for key, value in env.items() if key.startswith(PREFIX)}
        )
