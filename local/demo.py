"""The demo: a local Kubernetes, the operator, a model, an answer. Run again it is quick and changes nothing."""

import sys

from local import hosted, images, product
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
    new = not product.model(cluster, WHERE, NAME)
    if new:
        with step("Copying the model's file onto a claim"):
            product.model_claim(cluster, WHERE, {product.MODEL_FILE: images.demo_model()})
        _apply(cluster, "demo.yaml")
        product.wait_ready(cluster, WHERE, NAME)
        _ask(cluster)
    with step("Putting a stand-in for a hosted API beside it"):
        hosted.start(cluster, WHERE)
    _apply(cluster, "demo-hybrid.yaml")
    product.wait_ready(cluster, WHERE, NAME)
    if new:
        _show_hybrid(cluster)
    else:
        _ask(cluster)
    _next_steps(cluster)


def _apply(cluster: Cluster, example: str) -> None:
    manifest = (ROOT / "examples" / example).read_text()
    cluster.kubectl("-n", WHERE, "apply", "--server-side", "-f", "-", input=manifest)


def _show_hybrid(cluster: Cluster) -> None:
    """Scale to zero and back; the hosted API answers meanwhile, and what it cost is in the books."""
    with step("Scaling to zero replicas"):
        _scale(cluster, 0)
        product.until("no replica", lambda: product.ready_replicas(cluster, WHERE, NAME) == 0, patience=90)
    _ask(cluster)
    _scale(cluster, 1)
    say("\nScaled to one replica; until it is ready:")
    _ask(cluster)
    product.wait_ready(cluster, WHERE, NAME)
    _ask(cluster)
    with step("Waiting for the ledger, which gateways write every ten seconds"):
        product.until("the spending", lambda: hosted.NAME in cluster.kubectl(*hosted.SPEND), patience=60)
    say("\n" + cluster.kubectl(*hosted.SPEND))


def _scale(cluster: Cluster, replicas: int) -> None:
    cluster.kubectl("-n", WHERE, "scale", "axmodel", NAME, f"--replicas={replicas}")


def _ask(cluster: Cluster) -> None:
    who, pieces = product.chat(product.gateway_address(cluster), NAME, QUESTION)
    say(f"\nAsking the gateway: {QUESTION}\nAnswered by {who}:\n")
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _next_steps(cluster: Cluster) -> None:
    host, port = product.gateway_address(cluster)
    body = f'{{"model": "{NAME}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    say(
        f"""
The cluster stays up; plain HTTP, because a demo has no certificate (tls.insecure). Try next:

  export KUBECONFIG={cluster.kubeconfig}
  kubectl get axm,axe,axh -A
  curl -iN http://{host}:{port}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'
  kubectl -n {WHERE} scale axm {NAME} --replicas 0    # hosted answers until it is back at 1: see x-ax-served-by
  kubectl {" ".join(hosted.SPEND)}
  make down                                          # leaves nothing behind
"""
    )
