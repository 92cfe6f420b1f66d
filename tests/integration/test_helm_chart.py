"""
The Helm chart, rendered and judged by Helm's own code.

Its resources are those of ``nix/kubernetes/single.yaml``, which the tests of the manifests
check; values change only what they name.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from twisted.trial.unittest import SynchronousTestCase

from nixery.config.load import load_config
from nixery.version import VERSION
from tests.support.documentation import sections

MACHINE = platform.machine()

if MACHINE == "x86_64":
    import helm_python

CHECKOUT = Path(__file__).resolve().parents[2]
CHART = CHECKOUT / "nix" / "kubernetes" / "chart"
SINGLE = CHECKOUT / "nix" / "kubernetes" / "single.yaml"

ADDED = {"labels", "matchLabels", "selector", "helm.sh/resource-policy", "checksum/configuration"}
"""Keys of a release that a manifest without Helm does not have, or has with other values."""

VALUES = {
    "host": "images.example.org",
    "image": {"repository": "images.example.org/tools/nixery", "tag": "2"},
    "imagePullSecrets": [{"name": "login"}],
    "config": {"channel": "nixos-25.05", "auth_rules": {"alice": ["shell", "git"]}},
    "htpasswdSecret": "users",
    "persistence": {"existingClaim": "disk"},
    "ingress": {"className": "nginx", "annotations": {"cert-manager.io/cluster-issuer": None}},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "builder", "operator": "Exists"}],
}


def plain(value: Any) -> Any:
    """A resource without what only a release has."""
    if isinstance(value, Mapping):
        kept = {key: plain(each) for key, each in value.items() if key not in ADDED}
        return {key: each for key, each in kept.items() if each != {}}
    return [plain(each) for each in value] if isinstance(value, list) else value


class ChartTests(SynchronousTestCase):
    """Tests of the chart, which Helm renders."""

    if MACHINE != "x86_64":
        skip = "Helm's library is on PyPI for x86_64 only"

    def render(self, values: Mapping[str, Any], name: str = "nixery") -> dict[str, dict[str, Any]]:
        """The resources of a release, by kind."""
        with helm_python.Chart.load(CHART) as chart:
            chart.validate_schema(dict(values))
            rendered = chart.render(dict(values), name=name, namespace="nixery")
        documents = [
            yaml.safe_load(text) for path, text in rendered.items() if path.endswith(".yaml")
        ]
        return {each["kind"]: each for each in documents if each}

    def test_helm_finds_no_fault(self) -> None:
        """Helm's linter finds no fault, with the defaults and with other values."""
        for values in ({}, VALUES):
            report = helm_python.lint(CHART, values, strict=True, kube_version="v1.30.0")
            self.assertEqual([], report["errors"])
            # An icon is recommended, which is level 1.
            self.assertEqual([], [each for each in report["messages"] if each["severity"] > 1])

    def test_resources_have_only_fields_that_kubernetes_knows(self) -> None:
        """Each resource is one, with no field that Kubernetes does not know."""
        for values in ({}, VALUES):
            for kind, resource in self.render(values).items():
                with self.subTest(kind=kind):
                    kubernetes_validate.validate(resource, "1.30", strict=True)

    def test_defaults_are_the_manifest_for_one_registry(self) -> None:
        """The defaults render the manifest for one registry, and nothing else."""
        manifest = {each["kind"]: each for each in yaml.safe_load_all(SINGLE.read_text("utf-8"))}
        del manifest["Namespace"]  # helm makes it
        rendered = self.render({})
        for found in (manifest, rendered):
            data = found["ConfigMap"]["data"]
            data["nixery.yaml"] = yaml.safe_load(data["nixery.yaml"])
        (container,) = rendered["Deployment"]["spec"]["template"]["spec"]["containers"]
        self.assertEqual("IfNotPresent", container.pop("imagePullPolicy"))
        self.assertEqual(plain(manifest), plain(rendered))

    def test_service_and_deployment_select_the_pods_of_their_release(self) -> None:
        """The service and the deployment select the pods of their release, and no others."""
        selectors = []
        for name in ("nixery", "other"):
            found = self.render({}, name)
            labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
            self.assertEqual(labels, found["Service"]["spec"]["selector"])
            self.assertEqual(labels, found["Deployment"]["spec"]["selector"]["matchLabels"])
            (path,) = found["Ingress"]["spec"]["rules"][0]["http"]["paths"]
            service = found["Service"]["metadata"]["name"]
            self.assertEqual(service, path["backend"]["service"]["name"])
            selectors.append(labels)
        self.assertNotEqual(*selectors)

    def test_values_reach_the_resources_and_the_registry(self) -> None:
        """Values reach the resources, and make a configuration that the registry accepts."""
        found = self.render(VALUES)
        self.assertNotIn("PersistentVolumeClaim", found)
        template = found["Deployment"]["spec"]["template"]
        # Prometheus would get a 401: an annotation holds no password.
        self.assertNotIn("prometheus.io/scrape", template["metadata"]["annotations"])
        pod = template["spec"]
        (container,) = pod["containers"]
        self.assertEqual("images.example.org/tools/nixery:2", container["image"])
        for name in ("imagePullSecrets", "nodeSelector", "tolerations"):
            self.assertEqual(VALUES[name], pod[name])
        volumes = {each["name"]: each for each in pod["volumes"]}
        self.assertEqual({each["name"] for each in container["volumeMounts"]}, volumes.keys())
        self.assertEqual({"claimName": "disk"}, volumes["data"]["persistentVolumeClaim"])
        self.assertEqual({"secretName": "users"}, volumes["users"]["secret"])
        ingress = found["Ingress"]
        self.assertNotIn("cert-manager.io/cluster-issuer", ingress["metadata"]["annotations"])
        self.assertEqual("nginx", ingress["spec"]["ingressClassName"])
        with tempfile.TemporaryDirectory() as directory:
            users = Path(directory) / "htpasswd"
            users.write_text("alice:$2y$05$pwIF3Nx7SIo0QKcO2U9ZUuYzT2sy0iZGhMEXGw8fF.xYQUSYcp1hO\n")
            file = Path(directory) / "nixery.yaml"
            text = found["ConfigMap"]["data"]["nixery.yaml"]
            mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
            self.assertIn(f"htpasswd_file: {mounts['users']}/htpasswd\n", text)
            file.write_text(text.replace(mounts["users"], directory), "utf-8")
            config = load_config(
                {"config": str(file)},
                {"STATE_DIRECTORY": directory, "CACHE_DIRECTORY": directory},
            )
        self.assertEqual("token", config.access.auth)
        self.assertEqual("https://images.example.org", config.http.public_url)

    def test_documented_values_are_accepted(self) -> None:
        """The values in the documentation are accepted, and reach the registry."""
        (block,) = [
            block
            for block in sections("running/container.md")["In Kubernetes"]
            if block.language == "yaml"
        ]
        values = yaml.safe_load(block.text)
        found = self.render(values)
        configuration = yaml.safe_load(found["ConfigMap"]["data"]["nixery.yaml"])
        self.assertLessEqual(values["config"].items(), configuration.items())

    def test_changed_configuration_needs_a_new_pod(self) -> None:
        """A changed configuration changes the pod, which reads it only when it starts."""
        name = "checksum/configuration"
        found = [
            self.render(values)["Deployment"]["spec"]["template"]["metadata"]["annotations"][name]
            for values in ({}, {"config": {"log_format": "text"}}, {})
        ]
        self.assertEqual(found[0], found[2])
        self.assertNotEqual(found[0], found[1])

    def test_misspelt_values_are_refused(self) -> None:
        """A value that the chart does not know is refused, and the message names it."""
        for values, name in (
            ({"hots": "x"}, "hots"),
            ({"persistence": {"sise": "1Gi"}}, "sise"),
            ({"host": "https://x"}, "/host"),
        ):
            with self.assertRaises(helm_python.HelmValuesError) as caught:
                self.render(values)
            self.assertIn(name, str(caught.exception))

    def test_notes_say_how_to_pull(self) -> None:
        """The notes after an installation say how to pull, and whether to log in."""
        for values, login in (({}, False), ({"htpasswdSecret": "users"}, True)):
            with helm_python.Chart.load(CHART) as chart:
                rendered = chart.render({"host": "images.example.org", **values}, name="nixery")
            notes = rendered["nixery/templates/NOTES.txt"]
            self.assertIn("docker pull images.example.org/shell/git/htop\n", notes)
            self.assertEqual(login, "docker login images.example.org" in notes)

    def test_version_is_the_registry_s(self) -> None:
        """The version of the application is the registry's."""
        metadata = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
        self.assertEqual(VERSION, metadata["appVersion"])
