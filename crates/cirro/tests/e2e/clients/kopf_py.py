"""Runs an operator made with kopf against the cloud that KUBECONFIG names.

Run as a script it makes the kind, starts itself a second time as the operator (`kopf run`), and drives it.
"""

import os
import subprocess
import sys
import time

import kopf
import kubernetes.client
import kubernetes.config

GROUP, VERSION, PLURAL = "test.cirro.dev", "v1", "widgets"
PLACE = (GROUP, VERSION, "default", PLURAL)
FINALIZER = "kopf.zalando.org/KopfFinalizerMarker"


# What the operator does; `kopf run` imports this file.
@kopf.on.startup()
def start(settings, **_):
    kubernetes.config.load_kube_config(os.environ["KUBECONFIG"])
    settings.posting.loggers = True
    settings.peering.standalone = True


@kopf.on.create(GROUP, VERSION, PLURAL)
@kopf.on.update(GROUP, VERSION, PLURAL, field="spec.size")
def made(spec, name, namespace, patch, retry, **_):
    if spec.get("stubborn") and not retry:
        raise kopf.TemporaryError("not at the first try", delay=0.2)
    api = kubernetes.client.CoreV1Api()
    body = {"metadata": {"name": name}, "data": {"size": str(spec["size"])}}
    kopf.adopt(body)
    try:
        api.create_namespaced_config_map(namespace, body)
    except kubernetes.client.ApiException as error:
        if error.status != 409:
            raise
        api.patch_namespaced_config_map(name, namespace, {"data": body["data"]})
    patch.status["size"] = spec["size"]
    return {"tries": retry + 1}


@kopf.on.resume(GROUP, VERSION, PLURAL)
def seen_again(patch, **_):
    patch.status["resumed"] = True


@kopf.on.field(GROUP, VERSION, PLURAL, field="metadata.labels.color")
def painted(new, patch, **_):
    patch.status["color"] = new


@kopf.on.event("configmaps", labels={"watched": "yes"})
def happened(event, name, namespace, **_):
    if event["type"] == "MODIFIED" and "echo" not in event["object"]["data"]:
        kubernetes.client.CoreV1Api().patch_namespaced_config_map(
            name, namespace, {"data": {"echo": event["object"]["data"]["say"]}})


@kopf.timer(GROUP, VERSION, PLURAL, interval=2, initial_delay=0.1)
def tick(status, patch, **_):
    patch.status["ticks"] = min(status.get("ticks", 0) + 1, 2)


@kopf.daemon(GROUP, VERSION, PLURAL, cancellation_timeout=5)
async def lives(stopped, name, namespace, **_):
    leave(namespace, f"{name}-lives")
    while not stopped:
        await stopped.wait(0.5)
    leave(namespace, f"{name}-lived")


@kopf.on.delete(GROUP, VERSION, PLURAL)
def unmade(name, namespace, **_):
    leave(namespace, f"{name}-gone")


def leave(namespace, name):
    """Leaves an empty map as a word for who drives the operator."""
    try:
        kubernetes.client.CoreV1Api().create_namespaced_config_map(namespace, {"metadata": {"name": name}})
    except kubernetes.client.ApiException as error:
        if error.status != 409:
            raise


# What drives it.
def eventually(what, look, limit=60):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            found = look()
        except kubernetes.client.ApiException as error:
            if error.status != 404:
                raise
            found = None
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited for {what}")


def define():
    schema = {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 0}, "stubborn": {"type": "boolean", "default": False}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    names = {"plural": PLURAL, "singular": "widget", "kind": "Widget"}
    version = {"name": VERSION, "served": True, "storage": True, "subresources": {"status": {}},
               "schema": {"openAPIV3Schema": schema}}
    kubernetes.client.ApiextensionsV1Api().create_custom_resource_definition({
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]}})


def operator():
    words = [sys.executable, "-m", "kopf", "run", "--standalone", "--namespace=default", __file__]
    return subprocess.Popen(words)


def drive():
    kubernetes.config.load_kube_config(os.environ["KUBECONFIG"])
    core, custom = kubernetes.client.CoreV1Api(), kubernetes.client.CustomObjectsApi()
    define()
    eventually("the kind", lambda: custom.list_namespaced_custom_object(*PLACE) is not None)

    def make(name, **spec):
        custom.create_namespaced_custom_object(*PLACE, {
            "apiVersion": f"{GROUP}/{VERSION}", "kind": "Widget", "metadata": {"name": name}, "spec": spec})

    def widget(name):
        return custom.get_namespaced_custom_object(*PLACE, name)

    def status(name):
        return widget(name).get("status", {})

    def size_of(name):
        return core.read_namespaced_config_map(name, "default").data["size"]

    def created():
        make("one", size=1)
        eventually("the map", lambda: size_of("one") == "1")
        eventually("the status", lambda: status("one").get("size") == 1)
        assert FINALIZER in widget("one")["metadata"]["finalizers"], widget("one")
        owner = core.read_namespaced_config_map("one", "default").metadata.owner_references[0]
        assert (owner.kind, owner.name) == ("Widget", "one"), owner

    def updated():
        custom.patch_namespaced_custom_object(*PLACE, "one", {"spec": {"size": 2}})
        eventually("the change", lambda: size_of("one") == "2")
        custom.patch_namespaced_custom_object(*PLACE, "one", {"metadata": {"labels": {"color": "red"}}})
        eventually("the color", lambda: status("one").get("color") == "red")

    def retried():
        make("two", size=5, stubborn=True)
        eventually("the second try", lambda: status("two").get("made") == {"tries": 2})

    def ticking():
        eventually("the timer", lambda: status("one").get("ticks") == 2)
        eventually("the daemon", lambda: core.read_namespaced_config_map("one-lives", "default"))

    def events():
        core.create_namespaced_config_map(
            "default", {"metadata": {"name": "talk", "labels": {"watched": "yes"}}, "data": {"say": "", "echo": ""}})
        core.patch_namespaced_config_map("talk", "default", {"data": {"say": "hello", "echo": None}})
        eventually("the echo", lambda: core.read_namespaced_config_map("talk", "default").data.get("echo") == "hello")
        posted = lambda: [one for one in core.list_namespaced_event(
            "default", field_selector="involvedObject.kind=Widget,involvedObject.name=two").items
            if "succeeded" in one.message]
        eventually("its events", posted)

    def deleted():
        custom.delete_namespaced_custom_object(*PLACE, "one")
        eventually("the last word", lambda: core.read_namespaced_config_map("one-gone", "default"))
        eventually("the daemon's end", lambda: core.read_namespaced_config_map("one-lived", "default"))
        names = lambda kind: [one["metadata"]["name"] for one in kind["items"]]
        eventually("the end", lambda: "one" not in names(custom.list_namespaced_custom_object(*PLACE)))
        maps = lambda: [one.metadata.name for one in core.list_namespaced_config_map("default").items]
        eventually("the end of what it owned", lambda: "one" not in maps())

    def resumed():
        make("four", size=4)
        eventually("what waited", lambda: size_of("four") == "4")
        eventually("what is seen again", lambda: status("two").get("resumed"))
        for name in ["two", "four"]:
            custom.delete_namespaced_custom_object(*PLACE, name)
        eventually("the end of all", lambda: not custom.list_namespaced_custom_object(*PLACE)["items"])

    for parts in [created, updated, retried, ticking, events, deleted], [resumed]:
        running = operator()
        try:
            for part in parts:
                part()
                print(part.__name__, "ok", flush=True)
        finally:
            running.terminate()
            running.wait(60)


if __name__ == "__main__":
    drive()
