"""What the chart renders: goldens, what it refuses, and that its parts mean what the programs read."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ax_gateway.settings import PREFIX
from ax_gateway.settings import Settings as GatewaySettings
from ax_operator.__main__ import main as operator_main
from ax_operator.api.names import COMPONENT, COMPONENT_GATEWAY, COMPONENT_OPERATOR
from ax_operator.plan.world import Settings
from ax_operator.settings import ProcessSettings, load

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "ax-operator"
DATA = ROOT / "tests" / "data" / "chart"
REGISTRY = ("--set", "image.registry=registry.example/team")
INSECURE = ("--set", "gateway.tls.insecure=true")
LEAST = (*REGISTRY, *INSECURE)


class Readable(yaml.SafeDumper):
    """Writes files inside of objects line by line."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Readable.add_representer(str, _text)


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def containers(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    pods = [o["spec"]["template"]["spec"] for o in objects if o["kind"] == "Deployment"]
    return {c["name"]: c for pod in pods for c in [*pod.get("initContainers", []), *pod["containers"]]}


def settings(objects: list[dict[str, Any]], folder: Path) -> tuple[Settings, ProcessSettings]:
    path = folder / "settings.yaml"
    path.write_text(one(objects, "ConfigMap", "ax-settings")["data"]["settings.yaml"])
    return load(path)


@pytest.mark.parametrize("case", ["least", "everything"])
def test_rendered_objects_are_the_golden_ones(case: str, render: Any) -> None:
    """With AX_GOLDEN=write the goldens are written anew; read the difference before you commit it."""
    everything = render("ax-operator", "--values", str(DATA / f"{case}.values.yaml"))
    elsewhere = {"CustomResourceDefinition", "ax-dashboards"}  # files of their own
    objects = [o for o in everything if not elsewhere & {o["kind"], o["metadata"]["name"]}]
    objects.sort(key=lambda o: (o["kind"], o["metadata"]["name"]))
    text = yaml.dump_all(objects, Dumper=Readable, sort_keys=True, allow_unicode=True, width=1000)
    golden = DATA / f"{case}.golden.yaml"
    if os.environ.get("AX_GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == text


def test_chart_passes_helms_lint(helm: Any) -> None:
    for chart in ("ax-operator", "ax-models"):
        done = helm("lint", "--strict", str(ROOT / "charts" / chart), *(LEAST if chart == "ax-operator" else ()))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "0 chart(s) failed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "image.registry is empty: push the images with `make images push REGISTRY=registry.example/team`"),
        (REGISTRY, "gateway.tls.secretName is empty: name a kubernetes.io/tls Secret of this namespace, or say aloud"),
        ((*LEAST, "--set", "gateway.replica=3"), "additional properties 'replica' not allowed"),
        ((*LEAST, "--set", "engineStore.accessMode=ReadOnlyMany"), "/engineStore/accessMode"),
        ((*LEAST, "--set", "engineStore.size=500"), "/engineStore/size"),
        ((*LEAST, "--set", "engineRetention=a week"), "/engineRetention"),
        ((*LEAST, "--set", "gateway.replicas=-1"), "/gateway/replicas"),
        ((*LEAST, "--set-json", 'toolchains=[]'), "/toolchains"),
        ((*LEAST, "--set-json", 'toolchains=[{"name": "x", "backends": ["llamacpp"]}]'), "/toolchains/0"),
        ((*LEAST, "--set-json", 'toolchains=[{"name": "x", "image": "x", "backends": [1]}]'), "/toolchains/0/backends"),
        ((*LEAST, "--set-json", 'endpoints=["https://me:secret@hub.example"]'), "/endpoints/0"),
        (("--set", "image.registry=https://registry.example"), "/image/registry"),
        ((*LEAST, "--set", "image.pullPolicy=Sometimes"), "/image/pullPolicy"),
        ((*LEAST, "--set-json", 'gateway.bareNames=["Models"]'), "/gateway/bareNames/0"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_a_message(helm: Any, arguments: tuple[str, ...], message: str) -> None:
    done = helm("template", "ax", str(CHART), *arguments)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("0s", 0), ("90s", 90), ("30m", 1800), ("12h", 43200), ("7d", 604800), ("5", 5)]
)
def test_engine_retention_is_read_as_seconds(render: Any, tmp_path: Path, text: str, seconds: int) -> None:
    found, _ = settings(render("ax-operator", *LEAST, "--set", f"engineRetention={text}"), tmp_path)
    assert found.engine_retention == seconds


def test_default_settings_are_those_of_the_program(render: Any, tmp_path: Path) -> None:
    found, process = settings(render("ax-operator", *LEAST), tmp_path)
    default = Settings(namespace="ax-system", engines_image="registry.example/team/ax-engines:0.1.0")
    changed = {"toolchains": found.toolchains, "gateway_replicas": 2}
    assert found == default.model_copy(update=changed)
    assert process == ProcessSettings()
    assert {t.name: t.backends for t in found.toolchains} == {
        "trtllm-1.2": ("tensorrt", "pytorch", "transformers"),
        "cpu": ("llamacpp",),
    }
    assert found.toolchains[0].builds_engines
    assert found.toolchains[0].image == "registry.example/team/ax-triton-tensorrt:0.1.0"


def test_every_setting_arrives(render: Any, tmp_path: Path) -> None:
    found, process = settings(render("ax-operator", "--values", str(DATA / "everything.values.yaml")), tmp_path)
    assert found.engines_image == "registry.example:5000/team/ax-engines:1.2.3"
    assert found.toolchains[0].model_optimizer == "/opt/model-optimizer"
    assert found.toolchains[1].image == "registry.example:5000/team/ax-triton:1.2.3"
    changed = {name for name, field in Settings.model_fields.items() if getattr(found, name) != field.default}
    assert changed == set(Settings.model_fields) - {"gateway_replicas"}, "the values must change every setting"
    assert (found.gateway_replicas, found.proxy["NO_PROXY"]) == (1, ".svc,10.0.0.0/8")
    assert (process.workers, process.resync_seconds) == (16, 600)


@pytest.mark.parametrize(("case", "port", "tls"), [("least", 8443, "required"), ("everything", 8080, "insecure")])
def test_agent_understands_its_environment(render: Any, case: str, port: int, tls: str) -> None:
    found = containers(render("ax-operator", "--values", str(DATA / f"{case}.values.yaml")))
    env = {e["name"]: e.get("value", "from-the-pod") for e in found["agent"]["env"] if e["name"].startswith(PREFIX)}
    agent = GatewaySettings.from_env(env)
    assert (agent.port, agent.tls, agent.api_port) == (port, tls, found["agent"]["ports"][0]["containerPort"])
    assert found["envoy"]["ports"][0]["containerPort"] == port
    folders = {mount["mountPath"] for mount in found["agent"]["volumeMounts"]}
    assert (str(agent.tls_folder) in folders) == (tls == "required")
    assert (agent.ca_bundle is not None) == (case == "everything")
    assert agent.ca_bundle is None or str(agent.ca_bundle.parent) in folders
    assert Path(agent.socket).parent == Path(agent.admin_socket).parent == Path("/run/ax")


def test_every_setting_of_the_agent_can_be_chosen(render: Any) -> None:
    found = containers(render("ax-operator", "--values", str(DATA / "everything.values.yaml")))
    env = {e["name"]: e.get("value", "from-the-pod") for e in found["agent"]["env"] if e["name"].startswith(PREFIX)}
    agent, fixed = GatewaySettings.from_env(env), {"socket", "admin_socket", "state_dir", "address", "tls_folder"}
    fixed |= {"api_port", "hold_port", "port", "patience", "replicas"}  # `replicas` is 1 in this case, and a default
    fixed |= {"envoy_memory", "connections"}  # told to what writes Envoy's bootstrap
    changed = {name for name, field in GatewaySettings.model_fields.items() if getattr(agent, name) != field.default}
    assert changed == set(GatewaySettings.model_fields) - fixed
    least = containers(render("ax-operator", *LEAST, "--set", "gateway.replicas=3"))["agent"]["env"]
    assert {"name": f"{PREFIX}REPLICAS", "value": "3"} in least


def test_operator_is_started_with_arguments_that_it_knows(
    render: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = containers(render("ax-operator", *LEAST))["operator"]
    assert operator["command"] == ["python3", "-m", "ax_operator", "run"]
    path = operator["args"][operator["args"].index("--settings") + 1]
    assert Path(path).parent == Path(operator["volumeMounts"][0]["mountPath"])
    missing = [str(tmp_path / "none.yaml") if a == path else a for a in operator["args"]]
    assert operator_main(["run", *missing]) == 2
    assert "cannot read the settings" in capsys.readouterr().err


def test_agent_is_a_sidecar_that_outlives_envoy_and_pods_have_time_for_the_longest_stream(render: Any) -> None:
    objects = render("ax-operator", *LEAST, "--set", "drainSeconds=900")
    pod = one(objects, "Deployment", "ax-gateway")["spec"]["template"]["spec"]
    assert [c["name"] for c in pod["initContainers"] if c.get("restartPolicy") == "Always"] == ["agent"]
    assert pod["terminationGracePeriodSeconds"] > 900
    agent = containers(objects)["agent"]
    assert {"name": "AX_GATEWAY_DRAIN_SECONDS", "value": "900"} in agent["env"]
    assert agent["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert containers(objects)["envoy"]["lifecycle"]["preStop"]["httpGet"]["path"] == "/drain"


def test_only_what_asks_the_api_server_has_a_token(render: Any) -> None:
    objects = render("ax-operator", *LEAST)
    assert all(o["automountServiceAccountToken"] is False for o in objects if o["kind"] == "ServiceAccount")
    holders = {
        name
        for name, container in containers(objects).items()
        if any("serviceaccount" in mount["mountPath"] for mount in container["volumeMounts"])
    }
    assert holders == {"operator", "agent"}


def test_a_changed_setting_rolls_the_operator(render: Any) -> None:
    def checksum(*arguments: str) -> str:
        objects = render("ax-operator", *LEAST, *arguments)
        template = one(objects, "Deployment", "ax-operator")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/settings"])

    assert checksum() == checksum()
    assert checksum() != checksum("--set", "engineRetention=1h")


def test_components_carry_the_labels_that_policies_of_models_admit(render: Any) -> None:
    objects = render("ax-operator", *LEAST)
    for component in (COMPONENT_OPERATOR, COMPONENT_GATEWAY):
        deployment = one(objects, "Deployment", f"ax-{component}")["spec"]
        assert deployment["template"]["metadata"]["labels"][COMPONENT] == component
        assert deployment["selector"]["matchLabels"][COMPONENT] == component
    assert one(objects, "Deployment", "ax-operator")["spec"]["strategy"] == {"type": "Recreate"}


def test_roles_have_no_wildcard_and_secrets_only_where_a_namespace_opts_in(render: Any) -> None:
    objects = render("ax-operator", "--values", str(DATA / "everything.values.yaml"))
    roles = [o for o in objects if o["kind"] in ("ClusterRole", "Role")]
    assert len(roles) >= 3
    with_secrets = set()
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in json.dumps([rule.get(k) for k in ("apiGroups", "resources", "verbs", "nonResourceURLs")])
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            if any(r.startswith("secrets") for r in rule["resources"]):
                with_secrets.add((role["kind"], role["metadata"]["name"], *rule["verbs"]))
    own = ("Role", "ax-gateway", "get", "list", "watch")
    assert with_secrets == {("ClusterRole", "ax-operator-secrets", "get"), own}
    bound = {
        (o["kind"], o["metadata"].get("namespace"))
        for o in objects
        if o.get("roleRef", {}).get("name") == "ax-operator-secrets"
    }
    assert bound == {("RoleBinding", "models"), ("RoleBinding", "search")}


def test_crds_come_and_stay_as_the_values_say(render: Any) -> None:
    def found(*arguments: str) -> list[dict[str, Any]]:
        return [o for o in render("ax-operator", *LEAST, *arguments) if o["kind"] == "CustomResourceDefinition"]

    plain = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    rendered = sorted(found(), key=lambda o: str(o["metadata"]["name"]))
    assert [o["spec"] for o in rendered] == [o["spec"] for o in plain]
    assert all(o["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for o in rendered)
    assert all("annotations" not in o["metadata"] for o in found("--set", "crds.keep=false"))
    assert found("--set", "crds.enabled=false") == []


def test_release_and_namespace_may_have_any_name(render: Any) -> None:
    objects = render("ax-operator", *LEAST, release="blue", namespace="serving")
    kinds = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    assert {o["metadata"].get("namespace") for o in objects if o["kind"] not in kinds} == {"serving"}
    assert "ax-system" not in json.dumps(objects)


def test_dashboards_and_alerts_are_valid(render: Any) -> None:
    objects = render("ax-operator", *LEAST, "--set", "dashboards.enabled=true", "--set", "alerts.enabled=true")
    boards = one(objects, "ConfigMap", "ax-dashboards")["data"]
    assert boards
    assert all(json.loads(text)["panels"] for text in boards.values())
    rules = yaml.safe_load(one(objects, "ConfigMap", "ax-alerts")["data"]["ax.rules.yaml"])
    anchors = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").lower()
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert {"alert", "expr", "labels", "annotations"} <= rule.keys()
            title = rule["annotations"]["runbook"].partition("#")[2].replace("-", " ")
            assert f"## {title}" in anchors


def test_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for chart in ("ax-operator", "ax-models"):
        assert yaml.safe_load((ROOT / "charts" / chart / "Chart.yaml").read_text())["appVersion"] == project
