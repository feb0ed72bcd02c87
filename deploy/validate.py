"""Checks the files of deploy/ against the published schemas: Kubernetes, KEDA, the Prometheus operator, Compose.

Run by scripts/check in a Python environment of its own. Prints what is wrong and exits 1; says what it skips.
"""

import importlib
import pathlib
import re
import subprocess
import sys
from shutil import which

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


def check_resource(file, resource):
    kind, version = resource["kind"], resource["apiVersion"]
    name = f"{file.relative_to(ROOT)}: {kind} {resource['metadata']['name']}"
    try:
        if version in MODELS:
            model = getattr(importlib.import_module(MODELS[version]), kind)
            model.model_validate(resource, extra="forbid")
        else:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, pydantic.ValidationError) as error:
        problems.append(f"{name}: {str(error)[:600]}")


def check_kubernetes():
    """Checks each resource against its schema, then the references between them."""
    kustomization = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    resources = []
    for name in kustomization["resources"]:
        file = DEPLOY / "kubernetes" / name
        for resource in yaml.safe_load_all(file.read_text()):
            check_resource(file, resource)
            resources.append(resource)
    deployments = {r["metadata"]["name"]: r for r in resources if r["kind"] == "Deployment"}
    for resource in resources:
        target = resource["spec"].get("scaleTargetRef", {}).get("name")
        if target and target not in deployments:
            problems.append(f"{resource['kind']} scales {target}, which is no Deployment here")
        labels = resource["spec"].get("selector", {}).get("matchLabels")
        if labels and not any(
            labels.items() <= d["spec"]["template"]["metadata"]["labels"].items() for d in deployments.values()
        ):
            problems.append(f"{resource['kind']} selects {labels}, which no Deployment has")
    return len(resources)


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
        if header := re.match(r"\[(\w+)\]", line):
            section = header[1]
        elif key := re.match(r"(\w+) = ", line):
            keys.add(f"{section}__{key[1]}".upper())
    for file in [*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.md"), DEPLOY / "Dockerfile"]:
        for name in re.findall(r"CHAT__([A-Z_]+[A-Z])", file.read_text()):
            if name not in keys:
                problems.append(f"{file.relative_to(ROOT)} sets CHAT__{name}, which config.toml does not have")


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


count = check_kubernetes()
check_metrics()
check_settings()
check_compose()
for problem in problems:
    print(problem)
print(f"{count} Kubernetes resources and one compose file: {'not ' if problems else ''}good")
sys.exit(1 if problems else 0)
