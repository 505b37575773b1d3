"""deploy/kubernetes: valid for the API server, and its parts fit one another and the binary."""

import re
import tomllib

import kubernetes_validate
import pytest
from conftest import drain_seconds, port, read, read_yaml

MANIFEST = "deploy/kubernetes/drawbridge.yaml"
CONFIGURATION = "/etc/drawbridge/drawbridge.toml"
# Oldest and newest release of Kubernetes that it is checked against.
VERSIONS = ["1.29", "1.37"]


@pytest.fixture(scope="module")
def objects():
    return {document["kind"]: document for document in read_yaml(MANIFEST)}


@pytest.fixture(scope="module")
def pod(objects):
    return objects["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (only,) = pod["containers"]
    return only


@pytest.fixture(scope="module")
def configuration(objects):
    return objects["ConfigMap"]["data"]["drawbridge.toml"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_follows_the_schema(objects, version):
    assert set(objects) == {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget"}
    for document in objects.values():
        kubernetes_validate.validate(document, version, strict=True)


def secret_keys():
    """What the `kubectl create secret` at the top of the file and in the guide puts into the environment."""
    found = [set(re.findall(r"--from-literal=(\w+)=", read(path))) for path in (MANIFEST, "docs/install.md")]
    assert found[0] == found[1] and found[0]
    return found[0]


def test_a_node_starts_with_the_config_map_and_the_variables(container, configuration, check_config):
    variables = {name: "0123456789abcdef0123456789abcdef" for name in secret_keys()}
    variables |= {variable["name"]: "drawbridge-7d9f8b6c5d-x2x4z" for variable in container["env"]}
    check_config(configuration, env=variables)


def test_the_node_reads_the_mounted_file(pod, container):
    assert container["args"] == ["serve", "--config", CONFIGURATION]
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert f"{mount['mountPath']}/drawbridge.toml" == CONFIGURATION
    assert mount["name"] == volume["name"] and volume["configMap"]["name"] == "drawbridge"


def test_no_secret_is_in_the_manifest(objects, configuration):
    assert "Secret" not in objects
    keys = tomllib.loads(configuration)
    assert "auth" not in keys and "password" not in keys["broker"] and "@" not in keys["broker"]["url"]


def test_probes_are_of_the_documented_pages_on_the_players_port(container, configuration):
    (players,) = container["ports"]
    assert players["containerPort"] == port(configuration)
    pages = {}
    for probe in ("readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] == players["name"]
        pages[probe] = asked["path"]
    assert pages == {"readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    for page in pages.values():
        assert f"`{page}`" in read("docs/operations.md")


def test_the_service_sends_players_to_the_pods(objects, container):
    service, deployment = objects["Service"]["spec"], objects["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert [port["targetPort"] for port in service["ports"]] == [container["ports"][0]["name"]]
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_kubernetes_waits_for_a_drain(pod, configuration):
    assert pod["terminationGracePeriodSeconds"] > drain_seconds(configuration)


def test_a_rollout_and_an_emptied_machine_leave_a_node_serving(objects):
    deployment = objects["Deployment"]["spec"]
    assert deployment["replicas"] > objects["PodDisruptionBudget"]["spec"]["maxUnavailable"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_image_is_the_released_one_of_this_version(container):
    release, manifest = read(".github/workflows/release.yml"), read("Cargo.toml")
    version = re.search(r'^version = "(.+)"', manifest, flags=re.MULTILINE)[1]
    repository = re.search(r'^repository = "https://github.com/(.+)"', manifest, flags=re.MULTILINE)[1]
    assert "IMAGE: ghcr.io/${{ github.repository }}" in release
    assert container["image"] == f"ghcr.io/{repository}:{version}"


def test_the_container_is_confined(pod, container):
    user = re.search(r"^USER (\d+):(\d+)$", read("Dockerfile"), flags=re.MULTILINE)
    assert (str(pod["securityContext"]["runAsUser"]), str(pod["securityContext"]["runAsGroup"])) == user.groups()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
