#!/usr/bin/env bash
# Drives every verb of the kubectl that KUBECTL names against the cloud of KUBECONFIG, in a namespace of its own (SPACE).
# Prints `PART ok` for each part that holds; the first thing that does not ends it. Needs the image busybox and a
# directory to write in (HOME). STREAMS says how the server can
# carry them if not in every way: `websockets` leaves commands out (kubectl before 1.30).
# FORWARD=yes tries port-forward and ephemeral containers too.
set -euo pipefail
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR

k() { "$KUBECTL" -n "$SPACE" "$@"; }
# The last argument must be in what the rest prints.
says() {
    local wanted="${*: -1}" said
    said="$("${@:1:$#-1}" 2>&1)" || { echo "$said" >&2; return 1; }
    [[ "$said" == *"$wanted"* ]] || { echo "no '$wanted' in: $said" >&2; return 1; }
}
# The command must fail and say the last argument.
refuses() {
    local wanted="${*: -1}" said
    if said="$("${@:1:$#-1}" 2>&1)"; then echo "it succeeded: $said" >&2; return 1; fi
    [[ "$said" == *"$wanted"* ]] || { echo "no '$wanted' in: $said" >&2; return 1; }
}
path() { k get "$1" -o "jsonpath={$2}"; }
part() { "$1"; echo "$1 ok"; }

map() { printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n%s: {a: "%s"}\n' "$@"; }

deployment() {
    cat <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: $1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: busybox
        imagePullPolicy: Never
        command: [sh, -c, "echo started; exec sleep 1000"]
        env: [{name: COLOR, value: $2}]
        ports: [{containerPort: 80}]
        resources: {requests: {cpu: 10m}}
YAML
}

knowing() {
    says "$KUBECTL" version "Server Version"
    says "$KUBECTL" cluster-info "is running at"
    says "$KUBECTL" api-versions "apps/v1"
    says "$KUBECTL" api-resources --namespaced=true --verbs=list -o wide "deployments"
    says "$KUBECTL" explain deployment.spec.strategy.rollingUpdate.maxSurge "maxSurge"
    says "$KUBECTL" explain pods --recursive "topologySpreadConstraints"
    says "$KUBECTL" explain cronjobs.spec --api-version=batch/v1 "schedule"
    refuses "$KUBECTL" explain pod.spec.nothing "does not exist"
    says "$KUBECTL" get --raw /readyz "ok"
}

making() {
    says "$KUBECTL" create namespace "$SPACE" "created"
    says k create configmap cm --from-literal=a=1 "created"
    says k create secret generic secret --from-literal=password=x "created"
    says k create secret docker-registry pull --docker-server=r.example --docker-username=u --docker-password=p "created"
    says k create serviceaccount robot "created"
    says k create role reader --verb=get,list --resource=pods,deployments.apps "created"
    says k create rolebinding reads --role=reader --serviceaccount="$SPACE:robot" "created"
    says k create clusterrole "$SPACE-nodes" --verb=get --resource=nodes --dry-run=server "(server dry run)"
    says k create quota q --hard=pods=50,configmaps=20 "created"
    says k create poddisruptionbudget guard --selector=app=guarded --min-available=1 "created"
    says k create service clusterip plain --tcp=80:8080 "created"
    says k create service externalname far --external-name=example.com "created"
    says k create ingress way --rule="example.com/*=plain:80" "created"
    says k create cronjob nightly --image=busybox --schedule="0 3 * * *" -- true "created"
    says "$KUBECTL" create priorityclass "$SPACE-high" --value=10 --description=d "created"
    says k create deployment other --image=busybox --replicas=0 "created"
    says k create token robot --duration=600s "."
    refuses k create configmap cm "already exists"
    # shellcheck disable=SC2016
    says k run once --image=busybox --image-pull-policy=Never --restart=Never --env=A=b -- sh -c 'echo $A' "created"
    says k run dry --image=busybox --dry-run=client -o yaml "kind: Pod"
}

applying() {
    deployment 1 red >"$HOME/web.yaml"
    says k apply -f "$HOME/web.yaml" "created"
    says k apply -f "$HOME/web.yaml" "unchanged"
    deployment 2 blue >"$HOME/web2.yaml"
    code=0; k diff -f "$HOME/web2.yaml" >"$HOME/diff" || code=$?
    [ "$code" = 1 ] && grep -q '^+.*value: blue' "$HOME/diff"
    says k apply -f "$HOME/web2.yaml" "configured"
    says k apply view-last-applied deployment/web "blue"
    says k apply --server-side --field-manager=side -f - < <(map side data 1) "serverside-applied"
    refuses k apply --server-side --field-manager=other -f - < <(map side data 2) "conflict"
    says k apply --server-side --field-manager=other --force-conflicts -f - < <(map side data 2) "applied"
    refuses k apply -f - < <(map bad dota 1) "dota"
    says k apply --validate=ignore -f - < <(map bad dota 1) "created"
    mkdir -p "$HOME/kust"
    printf 'namePrefix: k-\ncommonLabels: {made: kustomize}\nresources: [cm.yaml]\nconfigMapGenerator: [{name: gen, literals: [x=1]}]\n' >"$HOME/kust/kustomization.yaml"
    printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: base}\ndata: {a: "1"}\n' >"$HOME/kust/cm.yaml"
    says k apply -k "$HOME/kust" "configmap/k-base created"
    says "$KUBECTL" kustomize "$HOME/kust" "name: k-base"
    says k delete -k "$HOME/kust" "deleted"
}

seeing() {
    k rollout status deployment/web --timeout=90s >/dev/null
    says k get deployment web "2/2"
    says k get all "deployment.apps/web"
    says k get deployment,service -o name "service/plain"
    says k get pods -l app=web -o wide --show-labels --sort-by=.metadata.name "Running"
    says k get pods --field-selector=status.phase=Running -o custom-columns=N:.metadata.name "web-"
    says k get cm cm -o yaml "a: \"1\""
    says k get cm --chunk-size=2 "kube-root-ca.crt"
    says k get cm cm -o 'go-template={{.data.a}}' "1"
    says k get cm cm --show-managed-fields -o json "managedFields"
    says k describe deployment web "NewReplicaSet"
    says k describe pod -l app=web "Started container"
    says k describe quota q "configmaps"
    says k describe service plain "ClusterIP"
    says "$KUBECTL" describe node "Allocated resources"
    says k get events "Scheduled"
    says k events --for deployment/web "ScalingReplicaSet"
    says k get pods -A "$SPACE"
    refuses k get nothings "the server doesn't have a resource type"
    refuses k get cm missing 'configmaps "missing" not found'
}

changing() {
    says k label cm cm color=red "labeled"
    says k label cm cm color=blue --overwrite "labeled"
    says k label cm cm color- "unlabeled"
    says k annotate cm cm note=hello "annotate"
    says k patch cm cm -p '{"data":{"b":"2"}}' "patched"
    says k patch cm cm --type=json -p '[{"op":"remove","path":"/data/b"}]' "patched"
    says k patch deployment web --type=merge -p '{"spec":{"minReadySeconds":0}}' "deployment.apps/web patched"
    says k patch deployment web --subresource=status --type=merge -p '{"status":{}}' "patched"
    printf '#!/bin/sh\nsed -i "s/  a: .*/  a: edited/" "$1"\n' >"$HOME/editor"
    chmod +x "$HOME/editor"
    EDITOR="$HOME/editor" KUBE_EDITOR="$HOME/editor" says k edit cm cm "edited"
    [ "$(path cm/cm .data.a)" = edited ]
    k get cm cm -o yaml | sed 's/edited/replaced/' >"$HOME/cm.yaml"
    says k replace -f "$HOME/cm.yaml" "replaced"
    says k replace --force -f "$HOME/cm.yaml" "replaced"
    says k set image deployment/web main=busybox:latest "image updated"
    says k set env deployment/web COLOR=green "env updated"
    says k set env deployment/web --list "COLOR=green"
    says k set resources deployment/web --limits=memory=64Mi "resource requirements updated"
    says k set serviceaccount deployment/web robot "serviceaccount updated"
    says k set selector service/plain app=web "selector updated"
    says k set subject rolebinding reads --user=someone "subjects updated"
    k rollout status deployment/web --timeout=90s >/dev/null
}

rolling() {
    says k rollout history deployment/web "REVISION"
    says k rollout undo deployment/web "rolled back"
    says k rollout pause deployment/web "paused"
    says k rollout resume deployment/web "resumed"
    says k rollout restart deployment/web "restarted"
    k rollout status deployment/web --timeout=90s >/dev/null
    says k scale deployment/web --replicas=3 --current-replicas=2 "scaled"
    k wait --for=jsonpath='{.status.readyReplicas}'=3 deployment/web --timeout=90s >/dev/null
    says k autoscale deployment web --min=1 --max=4 --cpu-percent=80 "autoscaled"
    says k get hpa "Deployment/web"
    says k delete hpa web "deleted"
    says k expose deployment web --port=80 --name=shown --type=NodePort "exposed"
    says k wait --for=condition=Available deployment/web --timeout=60s "condition met"
    says k scale deployment/web --replicas=1 "scaled"
    k wait --for=jsonpath='{.status.replicas}'=1 deployment/web --timeout=90s >/dev/null
}

inside() {
    k wait --for=jsonpath='{.status.phase}'=Succeeded pod/once --timeout=90s >/dev/null
    [ "$(k logs once)" = b ]
    [ "$(k logs deployment/web --tail=1 --timestamps=false)" = started ]
    says k logs -l app=web --prefix "started"
    [ "${STREAMS:-}" != websockets ] || return 0
    [ "$(k exec deploy/web -- echo inside)" = inside ]
    [ "$(echo text | k exec -i deploy/web -- cat)" = text ]
    code=0; k exec deploy/web -- sh -c 'exit 7' 2>/dev/null || code=$?
    [ "$code" = 7 ]
    pod="$(k get pods -l app=web -o name | tail -n 1)"
    echo copied >"$HOME/up"
    k cp "$HOME/up" "$SPACE/${pod#pod/}:/tmp/up" 2>/dev/null
    k cp "$SPACE/${pod#pod/}:/tmp/up" "$HOME/down" >/dev/null 2>&1
    [ "$(cat "$HOME/down")" = copied ]
}

forwarding() {
    k run page --image=busybox --image-pull-policy=Never --restart=Never -- \
        sh -c 'mkdir /www; echo page >/www/index.html; exec httpd -f -p 8080 -h /www' >/dev/null
    k wait --for=condition=Ready pod/page --timeout=90s >/dev/null
    k port-forward pod/page :8080 >"$HOME/forward" & forward=$!
    until grep -q Forwarding "$HOME/forward"; do kill -0 "$forward"; sleep 0.1; done
    port="$(sed -nE 's/.*127.0.0.1:([0-9]+) .*/\1/p' "$HOME/forward" | head -n 1)"
    [ "$(curl -sS "http://127.0.0.1:$port/")" = page ]
    kill "$forward"
    says k debug page --image=busybox --image-pull-policy=Never -c side -- sleep 100 ""
    [ "$(path pod/page '.spec.ephemeralContainers[0].name')" = side ]
    k delete pod page --now >/dev/null 2>&1
}

asking() {
    [ "$(k auth can-i create pods)" = yes ]
    code=0; said="$(k auth can-i delete pods --as="system:serviceaccount:$SPACE:nobody" 2>/dev/null)" || code=$?
    [ "$said" = no ] && [ "$code" = 1 ]
    [ "$(k auth can-i list pods --as=someone)" = yes ]
    says k auth can-i --list --as=someone "deployments.apps"
    # 1.27 asks for the beta versions only, which 1.33 has no more.
    [[ "$KUBECTL" == *1.27 ]] || says "$KUBECTL" auth whoami "kubernetes-admin"
    says k auth reconcile -f - <<<"apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: made, namespace: $SPACE}
rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]" "reconciled"
    refuses k get secrets --as=someone "forbidden"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$HOME/key" -subj "/CN=$SPACE/O=g" -out "$HOME/csr" 2>/dev/null
    says "$KUBECTL" create -f - <<<"apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: $SPACE}
spec: {signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], request: $(base64 -w0 "$HOME/csr")}" "created"
    says "$KUBECTL" certificate approve "$SPACE" "approved"
    [ -n "$("$KUBECTL" get csr "$SPACE" -o jsonpath='{.status.certificate}')" ]
    says "$KUBECTL" delete csr "$SPACE" "deleted"
}

# A busy pod uses a processor, more or less; the numbers come from its cgroup, whichever version that is.
measuring() {
    k run busy --image=busybox --image-pull-policy=Never --restart=Never -- sh -c 'while :; do :; done' >/dev/null
    k wait --for=condition=Ready pod/busy --timeout=90s >/dev/null
    said="$(k top pods busy --containers --no-headers)"
    [[ "$said" =~ ^busy\ +busy\ +([0-9]+)m\ +([0-9]+)Mi ]] || { echo "$said" >&2; return 1; }
    [ "${BASH_REMATCH[1]}" -gt 0 ]
    says k top pods -l run=busy "busy"
    said="$("$KUBECTL" top nodes --no-headers)"
    [[ "$said" =~ ^[^\ ]+\ +([0-9]+)m\ +[0-9]+%\ +([0-9]+)Mi\ +[0-9]+% ]] || { echo "$said" >&2; return 1; }
    [ "${BASH_REMATCH[1]}" -gt 0 ] && [ "${BASH_REMATCH[2]}" -gt 0 ]
    says k get pods.metrics.k8s.io busy "WINDOW"
    k delete pod busy --now >/dev/null 2>&1
}

nodes() {
    node="$("$KUBECTL" get nodes -o jsonpath='{.items[0].metadata.name}')"
    says "$KUBECTL" get nodes -o wide "Ready"
    says "$KUBECTL" taint nodes "$node" "$SPACE=x:PreferNoSchedule" "tainted"
    says "$KUBECTL" taint nodes "$node" "$SPACE-" "untainted"
    says "$KUBECTL" cordon "$node" "cordoned"
    says "$KUBECTL" drain "$node" --pod-selector="app=web" --ignore-daemonsets --force --delete-emptydir-data --timeout=60s "evict"
    says "$KUBECTL" uncordon "$node" "uncordoned"
    k rollout status deployment/web --timeout=90s >/dev/null
}

ending() {
    says k delete pod once --now "deleted"
    says k delete deployment web --cascade=orphan "deleted"
    [ -n "$(k get replicasets -l app=web -o name)" ]
    says k delete replicasets -l app=web --cascade=foreground --timeout=60s "deleted"
    [ -z "$(k get pods -l app=web -o name)" ]
    says k delete configmap --all "deleted"
    says k delete pod missing --ignore-not-found ""
    says "$KUBECTL" delete priorityclass "$SPACE-high" "deleted"
    says "$KUBECTL" delete namespace "$SPACE" --timeout=90s "deleted"
    refuses "$KUBECTL" get namespace "$SPACE" "not found"
}

parts="knowing making applying seeing changing rolling inside asking measuring nodes ending"
[ "${FORWARD:-}" != yes ] || parts="${parts/asking/forwarding asking}"
for name in $parts; do part "$name"; done
