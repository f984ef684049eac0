"""The demo: a local Kubernetes, the operator, a model, an answer. Run again it is quick and changes nothing."""

import sys

from local import images, product
from local.cluster import Cluster
from local.paths import ROOT
from local.progress import say, step

WHERE = "demo"
NAME = "smollm2"
QUESTION = "What is the capital of Korea? Answer in one sentence."


def run() -> None:
    """Show the way from nothing to a streamed answer; raises LocalError with what is missing."""
    cluster = Cluster.up("demo", "node")
    product.load_images(cluster)
    with step("Installing the chart"):
        product.install(cluster)
    product.namespace(cluster, WHERE)
    manifest = (ROOT / "examples" / "demo.yaml").read_text()
    if not product.model(cluster, WHERE, NAME):
        with step("Copying the model's file onto a claim"):
            product.model_claim(cluster, WHERE, {product.MODEL_FILE: images.demo_model()})
    cluster.kubectl("-n", WHERE, "apply", "--server-side", "-f", "-", input=manifest)
    product.wait_ready(cluster, WHERE, NAME)
    host, port = product.gateway_address(cluster)
    url = f"http://{host}:{port}"
    _ask(host, port)
    _next_steps(cluster, url)


def _ask(host: str, port: int) -> None:
    say(f"\nAsking the gateway: {QUESTION}\n")
    for piece in product.chat((host, port), NAME, QUESTION):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _next_steps(cluster: Cluster, url: str) -> None:
    body = f'{{"model": "{NAME}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    say(
        f"""
The cluster stays up; plain HTTP, because a demo has no certificate (tls.insecure). Try next:

  export KUBECONFIG={cluster.kubeconfig}
  kubectl get axm,axe -A
  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'
  kubectl -n {WHERE} scale axm {NAME} --replicas 0    # the next request waits until it is back at 1
  make down                                          # leaves nothing behind
"""
    )
