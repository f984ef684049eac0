"""A namespace of the test cluster: apply models, look at objects, ask the gateway, keep a steady load."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai

from local import Cluster, product

Json = dict[str, Any]


class Site:
    """One namespace of a cluster on which the product runs."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        host, port = product.gateway_address(cluster)
        self.url = f"http://{host}:{port}"

    # --- objects ---
    def apply(self, name: str, spec: Json) -> None:
        """Apply an AXModel as a user does."""
        manifest = {
            "apiVersion": "serving.axmodel.io/v1alpha1",
            "kind": "AXModel",
            "metadata": {"name": name},
            "spec": spec,
        }
        self.kubectl("apply", "-f", "-", input=json.dumps(manifest))

    def kubectl(self, *args: str, **options: Any) -> str:
        """Run kubectl in this namespace."""
        return self.cluster.kubectl("-n", self.namespace, *args, **options)

    def items(self, kind: str, *args: str) -> list[Json]:
        """Return objects of a kind."""
        found: list[Json] = json.loads(self.kubectl("get", kind, "-o", "json", *args))["items"]
        return found

    def names(self, kind: str, *args: str) -> list[str]:
        """Return the names of objects of a kind."""
        return sorted(o["metadata"]["name"] for o in self.items(kind, *args))

    def model(self, name: str) -> Json:
        """Return an AXModel."""
        return product.model(self.cluster, self.namespace, name)

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        """Return (status, reason) of a model's condition."""
        found = product.condition(self.model(name), kind)
        return found.get("status", "-"), found.get("reason", "-")

    def ready(self, name: str, patience: float = 180) -> Json:
        """Wait until a model is Ready for its newest spec, and nothing goes on behind it."""

        def settled() -> bool:
            found = self.model(name)
            current = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
            ready = product.condition(found, "Ready").get("status") == "True"
            return current and ready and not product.condition(found, "Reconciling")

        product.until(f"AXModel {name} Ready and settled", settled, patience=patience)
        return self.model(name)

    def until_condition(self, name: str, kind: str, reason: str, patience: float = 90) -> str:
        """Wait for a condition's reason; return its message."""
        product.until(
            f"{kind} of {name} with reason {reason}",
            lambda: self.condition(name, kind)[1] == reason,
            patience=patience,
        )
        return str(product.condition(self.model(name), kind).get("message", ""))

    def pods(self, component: str = "serving", model: str | None = None) -> list[Json]:
        """Return the pods of a component, of one model or of all."""
        labels = f"app.kubernetes.io/component={component}"
        return self.items("pods", "-l", labels + (f",serving.axmodel.io/model={model}" if model else ""))

    def store(self) -> Path:
        """Return the folder behind the claim `ax-engines`."""
        volume = self.items("pvc", "--field-selector=metadata.name=ax-engines")[0]["spec"]["volumeName"]
        found = json.loads(self.cluster.kubectl("get", "pv", volume, "-o", "json"))
        return Path(found["spec"]["hostPath"]["path"])

    # --- requests ---
    def client(self, **options: Any) -> openai.OpenAI:
        """Return the official client, pointed at the gateway; it never retries."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120, **options)

    def ask(self, model: str, question: str = "What is the capital of Korea? Answer in one sentence.") -> str:
        """Return the model's answer, streamed through the gateway."""
        messages: Any = [{"role": "user", "content": question}]
        with self.client() as client:
            stream = client.chat.completions.create(
                model=model, messages=messages, stream=True, temperature=0, max_tokens=40
            )
            return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)

    @contextmanager
    def load(self, model: str, workers: int = 2, tokens: int = 8) -> Iterator[Counter[str]]:
        """Keep asking in the background, bounded to ten minutes; yields a count by outcome."""
        stop, outcomes = threading.Event(), Counter[str]()
        limit = time.monotonic() + 600

        def work() -> None:
            while not stop.is_set() and time.monotonic() < limit:
                outcomes[self._one(model, tokens)] += 1
                stop.wait(0.05)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            yield outcomes
        finally:
            stop.set()
            for thread in threads:
                thread.join(timeout=150)

    def _one(self, model: str, tokens: int) -> str:
        messages: Any = [{"role": "user", "content": "Count to five."}]
        try:
            with self.client() as client:
                stream = client.chat.completions.create(model=model, messages=messages, stream=True, max_tokens=tokens)
                finishes = [c.choices[0].finish_reason for c in stream if c.choices]
        except openai.APIStatusError as error:
            return f"{error.status_code} {error.message[:200]}"
        except (openai.APIError, httpx.HTTPError) as error:
            return f"{type(error).__name__} {error}"[:200]
        return "ok" if finishes and finishes[-1] else "cut"

    # --- the operator ---
    def kill_operator(self) -> None:
        """End the operator's process with SIGKILL, from outside its container."""
        text = self.cluster.kubectl(
            "-n", product.NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/component=operator", "-o", "json"
        )
        uids = [p["metadata"]["uid"] for p in json.loads(text)["items"]]
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                inside = (folder / "cgroup").read_text()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # it ended while we looked
            if b"ax_operator" in command and any(uid in inside for uid in uids):
                os.kill(int(folder.name), signal.SIGKILL)

    def scale_operator(self, replicas: int) -> None:
        """Scale the operator's Deployment and wait until it is so."""
        where = ("-n", product.NAMESPACE)
        self.cluster.kubectl(*where, "scale", "deployment/ax-operator", f"--replicas={replicas}")

        def there() -> bool:
            text = self.cluster.kubectl(
                *where, "get", "pods", "-l", "app.kubernetes.io/component=operator", "-o", "json"
            )
            pods = json.loads(text)["items"]
            up = [s for p in pods for s in p["status"].get("containerStatuses") or () if s["ready"]]
            return len(pods) == len(up) == replicas

        product.until(f"{replicas} operators", there, patience=90)
