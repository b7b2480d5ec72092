"""Drives the Kubernetes API with the official Python client and with kr8s. KUBECONFIG names the cloud."""

import os
import time

import kr8s
import kubernetes.client
import kubernetes.config
import kubernetes.watch
from kr8s.objects import ConfigMap, Deployment, Namespace, Pod
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

kubernetes.config.load_kube_config(os.environ["KUBECONFIG"])
core = kubernetes.client.CoreV1Api()
apps = kubernetes.client.AppsV1Api()
kr8s_api = kr8s.api(kubeconfig=os.environ["KUBECONFIG"])


def eventually(what, look, limit=120):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited for {what}")


def refused(status, call, *words, **named):
    try:
        call(*words, **named)
    except ApiException as error:
        assert error.status == status, error
        return error.body
    raise AssertionError("it was not refused")


def discovery():
    assert kubernetes.client.VersionApi().get_code().major == "1"
    groups = {group.name for group in kubernetes.client.ApisApi().get_api_versions().groups}
    assert {"apps", "batch", "rbac.authorization.k8s.io"} <= groups, groups
    names = {one.name for one in core.get_api_resources().resources}
    assert {"pods", "pods/log", "configmaps"} <= names, names


def objects():
    core.create_namespace({"metadata": {"name": "py"}})
    for number in range(7):
        core.create_namespaced_config_map(
            "py", kubernetes.client.V1ConfigMap(
                metadata=kubernetes.client.V1ObjectMeta(name=f"map-{number}", labels={"odd": str(number % 2)}),
                data={"a": "1"}))
    refused(409, core.create_namespaced_config_map, "py", {"metadata": {"name": "map-0"}})
    refused(404, core.read_namespaced_config_map, "none", "py")
    first = core.list_namespaced_config_map("py", limit=3)
    rest = core.list_namespaced_config_map("py", limit=100, _continue=first.metadata._continue)
    names = [one.metadata.name for one in first.items + rest.items if one.metadata.name.startswith("map-")]
    assert names == [f"map-{number}" for number in range(7)], names
    odd = core.list_namespaced_config_map("py", label_selector="odd=1")
    assert [one.metadata.name for one in odd.items] == ["map-1", "map-3", "map-5"]
    one = core.read_namespaced_config_map("map-0", "py")
    one.data["b"] = "2"
    changed = core.replace_namespaced_config_map("map-0", "py", one)
    assert changed.data == {"a": "1", "b": "2"}
    refused(409, core.replace_namespaced_config_map, "map-0", "py", one)
    patched = core.patch_namespaced_config_map("map-0", "py", {"data": {"a": None, "c": "3"}})
    assert patched.data == {"b": "2", "c": "3"}, patched.data
    core.delete_collection_namespaced_config_map("py", label_selector="odd=1")
    left = core.list_namespaced_config_map("py", label_selector="odd")
    assert len(left.items) == 4


def watching():
    begin = core.list_namespaced_config_map("py").metadata.resource_version
    core.create_namespaced_config_map("py", {"metadata": {"name": "seen"}})
    core.patch_namespaced_config_map("seen", "py", {"data": {"a": "1"}})
    core.delete_namespaced_config_map("seen", "py")
    events = []
    for event in kubernetes.watch.Watch().stream(
            core.list_namespaced_config_map, "py", resource_version=begin, timeout_seconds=60):
        events.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            break
    assert events == [("ADDED", "seen"), ("MODIFIED", "seen"), ("DELETED", "seen")], events


def dynamic():
    from kubernetes.dynamic import DynamicClient
    client = DynamicClient(kubernetes.client.ApiClient())
    maps = client.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": "py"}, "data": {"a": "1"}}
    applied = maps.server_side_apply(body=body, name="applied", namespace="py", field_manager="py")
    assert applied.data.a == "1"
    assert applied.metadata.managedFields[0].manager == "py"


def workloads():
    labels = {"app": "py"}
    container = {"name": "main", "image": "busybox", "imagePullPolicy": "Never",
                 "command": ["sh", "-c", "echo started; exec sleep 1000"]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    apps.create_namespaced_deployment("py", {
        "metadata": {"name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}})
    eventually("the deployment", lambda: apps.read_namespaced_deployment_status("web", "py").status.available_replicas)
    pod = core.list_namespaced_pod("py", label_selector="app=py").items[0].metadata.name
    assert core.read_namespaced_pod_log(pod, "py") == "started\n"
    said = stream(core.connect_get_namespaced_pod_exec, pod, "py", command=["sh", "-c", "echo out; echo err >&2"],
                  stderr=True, stdin=False, stdout=True, tty=False)
    assert sorted(said.split()) == ["err", "out"], said
    apps.patch_namespaced_deployment_scale("web", "py", {"spec": {"replicas": 2}})
    eventually("two", lambda: apps.read_namespaced_deployment_status("web", "py").status.available_replicas == 2)


def by_kr8s():
    assert kr8s_api.version()["major"] == "1"
    Namespace({"metadata": {"name": "kr"}}, api=kr8s_api).create()
    one = ConfigMap({"metadata": {"name": "one", "namespace": "kr"}, "data": {"a": "1"}}, api=kr8s_api)
    one.create()
    assert one.exists()
    one.patch({"data": {"b": "2"}})
    one.label({"color": "blue"})
    found = list(kr8s.get("configmaps", namespace="kr", label_selector="color=blue", api=kr8s_api))
    assert [(item.name, item.data["b"]) for item in found] == [("one", "2")]
    assert kr8s_api.whoami() == "kubernetes-admin", kr8s_api.whoami()
    deployment = Deployment.get("web", namespace="py", api=kr8s_api)
    deployment.wait("condition=Available", timeout=60)
    deployment.scale(1)
    eventually("one pod", lambda: len(deployment.pods()) == 1)
    pod = deployment.pods()[0]
    pod.wait("condition=Ready", timeout=60)
    assert "started" in list(pod.logs())
    assert pod.exec(["echo", "hello"]).stdout == b"hello\n"
    one.delete()
    eventually("its end", lambda: not one.exists())


def end():
    for namespace in ["py", "kr"]:
        core.delete_namespace(namespace)
    gone = lambda: not {one.metadata.name for one in core.list_namespace().items} & {"py", "kr"}
    eventually("the namespaces' end", gone)


for part in [discovery, objects, watching, dynamic, workloads, by_kr8s, end]:
    part()
    print(part.__name__, "ok", flush=True)
