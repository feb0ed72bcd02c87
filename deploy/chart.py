"""Renders the chart deploy/helm/chat with the Helm SDK, which the package helm-python-sdk contains.

As a program, it writes the manifests for kubectl: the chart's defaults with an ingress, as deploy/kubernetes/*.yaml.
validate.py fails while they differ from the chart. Install deploy/requirements.txt first.
"""

import pathlib
import re
import sys

import helm_python
import yaml

DEPLOY = pathlib.Path(__file__).parent
CHART = DEPLOY / "helm/chat"
MANIFESTS = DEPLOY / "kubernetes"
# The names and values of deploy/kubernetes.
RELEASE = "chat"
VALUES = {"ingress": {"enabled": True}}
HEADER = "# Rendered from deploy/helm/chat by deploy/chart.py, with the chart's defaults. Changes are made there.\n"


def render(values, release=RELEASE):
    """The text of each template with these values, by its file's name; without notes and what renders to nothing."""
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name=release, namespace=release)
    texts = {}
    for path, text in rendered.items():
        name = path.rsplit("/", 1)[-1]
        # Actions leave empty lines and spaces behind.
        text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
        text = re.sub(r"\n{2,}", "\n", text).strip() + "\n"
        if name.endswith(".yaml") and any(yaml.safe_load_all(text)):
            texts[name] = text
    return texts


def manifests():
    """The content of each file of deploy/kubernetes that is rendered."""
    return {name: HEADER + text for name, text in render(VALUES).items()}


def stale():
    """The files of deploy/kubernetes that differ from the chart."""
    wanted = manifests()
    wrong = [name for name, text in wanted.items() if not (MANIFESTS / name).exists() or (MANIFESTS / name).read_text() != text]
    present = {file.name for file in MANIFESTS.glob("*.yaml") if file.name != "kustomization.yaml"}
    return sorted([*wrong, *(present - wanted.keys())])


if __name__ == "__main__":
    for name in stale():
        (MANIFESTS / name).unlink(missing_ok=True)
    for name, text in manifests().items():
        (MANIFESTS / name).write_text(text)
    print(f"{len(manifests())} files written to {MANIFESTS}")
    sys.exit(0)
