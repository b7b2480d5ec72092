"""Drives an engine with docker-py and testcontainers, as tests and tools in Python do. DOCKER_HOST names the engine."""

import os
import time
from urllib.request import urlopen

import docker
from docker.errors import APIError, NotFound
from docker.types import Healthcheck, Ulimit

client = docker.DockerClient(base_url=os.environ["DOCKER_HOST"], timeout=120)


def eventually(what, look, limit=90):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited for {what}")


def refused(status, call, *words, **named):
    try:
        call(*words, **named)
    except APIError as error:
        assert error.status_code == status, error
        return error.explanation
    raise AssertionError("it was not refused")


def system():
    assert client.ping()
    assert client.version()["ApiVersion"]
    info = client.info()
    for name in ["ServerVersion", "OperatingSystem", "MemTotal", "NCPU", "Driver", "Swarm", "Runtimes", "Name", "ID"]:
        assert name in info, name


def life():
    assert client.containers.run("busybox", ["echo", "hi"], remove=True, network_mode="none") == b"hi\n"
    box = client.containers.create(
        "busybox", ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"],
        name="py-life", labels={"suite": "docker-py"}, environment={"A": "b"}, network_mode="none",
        mem_limit="64m", ulimits=[Ulimit(name="nofile", soft=100, hard=200)], init=True, shm_size="8m",
        ipc_mode="shareable", group_add=["1234"],
    )
    assert box.status == "created"
    box.start()
    box.reload()
    assert box.status == "running"
    assert box.attrs["HostConfig"]["Memory"] == 64 << 20
    assert box.attrs["HostConfig"]["MemorySwap"] == 128 << 20
    code, said = box.exec_run(["sh", "-c", "echo $A; ulimit -n; cat /proc/1/comm; id -G"])
    assert code == 0 and said.split() == [b"b", b"100", b"docker-init", b"0", b"1234"], said
    assert box.exec_run("id -u", user="1000").output == b"1000\n"
    assert box.exec_run("pwd", workdir="/tmp").output == b"/tmp\n"
    stats = box.stats(stream=False)
    assert stats["memory_stats"]["limit"] == 64 << 20, stats["memory_stats"]
    assert stats["cpu_stats"]["cpu_usage"]["total_usage"] >= stats["precpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert stats["pids_stats"]["current"] >= 2
    first, second = (lambda flow: (next(flow), next(flow)))(box.stats(stream=True, decode=True))
    assert first["read"] < second["read"]
    assert box.top()["Titles"][1] == "PID"
    assert box.top(ps_args="-o pid,comm")["Titles"] == ["PID", "COMMAND"]
    box.update(mem_limit="32m", memswap_limit="64m")
    box.reload()
    assert box.attrs["HostConfig"]["Memory"] == 32 << 20
    assert box.stats(stream=False)["memory_stats"]["limit"] == 32 << 20
    box.rename("py-renamed")
    assert [one.name for one in client.containers.list(filters={"name": "^/py-re.*d$"})] == ["py-renamed"]
    box.pause()
    box.unpause()
    box.stop(timeout=20)
    assert box.wait()["StatusCode"] == 7
    assert client.containers.list(all=True, filters={"exited": 7, "label": "suite=docker-py"})
    box.restart()
    box.kill()
    box.wait(condition="not-running")
    box.remove(v=True)
    try:
        client.containers.get("py-renamed")
    except NotFound:
        pass
    else:
        raise AssertionError("still there")


def health():
    check = Healthcheck(test=["CMD-SHELL", "echo looked; test -e /tmp/ok"], interval=200_000_000, retries=2)
    box = client.containers.run("busybox", ["sleep", "1000"], detach=True, healthcheck=check, network_mode="none")

    def state():
        box.reload()
        return box.attrs["State"]["Health"]

    eventually("unhealthy", lambda: state()["Status"] == "unhealthy")
    assert state()["Log"][-1]["Output"] == "looked\n"
    box.exec_run("touch /tmp/ok")
    eventually("healthy", lambda: state()["Status"] == "healthy")
    assert "(healthy)" in client.api.containers(filters={"health": "healthy"})[0]["Status"]
    box.remove(force=True)


def events():
    since = time.time() - 1
    box = client.containers.run("busybox", ["true"], detach=True, network_mode="none", labels={"ev": "1"})
    box.wait()
    box.remove()
    seen = client.events(since=since, until=time.time() + 1, filters={"label": "ev=1"}, decode=True)
    actions = [event["Action"] for event in seen]
    assert actions == ["create", "start", "die", "destroy"], actions


def refusals():
    create = client.containers.create
    assert "6MB" in refused(400, create, "busybox", mem_limit="1m")
    assert "range of CPUs" in refused(400, create, "busybox", nano_cpus=10**15)
    assert "Requested CPUs" in refused(400, create, "busybox", cpuset_cpus="4000")
    assert "unknown or invalid runtime" in refused(400, create, "busybox", runtime="nope")
    assert "AutoRemove" in refused(400, create, "busybox", auto_remove=True, restart_policy={"Name": "always"})
    assert "invalid IPC mode" in refused(400, create, "busybox", ipc_mode="sometimes")
    assert "No such image" in refused(404, create, "no-such-image:none")


def testcontainers():
    # Its reaper is an image of Docker Hub; nothing here needs one.
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network
    from testcontainers.core.wait_strategies import HttpWaitStrategy, LogMessageWaitStrategy

    serve = "mkdir /www; echo served > /www/index.html; echo ready to serve; exec httpd -f -p 80 -h /www"
    with Network() as network:
        store = DockerContainer("busybox").with_network(network).with_network_aliases("store")
        store = store.with_command(["sh", "-c", serve]).with_exposed_ports(80)
        with store.waiting_for(LogMessageWaitStrategy("ready to serve")):
            HttpWaitStrategy(80, "/").wait_until_ready(store)
            url = f"http://{store.get_container_host_ip()}:{store.get_exposed_port(80)}/"
            assert urlopen(url, timeout=30).read() == b"served\n"
            assert store.exec("hostname").exit_code == 0
            # It stays: the strategy looks at the logs first and then whether it has ended.
            ask = ["sh", "-c", "wget -qO- http://store/; exec sleep 600"]
            asker = DockerContainer("busybox").with_network(network).with_command(ask)
            with asker.waiting_for(LogMessageWaitStrategy("served")):
                assert asker.get_logs()[0] == b"served\n"


for part in [system, life, health, events, refusals, testcontainers]:
    part()
    print(part.__name__, "ok", flush=True)
client.close()
