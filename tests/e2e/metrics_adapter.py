"""A stand-in for prometheus-adapter: Kubernetes' external metrics API, answered from the operator's own /metrics.

A pod and a Service that the API server's aggregation layer sends `external.metrics.k8s.io` to. Between it and the
operator there is no Prometheus; everything else on the way from a request to an HPA's replicas is real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local import Cluster, pki, product
from tests.e2e.site import Json

NAME = "metrics-adapter"
GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
PORT = 8443
OPERATOR = f"http://ax-operator.{product.NAMESPACE}.svc.cluster.local:8080/metrics"

_SERVER = """
import json, re, ssl, time, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
VERSION = "external.metrics.k8s.io/v1beta1"

def values(namespace, metric, selector):
    wanted = dict(part.split("=", 1) for part in selector.split(",") if part) | {"namespace": namespace}
    text = urllib.request.urlopen("OPERATOR", timeout=5).read().decode()
    for labels, value in re.findall("^" + re.escape(metric) + r"\\{(.*)\\} (\\S+)$", text, re.M):
        found = dict(re.findall(r'(\\w+)="([^"]*)"', labels))
        if wanted.items() <= found.items():
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            number = f"{round(float(value) * 1000)}m"
            yield {"metricName": metric, "metricLabels": found, "timestamp": now, "value": number}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        url = urlsplit(self.path)
        found = re.fullmatch("/apis/" + VERSION + "/namespaces/([^/]+)/([^/]+)", url.path)
        status = 200
        if found:
            selector = parse_qs(url.query).get("labelSelector", [""])[0]
            body = {"kind": "ExternalMetricValueList", "apiVersion": VERSION, "metadata": {}}
            body["items"] = list(values(*found.groups(), selector))
        elif url.path == "/apis/" + VERSION:
            body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION, "resources": []}
        else:
            body, status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}, 404
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

server = ThreadingHTTPServer(("", PORT), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/adapter/tls.crt", "/adapter/tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@contextmanager
def external_metrics(cluster: Cluster, namespace: str, folder: Path) -> Iterator[None]:
    """Serve the external metrics API from a pod in a namespace; unregistered at the end, since it goes with it."""
    pki.make_authority(folder)
    pki.issue(folder, "tls", "/CN=adapter", (f"{NAME}.{namespace}.svc",))
    objects = _objects(namespace, folder)
    items = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    cluster.kubectl("apply", "--server-side", "-f", "-", input=items)
    service = f"apiservice/{VERSION}.{GROUP}"
    try:
        cluster.kubectl("wait", "--for=condition=Available", "--timeout=60s", service)
        yield
    finally:
        cluster.kubectl("delete", service, "--ignore-not-found")


def _objects(namespace: str, folder: Path) -> list[Json]:
    labels = {"app": NAME}
    meta = {"name": NAME, "namespace": namespace, "labels": labels}
    script = _SERVER.replace("OPERATOR", OPERATOR).replace("PORT", str(PORT))
    files = {name: (folder / name).read_text() for name in ("tls.crt", "tls.key")}
    program = ("python3", "-u", "/adapter/adapter.py")
    secret = {"secret": {"secretName": NAME}}
    pod = product.python_pod(program, "/adapter", secret, PORT, terminationGracePeriodSeconds=0)
    registered = {
        "group": GROUP,
        "version": VERSION,
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "service": {"name": NAME, "namespace": namespace, "port": PORT},
        "insecureSkipTLSVerify": True,
    }
    service = {"selector": labels, "ports": [{"port": PORT}]}
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {**files, "adapter.py": script}},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service},
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod},
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{VERSION}.{GROUP}"},
            "spec": registered,
        },
    ]
