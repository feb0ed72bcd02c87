"""Checks the files of deploy/ against the published schemas: Kubernetes, KEDA, the Prometheus operator, Compose.

The Helm chart is linted and rendered with several sets of values; each result is checked as the files are, and
deploy/kubernetes must be what it renders to by default.

Run by scripts/check in a Python environment of its own. Prints what is wrong and exits 1; says what it skips.
"""

import importlib
import pathlib
import re
import subprocess
import sys
from shutil import which

import chart
import helm_python
import kubernetes_validate
import pydantic
import yaml

DEPLOY = pathlib.Path(__file__).parent
ROOT = DEPLOY.parent
KUBERNETES = "1.34"
# The published models of custom resources.
MODELS = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}
problems = []


def check_resource(origin, resource):
    kind, version = resource["kind"], resource["apiVersion"]
    name = f"{origin}: {kind} {resource['metadata']['name']}"
    try:
        if version in MODELS:
            model = getattr(importlib.import_module(MODELS[version]), kind)
            model.model_validate(resource, extra="forbid")
        else:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, pydantic.ValidationError) as error:
        problems.append(f"{name}: {str(error)[:600]}")


def check_kubernetes():
    """Checks the manifests for kubectl."""
    kustomization = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    resources = []
    for name in kustomization["resources"]:
        file = DEPLOY / "kubernetes" / name
        resources += yaml.safe_load_all(file.read_text())
    job = yaml.safe_load((DEPLOY / "kubernetes/migrate.yaml").read_text())
    check_resources("deploy/kubernetes", [*resources, job])
    check_secrets("deploy/kubernetes", [*resources, job], {})
    for name in chart.stale():
        problems.append(f"deploy/kubernetes/{name} is not what the chart renders to: run deploy/chart.py")
    return len(resources) + 1


# Values that change as much as possible.
EVERYTHING = {
    "image": {"repository": "registry.example/chat", "tag": "", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {"queue.partitions": 16, "log.format": "json", "edge.allowed_origins": ["https://a.example", "https://b.example"]},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "secrets": {"addresses": "other-addresses", "edge": "other-tokens", "worker": "other-providers"},
    "podLabels": {"team": "chat"},
    "podAnnotations": {"example.com/a": "1"},
    "priorityClassName": "high",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "chat", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
    "serviceAccountName": "chat",
    "edge": {
        "settings": {"edge.trusted_proxies": ["10.0.0.0/8", "192.168.0.0/16"]},
        "tlsSecretName": "edge-tls",
        "extraEnv": [{"name": "CHAT__LOG__LEVEL", "valueFrom": {"configMapKeyRef": {"name": "chat", "key": "level"}}}],
        "podAnnotations": {"example.com/b": "2"},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"},
            {"maxSkew": 2, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"},
        ],
        "service": {"type": "LoadBalancer", "port": 443, "annotations": {"example.com/c": "3"}},
    },
    "worker": {"settings": {"worker.concurrency": 4}, "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"},
    ]},
    "ingress": {"enabled": True, "className": "", "hosts": ["a.example", "b.example"]},
    "podMonitor": {"labels": {"release": "prometheus"}},
}
# Values that leave out as much as possible.
NOTHING = {
    "edge": {"autoscaling": {"enabled": False}, "replicas": 1, "settings": None, "topologySpreadConstraints": []},
    "worker": {"keda": {"enabled": False}, "replicas": 2},
    "migrate": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "podMonitor": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
}
# Values that the chart's schema refuses.
REFUSED = [
    {"edge": {"replica": 3}},
    {"settings": {"CHAT__EDGE__DRAIN": "5s"}},
    {"image": {"pullPolicy": "Sometimes"}},
    {"ingress": {"enabled": True, "hosts": []}},
    {"worker": {"keda": {"prometheus": "prometheus:9090"}}},
    {"secretName": "chat"},
    {"secrets": {"edge": ""}},
]


def check_chart():
    """Lints the chart, renders it with several sets of values, and checks the results."""
    linted = helm_python.lint(str(chart.CHART), strict=True)
    for message in linted["messages"]:
        # 2 is a warning, 3 an error.
        if message["severity"] >= 2:
            problems.append(f"helm lint: {message['path']}: {message['error']}")
    problems.extend(f"helm lint: {error}" for error in linted["errors"])
    count = 0
    for origin, release, values in [("defaults", "chat", {}), ("everything", "other", EVERYTHING), ("nothing", "x", NOTHING)]:
        try:
            texts = chart.render(values, release)
        except helm_python.HelmError as error:
            problems.append(f"the chart with values `{origin}`: {error}")
            continue
        resources = [r for text in texts.values() for r in yaml.safe_load_all(text)]
        check_resources(f"the chart with values `{origin}`", resources)
        check_secrets(f"the chart with values `{origin}`", resources, values.get("secrets", {}))
        names = {r["metadata"]["name"] for r in resources}
        problems.extend(f"{name}: not a name of the release {release}" for name in names if name.split("-")[0] != release)
        count += len(resources)
    for values in REFUSED:
        try:
            chart.render(values)
            problems.append(f"values.schema.json accepts {values}")
        except helm_python.HelmError:
            pass
    return count


def check_secrets(origin, resources, values):
    """Each pod has the addresses and the Secrets of its role, no others."""
    secrets = yaml.safe_load((chart.CHART / "values.yaml").read_text())["secrets"] | values
    for resource in resources:
        for container in resource["spec"].get("template", {}).get("spec", {}).get("containers", []):
            role = container["name"]
            wanted = [secrets["addresses"], secrets.get(role)]
            found = [source["secretRef"]["name"] for source in container["envFrom"]]
            if found != [name for name in wanted if name]:
                problems.append(f"{origin}: {role} has the Secrets {found}")


def check_resources(origin, resources):
    """Checks each resource against its schema, then the references between them."""
    for resource in resources:
        check_resource(origin, resource)
    deployments = {r["metadata"]["name"]: r for r in resources if r["kind"] == "Deployment"}
    for resource in resources:
        target = resource["spec"].get("scaleTargetRef", {}).get("name")
        if target and target not in deployments:
            problems.append(f"{origin}: {resource['kind']} scales {target}, which is no Deployment here")
        selector = resource["spec"].get("selector") or resource["spec"].get("podSelector") or {}
        labels = selector.get("matchLabels")
        if labels and not any(
            labels.items() <= d["spec"]["template"]["metadata"]["labels"].items() for d in deployments.values()
        ):
            problems.append(f"{origin}: {resource['kind']} selects {labels}, which no Deployment has")
        rules = resource["spec"].get("rules", []) if resource["kind"] == "Ingress" else []
        for path in (path for rule in rules for path in rule["http"]["paths"]):
            service = path["backend"]["service"]["name"]
            if not any(r["kind"] == "Service" and r["metadata"]["name"] == service for r in resources):
                problems.append(f"{origin}: the Ingress forwards to {service}, which is no Service here")
        pod = resource["spec"].get("template", {}).get("spec", {})
        for container in pod.get("containers", []):
            problems.extend(f"{origin}: {problem}" for problem in unsafe(resource, pod, container))


def unsafe(resource, pod, container):
    """What a pod may not do without."""
    name, security = resource["metadata"]["name"], container.get("securityContext", {})
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield f"{name} may run as root"
    if not security.get("readOnlyRootFilesystem") or security.get("allowPrivilegeEscalation") is not False:
        yield f"{name} has a writable file system, or privilege escalation"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield f"{name} has no limit of memory"
    if resource["kind"] == "Deployment" and not {"livenessProbe", "startupProbe"} <= container.keys():
        yield f"{name} lacks probes"
    names = [entry["name"] for entry in container.get("env", [])]
    if len(names) != len(set(names)):
        yield f"{name} sets a variable twice: {names}"


def check_metrics():
    """Every metric in a query exists in the program."""
    declared = set(re.findall(r'"(chat_[a-z_]+)"', (ROOT / "src/telemetry.rs").read_text()))
    for file in DEPLOY.rglob("*.yaml"):
        queries = re.findall(r"^\s*query: (.*)$", file.read_text(), re.MULTILINE)
        for metric in re.findall(r"\bchat_[a-z_]+", " ".join(queries)):
            if metric not in declared:
                problems.append(f"{file.relative_to(ROOT)} asks for {metric}, which src/telemetry.rs does not declare")


def check_settings():
    """Every setting in the environment exists in config.toml."""
    section, keys = "", set()
    for line in (ROOT / "config.toml").read_text().splitlines():
        if header := re.match(r"\[([\w.]+)\]", line):
            section = header[1].replace(".", "__")
        elif key := re.match(r"(\w+) = ", line):
            keys.add(f"{section}__{key[1]}".upper())
    for file in [*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.md"), DEPLOY / "Dockerfile"]:
        text = file.read_text()
        for name in re.findall(r"CHAT__([A-Z_]+[A-Z])", text):
            if name not in keys:
                problems.append(f"{file.relative_to(ROOT)} sets CHAT__{name}, which config.toml does not have")
    # The maps `settings` of the chart.
    for name in re.findall(r"^ +([a-z]+(?:\.[a-z_]+)+): ", (chart.CHART / "values.yaml").read_text(), re.MULTILINE):
        if name.replace(".", "__").upper() not in keys and "kubernetes.io" not in name:
            problems.append(f"the chart's values set {name}, which config.toml does not have")


def check_compose():
    file = DEPLOY / "compose.yaml"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        problems.append(done.stdout + done.stderr)
    docker = which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        print("skipped: `docker compose config`, since that client is not here")
        return
    environment = {"CHAT_SECRET": "x", "CHAT_PASSWORD": "x", "PATH": str(pathlib.Path(docker).parent)}
    command = [docker, "compose", "-f", str(file), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        problems.append(done.stderr)


count = check_kubernetes() + check_chart()
check_metrics()
check_settings()
check_compose()
for problem in problems:
    print(problem)
print(f"{count} Kubernetes resources and one compose file: {'not ' if problems else ''}good")
sys.exit(1 if problems else 0)
