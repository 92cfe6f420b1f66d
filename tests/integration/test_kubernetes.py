"""
The manifests for Kubernetes, against Kubernetes' own schemas.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from twisted.trial.unittest import SynchronousTestCase

from nixery.config.load import load_config
from tests.support.documentation import DOCUMENTATION, sections

CHECKOUT = Path(__file__).resolve().parents[2]
MANIFESTS = CHECKOUT / "nix" / "kubernetes"
DOCKERFILE = CHECKOUT / "nix" / "container" / "Dockerfile"


REGISTRIES = ("registry.yaml", "single.yaml")
"""The files with registries."""


class KubernetesTests(SynchronousTestCase):
    """Tests of the Kubernetes manifests that a user applies."""

    def resources(self, name: str) -> dict[str, dict[str, Any]]:
        """The resources of a file, by kind."""
        documents = yaml.safe_load_all((MANIFESTS / name).read_text("utf-8"))
        return {each["kind"]: each for each in documents}

    def test_resources_have_only_fields_that_kubernetes_knows(self) -> None:
        """Each resource is one, with no field that Kubernetes does not know."""
        for path in sorted(MANIFESTS.glob("*.yaml")):
            for kind, resource in self.resources(path.name).items():
                with self.subTest(file=path.name, kind=kind):
                    kubernetes_validate.validate(resource, "1.30", strict=True)
        with self.assertRaises(kubernetes_validate.ValidationError):
            broken = self.resources("registry.yaml")["Deployment"]
            broken["spec"]["replicas"] = "three"
            kubernetes_validate.validate(broken, "1.30", strict=True)

    def test_resources_in_the_documentation_have_only_fields_that_kubernetes_knows(self) -> None:
        """Each resource of Kubernetes that a page shows has only fields that Kubernetes knows."""
        checked = []
        for path in sorted(DOCUMENTATION.rglob("*.md")):
            page = path.relative_to(DOCUMENTATION).as_posix()
            for blocks in sections(page).values():
                for block in blocks:
                    shown = yaml.safe_load(block.text) if block.language == "yaml" else None
                    # A resource of another project has a schema of its own.
                    if not isinstance(shown, dict) or shown.get("apiVersion") != "v1":
                        continue
                    kubernetes_validate.validate(shown, "1.30", strict=True)
                    checked.append(page)
        self.assertIn("running/kubernetes.md", checked)

    def test_services_and_probes_match_pods_and_ports(self) -> None:
        """Each service selects the pods, whose probes ask the right port."""
        for name in REGISTRIES:
            found = self.resources(name)
            pod = found["Deployment"]["spec"]["template"]
            (container,) = pod["spec"]["containers"]
            labels = pod["metadata"]["labels"]
            self.assertEqual(found["Service"]["spec"]["selector"], labels)
            self.assertEqual(found["Deployment"]["spec"]["selector"]["matchLabels"], labels)
            (port,) = container["ports"]
            for probe in ("livenessProbe", "readinessProbe"):
                self.assertEqual(container[probe]["httpGet"]["port"], port["name"])
            self.assertEqual(found["Service"]["spec"]["ports"][0]["targetPort"], port["name"])
            volumes = {each["name"] for each in pod["spec"]["volumes"]}
            self.assertEqual({each["name"] for each in container["volumeMounts"]}, volumes)

    def test_replicas_have_a_budget_and_an_account(self) -> None:
        """The replicas on a bucket have a disruption budget, and the account that may use it."""
        found = self.resources("registry.yaml")
        pod = found["Deployment"]["spec"]["template"]
        labels = pod["metadata"]["labels"]
        self.assertEqual(found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"], labels)
        self.assertEqual(
            pod["spec"]["serviceAccountName"], found["ServiceAccount"]["metadata"]["name"]
        )

    def test_single_registry_keeps_its_state_on_one_volume_behind_tls(self) -> None:
        """The single registry keeps all on one volume, which two pods never share, behind TLS."""
        found = self.resources("single.yaml")
        deployment = found["Deployment"]["spec"]
        self.assertEqual(
            (1, {"type": "Recreate"}), (deployment["replicas"], deployment["strategy"])
        )
        pod = deployment["template"]["spec"]
        claims = [
            each["persistentVolumeClaim"]
            for each in pod["volumes"]
            if len(each) == 2 and "persistentVolumeClaim" in each
        ]
        self.assertEqual(
            [{"claimName": found["PersistentVolumeClaim"]["metadata"]["name"]}], claims
        )
        mounts = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "data"]
        self.assertEqual(3, len({each["subPath"] for each in mounts}))
        ingress = found["Ingress"]["spec"]
        (rule,) = ingress["rules"]
        self.assertEqual([rule["host"]], ingress["tls"][0]["hosts"])
        (path,) = rule["http"]["paths"]
        service = path["backend"]["service"]
        self.assertEqual(found["Service"]["metadata"]["name"], service["name"])
        self.assertEqual(found["Service"]["spec"]["ports"][0]["name"], service["port"]["name"])
        public_url = yaml.safe_load(found["ConfigMap"]["data"]["nixery.yaml"])["public_url"]
        self.assertEqual(f"https://{rule['host']}", public_url)

    def test_fits_the_image(self) -> None:
        """The pods run as the user, and have the directories, that the Dockerfile names."""
        dockerfile = DOCKERFILE.read_text("utf-8")
        for name in REGISTRIES:
            pod = self.resources(name)["Deployment"]["spec"]["template"]["spec"]
            user = pod["securityContext"]["runAsUser"]
            self.assertIn(f"USER {user}:{pod['securityContext']['fsGroup']}\n", dockerfile)
            mounts = [each["mountPath"] for each in pod["containers"][0]["volumeMounts"]]
            for directory in ("/nix", "/var/lib/nixery", "/var/cache/nixery"):
                self.assertIn(directory, mounts)
                self.assertIn(f'"{directory}"', dockerfile)

    def test_registry_takes_the_configuration_and_the_options_that_it_is_given(self) -> None:
        """The registry takes the configuration and the options that it is given."""
        for name in REGISTRIES:
            found = self.resources(name)
            (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
            (text,) = found["ConfigMap"]["data"].values()
            with tempfile.TemporaryDirectory() as directory:
                file = Path(directory) / "nixery.yaml"
                file.write_text(text, "utf-8")
                options = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
                self.assertEqual(options.keys(), {"--config", "--port"})
                config = load_config(
                    {"config": str(file), "port": options["--port"]},
                    {"STATE_DIRECTORY": directory, "CACHE_DIRECTORY": directory},
                )
            port = container["ports"][0]["containerPort"]
            self.assertEqual(config.http.listen, (f"tcp:{port}",))
            bucket = "example-bucket" if name == "registry.yaml" else None
            self.assertEqual(config.gcs.gcs_bucket, bucket)

    def test_secret_is_docker_configuration_for_registry_that_pod_pulls_from(self) -> None:
        """The secret is a Docker configuration for the registry that the pod pulls from."""
        found = self.resources("pull.yaml")
        auths = json.loads(found["Secret"]["stringData"][".dockerconfigjson"])["auths"]
        ((host, entry),) = auths.items()
        self.assertEqual(base64.b64decode(entry["auth"]), b"alice:secret")
        pod = found["Pod"]["spec"]
        self.assertTrue(pod["containers"][0]["image"].startswith(f"{host}/"))
        self.assertEqual(pod["imagePullSecrets"], [{"name": found["Secret"]["metadata"]["name"]}])
