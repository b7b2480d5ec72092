"""Installs a chart by Helm's own library. KUBECONFIG names the cloud, the argument the chart."""

import os
import sys

from helm_python import Config, HelmError

chart = sys.argv[1]
helm = Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace="shop")


def summary(releases):
    return [(one["name"], one["revision"], one["status"]) for one in releases]


def install():
    helm.check_reachable()
    first = helm.install(chart, "one", {"replicas": 2}, create_namespace=True, wait="watcher", timeout=120)
    assert first["status"] == "deployed" and first["revision"] == 1, first
    try:
        helm.install(chart, "one")
    except HelmError as error:
        assert "reuse a name" in str(error), error
    else:
        raise AssertionError("it was installed twice")
    assert summary(helm.list()) == [("one", 1, "deployed")], helm.list()
    assert helm.get_values("one") == {"replicas": 2}


def upgrade():
    second = helm.upgrade(chart, "one", {"color": "blue"}, reuse_values=True, wait="watcher", timeout=120)
    assert second["revision"] == 2, second
    assert helm.get_values("one") == {"replicas": 2, "color": "blue"}
    helm.rollback("one", version=1, wait="watcher", timeout=120)
    assert [one["revision"] for one in helm.history("one")] == [1, 2, 3], helm.history("one")
    assert helm.get_values("one") == {"replicas": 2}


def test():
    helm.test("one", timeout=120)


def uninstall():
    helm.uninstall("one", wait="watcher", timeout=120)
    assert helm.list(all_states=True) == []


for part in [install, upgrade, test, uninstall]:
    part()
    print(part.__name__, "ok", flush=True)
