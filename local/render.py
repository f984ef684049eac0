"""Every flag and configuration file of a cluster, as a pure function of its `Layout`."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from local.address import Addresses

Mode = Literal["control-plane", "node"]
PROXY_HEALTH_PORT = 10256
KWOK_ANNOTATION = "kwok.x-k8s.io/node=fake"
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What the kubelet wants to find under /proc/sys; it is shown these instead of changing the host's."""


@dataclass(frozen=True)
class Layout:
    """What the rendered text depends on; paths are absolute."""

    name: str
    mode: Mode
    kwok: bool
    addresses: Addresses
    port: int
    """Port of the API server."""
    folder: str
    """The cluster's state folder: every component's working directory."""
    images: str
    """containerd's root, kept between clusters."""
    python: str

    @property
    def node(self) -> str:
        """Name of the real node."""
        return f"{self.name}-node"

    @property
    def api_host(self) -> str:
        """The address on which the API server is reached from the host."""
        return self.addresses.node_ip if self.mode == "node" else "127.0.0.1"

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.api_host}:{self.port}"


@dataclass(frozen=True)
class Component:
    """A program that the supervisor keeps running; `after_api` ones start when the API server is ready."""

    name: str
    argv: tuple[str, ...]
    after_api: bool = True


def components(layout: Layout) -> tuple[Component, ...]:
    """Return what runs in this cluster, in starting order."""
    found = [_etcd(layout), _api_server(layout), _controllers(layout), _scheduler()]
    if layout.mode == "node":
        containerd = ("containerd", "--config", "containerd.toml")
        found.insert(0, Component("containerd", containerd, after_api=False))
        found += [
            _kubelet(layout),
            Component("kube-proxy", ("bin/kube-proxy", "--config=proxy.json")),
            Component("coredns", ("bin/coredns", "-conf", "Corefile")),
        ]
    found.append(Component("volumes", (layout.python, "-m", "local.volumes", layout.folder)))
    if layout.kwok:
        found.append(_kwok(layout))
    return tuple(found)


def _etcd(layout: Layout) -> Component:
    # Unix sockets in a private folder: no port to find, and nobody else on the machine can connect.
    flags = (
        "--name=local", "--data-dir=etcd",
        "--listen-client-urls=unix://etcd.sock:0", "--advertise-client-urls=unix://etcd.sock:0",
        "--listen-peer-urls=unix://peer.sock:0", "--initial-advertise-peer-urls=http://127.0.0.1:1",
        "--initial-cluster=local=http://127.0.0.1:1",
        # The data live as long as the cluster; a lone member may elect itself at once.
        "--unsafe-no-fsync", "--heartbeat-interval=20", "--election-timeout=200", "--log-level=warn",
    )  # fmt: skip
    return Component("etcd", ("bin/etcd", *flags), after_api=False)


def _api_server(layout: Layout) -> Component:
    flags = [
        "--etcd-servers=unix://etcd.sock:0", f"--secure-port={layout.port}", f"--bind-address={layout.api_host}",
        "--tls-cert-file=pki/apiserver.crt", "--tls-private-key-file=pki/apiserver.key",
        "--client-ca-file=pki/ca.crt", "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
        "--service-account-key-file=pki/sa.pub", "--service-account-signing-key-file=pki/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-cluster-ip-range={layout.addresses.services}",
    ]  # fmt: skip
    if layout.mode == "node":
        flags += [
            f"--advertise-address={layout.addresses.node_ip}", "--kubelet-preferred-address-types=InternalIP",
            "--kubelet-client-certificate=pki/admin.crt", "--kubelet-client-key=pki/admin.key",
            "--kubelet-certificate-authority=pki/ca.crt",
        ]  # fmt: skip
    else:
        flags += ["--endpoint-reconciler-type=none", "--advertise-address=127.0.0.1"]
    return Component("kube-apiserver", ("bin/kube-apiserver", *flags), after_api=False)


def _controllers(layout: Layout) -> Component:
    flags = (
        "--kubeconfig=admin.kubeconfig", "--leader-elect=false", "--secure-port=0",
        "--service-account-private-key-file=pki/sa.key", "--root-ca-file=pki/ca.crt",
        # Shared credentials and a high rate: the default ServiceAccount exists seconds earlier.
        "--use-service-account-credentials=false", "--kube-api-qps=200", "--kube-api-burst=400",
        "--horizontal-pod-autoscaler-sync-period=2s",
        "--allocate-node-cidrs=false", f"--flex-volume-plugin-dir={layout.folder}/flex",
    )  # fmt: skip
    return Component("kube-controller-manager", ("bin/kube-controller-manager", *flags))


def _scheduler() -> Component:
    flags = ("--kubeconfig=admin.kubeconfig", "--leader-elect=false", "--secure-port=0")
    return Component("kube-scheduler", ("bin/kube-scheduler", *flags))


def _kubelet(layout: Layout) -> Component:
    flags = (
        "--config=kubelet.json", "--kubeconfig=node.kubeconfig", f"--root-dir={layout.folder}/kubelet",
        f"--cert-dir={layout.folder}/kubelet/pki", f"--hostname-override={layout.node}",
        f"--node-ip={layout.addresses.node_ip}",
    )  # fmt: skip
    return Component("kubelet", ("bin/kubelet", *flags))


def _kwok(layout: Layout) -> Component:
    # Without a node there is nowhere to route simulated pods to; a connection to a multicast address fails at
    # once on every machine, and the API server takes it as a pod's address.
    routed = layout.mode == "node"
    pods = layout.addresses.simulated_pods if routed else "239.77.0.1/20"
    host = layout.addresses.simulated_host if routed else "239.76.0.1"
    flags = (
        "--kubeconfig=admin.kubeconfig", "--config=kwok.yaml", "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={KWOK_ANNOTATION}", "--node-lease-duration-seconds=40",
        f"--cidr={pods}", f"--node-ip={host}",
    )  # fmt: skip
    return Component("kwok", ("bin/kwok", *flags))


def kubelet_config(layout: Layout) -> str:
    """Return the KubeletConfiguration; thresholds are low because the disk is shared with the host."""
    document: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": f"{layout.folder}/pki/ca.crt"},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "address": layout.addresses.node_ip,
        "tlsCertFile": f"{layout.folder}/pki/node.crt",
        "tlsPrivateKeyFile": f"{layout.folder}/pki/node.key",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.addresses.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "clusterDNS": [layout.addresses.node_ip],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{layout.folder}/resolv.conf",
        "podLogsDir": f"{layout.folder}/pod-logs",
        "volumePluginDir": f"{layout.folder}/flex",
        "makeIPTablesUtilChains": False,
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "10s",
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "healthzPort": 0,
    }
    return json.dumps(document, indent=1)


def proxy_config(layout: Layout) -> str:
    """Return the KubeProxyConfiguration; conntrack's limits belong to the whole machine and stay as they are."""
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": "admin.kubeconfig"},
        "mode": "nftables",
        "hostnameOverride": layout.node,
        "clusterCIDR": layout.addresses.pods,
        "healthzBindAddress": f"{layout.addresses.node_ip}:{PROXY_HEALTH_PORT}",
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        # With few Services a change may take effect at once instead of within a second.
        "nftables": {"minSyncPeriod": "50ms"},
    }
    return json.dumps(document, indent=1)


def containerd_config(layout: Layout) -> str:
    """Return containerd's configuration: own root, everything else under the private /run."""
    return f"""version = 2
root = "{layout.images}"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  # Without it a sandbox fails where the parent's score may not be lowered.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{layout.folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def pod_network(layout: Layout) -> str:
    """Return the CNI configuration: one veth pair per pod, routed, no bridge and no address translation."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": layout.addresses.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [{"type": "ptp", "ipMasq": False, "ipam": ipam}]
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}, indent=1)


def corefile(layout: Layout) -> str:
    """Return CoreDNS's configuration: names of this cluster, and NXDOMAIN at once for all others."""
    return f""".:53 {{
  bind {layout.addresses.node_ip}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {layout.folder}/admin.kubeconfig local
    ttl 2
  }}
  template ANY ANY . {{
    rcode NXDOMAIN
  }}
  cache 2
}}
"""
