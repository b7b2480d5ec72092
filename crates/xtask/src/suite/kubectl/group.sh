# Runs one group of upstream's kubectl scripts, in the directory of their source, and writes what came of it.
#
# Upstream's functions end at the first check that fails. Here the trap that notices it (ERR fires where `errexit` would end the
# shell) writes its place down, and the group goes on.
#
# GROUP is a function of upstream's, or `inline` for the checks that stand between the groups; RESULTS is written:
#     fail PLACE COMMAND
#     passed NUMBER
export LANG=C TERM=dumb ALLOW_SKEW=y
HOME=$TMPDIR/home
KUBE_TEMP=$TMPDIR/kube
mkdir -p "$HOME" "$KUBE_TEMP"
source hack/lib/init.sh
source hack/lib/test.sh
source "$PWD/test/cmd/legacy-script.sh"
set +o errexit +o nounset
set -o errtrace

passed=0
depth=0
# $1: its name, then its arguments.
counted() {
    local name=$1 status
    shift
    depth=$((depth + 1))
    if "upstreams-$name" "$@"; then status=0; else status=1; fi
    depth=$((depth - 1))
    if ((status == 0 && depth == 0)); then passed=$((passed + 1)); fi
    return "$status"
}
for name in $(declare -F | awk '$3 ~ /^kube::test::(.*_assert|if_.*_string|if_sort_by_has_correct_order)$/ {print $3}') check-curl-proxy-code; do
    [[ $name == kube::test::object_assert ]] && continue
    text=$(declare -f "$name")
    eval "upstreams-${text}"
    eval "$name() { counted $name \"\$@\"; }"
done

note() {
    [[ -z ${quiet-} ]] || return 0
    local file=${BASH_SOURCE[1]}
    [[ $file == */test/cmd/* ]] || return 0
    # Its functions are upstream's own tools, but for what stands between the groups.
    [[ ${file##*/} != legacy-script.sh || $GROUP == inline ]] || return 0
    local command=${2//$'\n'/ }
    echo "fail ${file##*/}:$1 ${command:0:200}" >> "$RESULTS"
    echo "=== FAILED ${file##*/}:$1"
}
trap '((BASH_SUBSHELL > 0)) || note "$LINENO" "$BASH_COMMAND"' ERR

# What says that a check failed by ending the shell.
exit() { return "${1:-1}"; }

record_command() { [[ $GROUP == inline ]] || finish "$1"; }
[[ $GROUP != inline ]] || run_recursive_resources_tests() { :; }

finish() {
    # shellcheck disable=SC2086
    if [[ $GROUP != inline ]]; then
        create_and_use_new_namespace
        $GROUP
    fi
    trap - ERR
    echo "passed $passed" >> "$RESULTS"
    stop-proxy
    kill $(jobs -p) 2> /dev/null
    builtin exit 0
}

kube::util::ensure-gnu-sed
CONTEXT=test
kubectl config set-credentials test-admin --token "$ADMIN_TOKEN"
kubectl config set-cluster local --insecure-skip-tls-verify --server "https://127.0.0.1:$SECURE_API_PORT"
kubectl config set-context "$CONTEXT" --user test-admin --cluster local
kubectl config use-context "$CONTEXT"
kubectl create -f - <<< '{"kind": "Node", "apiVersion": "v1", "metadata": {"name": "127.0.0.1"}, "status": {"capacity": {"memory": "1Gi"}}}'
export SUPPORTED_RESOURCES=("*")
cleanup_tests() { :; }
[[ $GROUP == inline ]] || WHAT=one
runTests
finish
